"""A span of a reduced trace: expand.c puts its accesses back, whole or from a stop on."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, NamedTuple

from hvmmu._core.binding import ffi, lib
from hvmmu._trace.grammar import LONGEST, MESSAGES, SETS, SPAN, WAYS, WINDOW
from hvmmu._trace.to_array import to_array
from hvmmu.steps import Accesses

if TYPE_CHECKING:
    from array import array
    from collections.abc import Callable, Iterator

    from hvmmu._trace.page_slots import PageSlots
    from hvmmu.steps import Words

_uncleared = ffi.new_allocator(should_clear_after_alloc=False)


class Expanded(NamedTuple):
    """All accesses of a window."""

    gva: array[int]
    kind: array[int]
    where: int
    """The place of the access that was asked for."""


class PackedSpan(NamedTuple):
    """A span as its chunk has it, decompressed; *damaged* makes an exception of a message."""

    stored: bytes
    """What `grammar.py` describes."""
    span_kept: Words
    """Page slots of the accesses that the span filter keeps; format H."""
    slots: PageSlots
    accesses: int
    damaged: Callable[[str], Exception]

    def in_c(self) -> tuple[Any, Any]:
        """Return the span as C takes it, and the buffers that must live as long."""
        made = ffi.new("hvt_packed_span *")
        alive = (
            ffi.from_buffer("uint8_t[]", self.stored),
            ffi.from_buffer("uint16_t[]", self.span_kept),
            ffi.from_buffer("uint64_t[]", self.slots.gva),
            ffi.from_buffer("uint8_t[]", self.slots.kind),
        )
        made.bytes, made.span_kept, made.slot_gva, made.slot_kind = alive
        made.size, made.count = len(self.stored), len(self.span_kept)
        made.windows, made.accesses = -(-self.accesses // WINDOW), self.accesses
        return made, alive

    def unpacked(self) -> Span:
        """Return the span with its columns apart; raise what *damaged* makes."""
        return Span(self)


class Span:
    """A span with what the window filter keeps, and tokens for the rest."""

    def __init__(self, packed: PackedSpan) -> None:
        self._damaged = packed.damaged
        self._packed, self._alive = packed.in_c()
        self._span, self._kept = ffi.new("hvt_span *"), _uncleared("uint16_t[]", SPAN)
        self._check(lib.hvt_unpack(self._packed, self._span, self._kept))

    @property
    def windows(self) -> int:
        """Windows, the last of which may be short."""
        count: int = self._span.windows
        return count

    @property
    def kept_ends(self) -> list[int]:
        """The accesses that the window filter keeps: where each window's start, and the end."""
        return list(self._span.kept_ends[0 : self.windows + 1])

    @property
    def window_kept(self) -> array[int]:
        """Page slots of the accesses that the window filter keeps; format H."""
        return to_array("H", self._kept, self._span.kept_ends[self.windows])

    def window_kept_of(self, nth: int) -> int:
        """Return which of them is the *nth* that the span filter keeps."""
        at: int = lib.hvt_window_kept_of(self._packed, nth)
        return at

    def expanded(self, window: int, at: int = 0, mark: int = 0) -> Expanded:
        """Return all accesses of a window, and the place of *at* among those that its filter keeps.

        *mark* is set in the kind of a reference's second page. Raise what *damaged* makes.
        """
        size = lib.hvt_window_size(self._span, window)
        gva, kind = (
            _uncleared("uint64_t[]", size + LONGEST),
            _uncleared("uint8_t[]", size + LONGEST),
        )
        where = ffi.new("uint32_t *")
        self._check(lib.hvt_expand(self._span, window, at, mark, gva, kind, where))
        return Expanded(to_array("Q", gva, size), to_array("B", kind, size), where[0])

    def lru_fixup(self, at: int) -> Accesses:
        """Return what to touch to have an LRU TLB's sets in order before kept access *at*."""
        pages = 2 * SETS * WAYS
        gva, kind = ffi.new("uint64_t[]", pages), ffi.new("uint8_t[]", pages)
        count = lib.hvt_lru_fixup(self._span, at, gva, kind)
        return Accesses(to_array("Q", gva, count), to_array("B", kind, count))

    def from_kept(self, at: int) -> Iterator[Accesses]:
        """Yield all accesses from access *at* of those kept to the end of the span."""
        window = lib.hvt_window_of(self._span, at)
        gva, kind, where = self.expanded(window, at)
        yield Accesses(gva[where:], kind[where:])
        for later in range(window + 1, self.windows):
            gva, kind, _ = self.expanded(later)
            yield Accesses(gva, kind)

    def _check(self, damage: int) -> None:
        if damage:
            raise self._damaged(MESSAGES[damage])


class SpanTail(NamedTuple):
    """A span from the *nth* access on that the span filter keeps."""

    packed: PackedSpan
    nth: int
    next_kept: int

    def lru_fixup(self) -> Accesses:
        """Return what to touch before a stop is handled: the span filter keeps no set in order."""
        span = self.packed.unpacked()
        return span.lru_fixup(span.window_kept_of(self.nth))

    def remaining(self) -> Iterator[Accesses]:
        """Yield all accesses from there to the end of the span."""
        span = self.packed.unpacked()
        return span.from_kept(span.window_kept_of(self.nth))
