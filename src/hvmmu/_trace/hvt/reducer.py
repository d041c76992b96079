"""The exact reduction of a trace, entered by window and by span. The work is reduce.c's."""

from __future__ import annotations

from typing import TYPE_CHECKING, NamedTuple

from hvmmu._core.binding import ffi, lib
from hvmmu._trace.grammar import MOST_STORED, SPAN, WINDOW
from hvmmu._trace.to_array import to_array
from hvmmu.types import PAGE_SLOTS

if TYPE_CHECKING:
    from array import array

    from hvmmu.steps import Words


class Listed(NamedTuple):
    """Pairs of page and kind that are new in a chunk, or whose slot another pair had taken."""

    slots: array[int]
    """Format H."""
    gva: array[int]
    """The address in bytes of the first such access; format Q."""
    kind: array[int]
    """Format B."""


class ReducedSpan(NamedTuple):
    """A span after both filters."""

    span_kept: array[int]
    """Page slots of the accesses that the span filter keeps; format H."""
    window_kept: int
    """Accesses that the window filter keeps."""
    stored: bytes
    """What `grammar.py` describes."""


class Tally(NamedTuple):
    """A chunk's accesses, dropped ones included."""

    fetches: int
    writes: int
    seconds: int
    """Second pages of references."""


class Reducer:
    """Makes one chunk after the other; a chunk goes on with the page slots of those before it."""

    def __init__(self) -> None:
        self._c = ffi.new("hvt_reducer *")
        self._span_kept, self._size = ffi.new("uint16_t[]", SPAN), ffi.new("uint32_t *")
        self._stored = ffi.new("uint8_t[]", MOST_STORED)
        self.next_chunk()

    @property
    def has_room(self) -> bool:
        """Whether another window's page slots can be listed in this chunk."""
        room: bool = PAGE_SLOTS - self._c.used_here >= WINDOW
        return room

    @property
    def listed(self) -> Listed:
        """The pairs that this chunk lists."""
        c, count = self._c, self._c.listed
        return Listed(
            to_array("H", c.slots, count), to_array("Q", c.gva, count), to_array("B", c.kind, count)
        )

    @property
    def count(self) -> int:
        """The number of pairs that this chunk lists."""
        return int(self._c.listed)

    @property
    def tally(self) -> Tally:
        """The accesses of this chunk."""
        return Tally(self._c.fetches, self._c.writes, self._c.seconds)

    def add_window(self, gva: Words, kind: Words | bytearray, start: int = 0) -> int:
        """Add accesses from *start* on, WINDOW of them at most, as a window; return how many.

        A kind has STRADDLES set if the access is a reference's second page. Raise ValueError if
        there are none, or if the span has its windows.
        """
        vas, kinds = ffi.from_buffer("uint64_t[]", gva), ffi.from_buffer("uint8_t[]", kind)
        count = min(len(vas) - start, WINDOW)
        if len(kinds) != len(vas) or count < 1:
            raise ValueError(f"{len(vas)} addresses with {len(kinds)} kinds from {start}")
        if not lib.hvt_add_window(self._c, vas + start, kinds + start, count):
            raise ValueError("no room for another window")
        return count

    def end_span(self) -> ReducedSpan:
        """End the span, of SPAN_WINDOWS windows or fewer."""
        window_kept = self._c.window_keeps
        count = lib.hvt_end_span(self._c, self._span_kept, self._stored, self._size)
        stored = bytes(ffi.buffer(self._stored, self._size[0]))
        return ReducedSpan(to_array("H", self._span_kept, count), window_kept, stored)

    def next_chunk(self) -> None:
        """Begin another chunk."""
        lib.hvt_next_chunk(self._c)
