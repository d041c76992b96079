"""A span of a reduced trace where something has stopped: what is run of it from there on."""

from __future__ import annotations

from bisect import bisect_right
from importlib import import_module
from typing import TYPE_CHECKING

import attrs

from hvmmu.guest import tokens
from hvmmu.guest.steps import Accesses, Reduced, Rest
from hvmmu.guest.tokens import SETS, SPAN_WINDOWS, WINDOW, Columns, DamagedError, Sites, Window
from hvmmu.hw.compiled import CompiledEngine

compiled: ModuleType | None = None
if not CompiledEngine.why_not:
    compiled = import_module("hvmmu.guest.compiled")

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from types import ModuleType

    from hvmmu.guest.steps import Words


@attrs.frozen
class Span:
    """All that is known of a span's accesses.

    *damaged* makes an error of a message that says what is wrong.
    """

    columns: Columns
    sites: Sites
    accesses: int
    damaged: Callable[[str], Exception]

    @property
    def windows(self) -> int:
        """Windows, of which the last may be short."""
        return len(self.columns.near_ends) - 1

    def expanded(self, window: int, first: int = 0, mark: int = 0) -> Window:
        """Return all accesses of a window, and where near access *first* is among them.

        Second pages get *mark* set in their kinds. Raise what *damaged* makes.
        """
        try:
            return _expanded(self, window, first, mark)
        except DamagedError as error:
            raise self.damaged(str(error)) from None

    def parts(self, at: int) -> Iterator[Accesses | Reduced]:
        """Yield the accesses from near one *at* on: the rest of its window whole, then reduced."""
        ends = self.columns.near_ends
        window = bisect_right(ends, at) - 1
        gva, kind, place = self.expanded(window, at)
        yield Accesses(memoryview(gva)[place:], memoryview(kind)[place:])
        start = ends[window + 1]
        if start < ends[-1]:
            yield Reduced(
                self.columns.near[start:],
                self.sites.gva,
                self.sites.kind,
                self.accesses - (window + 1) * WINDOW,
                SETS,
                1,
                lambda nth: _Windows(self, start, nth),
            )


class Compact(Reduced):
    """A chunk of a compact trace: what is run after a stop is in a span."""

    rest: Callable[[int], InSpan]


@attrs.frozen
class InSpan(Rest):
    """What is run from near access *at* to the end of a span."""

    span: Span
    at: int
    following: int

    def parts(self) -> Iterator[Accesses | Reduced]:
        """Yield it."""
        return self.span.parts(self.at)


@attrs.frozen
class _Windows(Rest):
    """What is run from a near access to the end of its window; they are counted from *start*."""

    span: Span
    start: int
    nth: int

    @property
    def following(self) -> int:
        """The next window's first near access."""
        ends = self.span.columns.near_ends
        return ends[bisect_right(ends, self.start + self.nth)] - self.start

    def parts(self) -> Iterator[Accesses | Reduced]:
        """Yield it."""
        yield next(self.span.parts(self.start + self.nth))


def open_span(
    frame: bytes,
    kept: Words,
    sites: Sites,
    accesses: int,
    damaged: Callable[[str], Exception],
) -> Span:
    """Return the span whose frame this is, of which *kept* are kept; raise what *damaged* makes."""
    windows = -(-accesses // WINDOW)
    assert windows <= SPAN_WINDOWS
    opened = tokens.python_open if compiled is None else compiled.opened
    try:
        return Span(opened(frame, windows, kept, sites), sites, accesses, damaged)
    except DamagedError as error:
        raise damaged(str(error)) from None


def near_of(frame: bytes, accesses: int, nth: int) -> int:
    """Return which of a span's near accesses the *nth* is that its own filter keeps."""
    found = tokens.near_of if compiled is None else compiled.near_of
    return found(frame, -(-accesses // WINDOW), nth)


def _expanded(span: Span, window: int, first: int, mark: int) -> Window:
    if compiled is not None:
        made: Window = compiled.expanded(span, window, first, mark)
        return made
    columns = span.columns
    start, end = columns.near_ends[window : window + 2]
    return tokens.python_expand(
        columns.tokens[slice(*columns.token_ends[window : window + 2])],
        columns.near[start:end],
        span.sites,
        min(span.accesses - window * WINDOW, WINDOW),
        first=first - start,
        mark=mark,
    )
