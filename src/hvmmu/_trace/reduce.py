"""The reduction in C, entered by window and by span: what reduction.py does, to the byte.

`kernel/reduce.c` does the work, `kernel/reduce.h` is what the two sides share.
"""

from __future__ import annotations

from array import array
from importlib import import_module
from typing import TYPE_CHECKING, Any

from hvmmu._trace.tokens import MOST_FRAME, SPAN_WINDOWS, WINDOW
from hvmmu.steps import SITES

if TYPE_CHECKING:
    from hvmmu._trace.hvt.reduction import Kept, Listed
    from hvmmu._trace.tokens import Sites
    from hvmmu.steps import Words
    from hvmmu.types import Buffer

_kernel: Any = import_module("hvmmu._trace._lib")
ffi, lib = _kernel.ffi, _kernel.lib

_LINES = 1 << 13
"""Lines read at a time."""


class CompiledReducer:
    """One chunk after the other."""

    def __init__(self) -> None:
        self._chunk = ffi.new("hvt_chunk *")
        self._kept, self._frame = (
            ffi.new("uint16_t[]", SPAN_WINDOWS * WINDOW),
            bytearray(MOST_FRAME),
        )
        self._size = ffi.new("uint32_t *")
        self.next_chunk()

    @property
    def has_room(self) -> bool:
        """Return whether another window can be added."""
        room: bool = SITES - self._chunk.in_chunk >= WINDOW
        return room

    @property
    def listed(self) -> Listed:
        """Return what this chunk lists."""
        chunk, count = self._chunk, self._chunk.listed
        slots = _copied("H", chunk.slots, count)
        return slots, _copied("Q", chunk.gva, count), _copied("B", chunk.kind, count)

    @property
    def count(self) -> int:
        """Return how many sites that is."""
        return int(self._chunk.listed)

    @property
    def tally(self) -> tuple[int, int, int]:
        """Return the number of fetches, writes and second pages, left out or not."""
        return self._chunk.fetches, self._chunk.writes, self._chunk.seconds

    def window(self, gva: Words, kind: Words) -> None:
        """Add a window of accesses."""
        vas, kinds = ffi.from_buffer("uint64_t[]", gva), ffi.from_buffer("uint8_t[]", kind)
        if not lib.hvt_window(self._chunk, vas, kinds, len(vas)):
            raise ValueError("no room for another window")

    def end_span(self) -> Kept:
        """End the span."""
        near, frame = self._chunk.nears, ffi.from_buffer("uint8_t[]", self._frame)
        count = lib.hvt_end_span(self._chunk, self._kept, frame, self._size)
        made = bytes(memoryview(self._frame)[: self._size[0]])
        return _copied("H", self._kept, count), near, made

    def next_chunk(self) -> None:
        """Begin another chunk."""
        lib.hvt_next(self._chunk)


def _copied(code: str, column: Any, count: int) -> array[int]:  # noqa: ANN401 - an array of cffi's
    made = array(code)
    made.frombytes(ffi.buffer(column, count * made.itemsize))
    return made


def within(gva: Words, start: int, end: int) -> bool:
    """Return whether all addresses are in start..end."""
    addresses = ffi.from_buffer("uint64_t[]", gva)
    return bool(lib.hvt_within(addresses, len(addresses), start, end))


def listed(slots: Words, site_kind: Buffer) -> int:
    """Return how many of *slots* have a kind."""
    numbers, kinds = ffi.from_buffer("uint16_t[]", slots), ffi.from_buffer("uint8_t[]", site_kind)
    count: int = lib.hvt_listed(numbers, len(numbers), kinds)
    return count


def list_sites(slots: Words, gva: Words, kind: Buffer, sites: Sites) -> None:
    """List sites, each in its slot."""
    lib.hvt_list(
        ffi.from_buffer("uint16_t[]", slots),
        ffi.from_buffer("uint64_t[]", gva),
        ffi.from_buffer("uint8_t[]", kind),
        len(slots),
        ffi.from_buffer("uint64_t[]", sites.gva),
        ffi.from_buffer("uint8_t[]", sites.kind),
    )


class PlainLines:
    """Reads plain references into room that is used again: large new arrays cost page faults.

    *second* is set in the kind of a reference's second page.
    """

    def __init__(self, second: int) -> None:
        self._second = second
        self._gva, self._kind = ffi.new("uint64_t[]", 2 * _LINES), ffi.new("uint8_t[]", 2 * _LINES)

    def read(self, text: memoryview, limit: int) -> tuple[int, int, array[int], array[int]]:
        """Read from the start of *text*, at most *limit* references.

        Return how many bytes and lines that is, addresses, kinds.
        """
        start, size = ffi.from_buffer("char[]", text), len(text)
        gva, kind, read, lines = array("Q"), array("B"), 0, 0
        while True:
            most = min(limit - lines, _LINES)
            done = lib.hvt_lackey(
                start + read, size - read, most, self._second, self._gva, self._kind
            )
            gva.frombytes(ffi.buffer(self._gva, 8 * done.accesses))
            kind.frombytes(ffi.buffer(self._kind, done.accesses))
            read, lines = read + done.read, lines + done.lines
            if done.lines < _LINES:
                return read, lines, gva, kind
