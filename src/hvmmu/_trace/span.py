"""A span of a reduced trace where something has stopped: what is run of it from there on."""

from __future__ import annotations

from array import array
from bisect import bisect_right
from importlib import import_module
from typing import TYPE_CHECKING, NamedTuple

from hvmmu._core.engine import CompiledEngine
from hvmmu._trace import tokens
from hvmmu._trace.tokens import (
    SET_MASK,
    SETS,
    WAYS,
    WINDOW,
    Columns,
    DamagedError,
    Sites,
    Window,
)
from hvmmu.arch import pfec as pf
from hvmmu.steps import Accesses, Reduced
from hvmmu.types import PAGE_SHIFT

compiled: ModuleType | None = None
if not CompiledEngine.why_not:
    compiled = import_module("hvmmu._trace.expand")

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from types import ModuleType

    from hvmmu.steps import Words


class Frame(NamedTuple):
    """What a span's accesses are found in, as it was unpacked.

    *kept* are those that the span's filter keeps, of *accesses*; *damaged* makes an error of a
    message that says what is wrong.
    """

    content: bytes
    kept: Words
    sites: Sites
    accesses: int
    damaged: Callable[[str], Exception]

    @property
    def windows(self) -> int:
        """Windows, of which the last may be short."""
        return -(-self.accesses // WINDOW)

    def opened(self) -> Span:
        """Return the span; raise what *damaged* makes."""
        try:
            columns = _opened(self)
        except DamagedError as error:
            raise self.damaged(str(error)) from None
        return Span(columns, self.sites, self.accesses, self.damaged)

    def near_of(self, nth: int) -> int:
        """Return which near access the *nth* is that is kept."""
        found = tokens.near_of if compiled is None else compiled.near_of
        near: int = found(self.content, self.windows, nth)
        return near


class Span(NamedTuple):
    """All that is known of a span's accesses."""

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

    def order(self, at: int) -> Accesses:
        """Return accesses that have each set's latest pages in their order before near one *at*."""
        sets: dict[tuple[int, int], dict[int, int]] = {}
        kinds = memoryview(self.sites.kind)
        for site in self.columns.near[:at]:
            page = self.sites.gva[site] >> PAGE_SHIFT
            pages = sets.setdefault((page & SET_MASK, kinds[site] & pf.ID), {})
            pages.pop(page, None)
            pages[page] = site  # the latest one last
        sites = [site for pages in sets.values() for site in list(pages.values())[-WAYS:]]
        gva = array("Q", (self.sites.gva[site] for site in sites))
        return Accesses(gva, array("B", (kinds[site] for site in sites)))

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


class InSpan(NamedTuple):
    """What is run of a span from the *nth* access on that is kept."""

    frame: Frame
    nth: int
    following: int

    def before(self) -> Accesses:
        """Return what brings all sets in order: the span's filter leaves that out."""
        return self.frame.opened().order(self.frame.near_of(self.nth))

    def parts(self) -> Iterator[Accesses | Reduced]:
        """Yield it."""
        return self.frame.opened().parts(self.frame.near_of(self.nth))


class _Windows(NamedTuple):
    """What is run from a near access to the end of its window; they are counted from *start*."""

    span: Span
    start: int
    nth: int

    @property
    def following(self) -> int:
        """The next window's first near access."""
        ends = self.span.columns.near_ends
        return ends[bisect_right(ends, self.start + self.nth)] - self.start

    def before(self) -> Accesses:
        """Return nothing: what the windows' filter leaves out changes no order."""
        return Accesses(array("Q"), array("B"))

    def parts(self) -> Iterator[Accesses | Reduced]:
        """Yield it."""
        yield next(self.span.parts(self.start + self.nth))


def _opened(frame: Frame) -> Columns:
    opened = tokens.python_open if compiled is None else compiled.opened
    made: Columns = opened(frame.content, frame.windows, frame.kept, frame.sites)
    return made


def _expanded(span: Span, window: int, first: int, mark: int) -> Window:
    columns, sites, accesses, _ = span
    if compiled is not None:
        made: Window = compiled.expanded(columns, sites, accesses, window, first=first, mark=mark)
        return made
    start, end = columns.near_ends[window : window + 2]
    return tokens.python_expand(
        columns.tokens[slice(*columns.token_ends[window : window + 2])],
        columns.near[start:end],
        sites,
        min(accesses - window * WINDOW, WINDOW),
        first=first - start,
        mark=mark,
    )
