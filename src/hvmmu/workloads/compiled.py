"""The reduction in C, entered once for a window: what reduction.py does, to the byte.

`kernel/reduce.c` does the work, `kernel/reduce.h` is what the two sides share.
"""

from __future__ import annotations

from array import array
from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from hvmmu.guest.steps import Words
    from hvmmu.types import Buffer

_kernel: Any = import_module("hvmmu.workloads._kernel")
ffi, lib = _kernel.ffi, _kernel.lib

MESSAGES = (
    "",
    "a fetch repeats none",
    "a data access repeats none",
    "more accesses are kept than there are",
    "a window has too many accesses",
    "a window has too few accesses",
)
_SLACK = 7
"""Accesses behind a window that the expansion may write over."""
_LINE = 7
"""Bytes of the shortest line."""


class CompiledReducer:
    """One chunk after the other."""

    def __init__(self) -> None:
        self._chunk = ffi.new("hvt_chunk *")

    @property
    def site_gva(self) -> array[int]:
        """Return the address of each site."""
        return _copied("Q", self._chunk.site_gva, self._chunk.sites)

    @property
    def site_kind(self) -> array[int]:
        """Return the kind of each site."""
        return _copied("B", self._chunk.site_kind, self._chunk.sites)

    @property
    def kept(self) -> array[int]:
        """Return the site of each kept access."""
        return _copied("H", self._chunk.kept, self._chunk.keeps)

    @property
    def tokens(self) -> bytearray:
        """Return the tokens."""
        return bytearray(ffi.buffer(self._chunk.tokens, self._chunk.tokens_used))

    @property
    def counts(self) -> tuple[int, int, int]:
        """Return the number of sites, kept accesses and tokens."""
        return self._chunk.sites, self._chunk.keeps, self._chunk.tokens_used

    @property
    def tally(self) -> tuple[int, int, int]:
        """Return the number of fetches, writes and second pages, left out or not."""
        return self._chunk.fetches, self._chunk.writes, self._chunk.seconds

    def window(self, gva: Words, kind: Words) -> None:
        """Add a window of accesses."""
        vas, kinds = ffi.from_buffer("uint64_t[]", gva), ffi.from_buffer("uint8_t[]", kind)
        if not lib.hvt_window(self._chunk, vas, kinds, len(vas)):
            raise ValueError("the chunk is full")

    def next(self, *, anew: bool) -> None:
        """Begin another chunk, with sites of its own if *anew*."""
        lib.hvt_next(self._chunk, anew)


def _copied(code: str, column: Any, count: int) -> array[int]:  # noqa: ANN401 - an array of cffi's
    made = array(code)
    made.frombytes(ffi.buffer(column, count * made.itemsize))
    return made


def expand(  # noqa: PLR0917 - as C takes them
    tokens: Buffer, kept: Words, sites: tuple[Words, Buffer], room: int, first: int, mark: int
) -> tuple[str, tuple[array[int], array[int], int]]:
    """Return what is wrong, or nothing, and a window as `python_expand` does."""
    size = room + _SLACK
    gva, kind, where = array("Q", bytes(8 * size)), array("B", bytes(size)), ffi.new("uint32_t *")
    packed, places = ffi.from_buffer("uint8_t[]", tokens), ffi.from_buffer("uint16_t[]", kept)
    known = ffi.new("hvt_kept *")
    known.kept, known.count, known.first = places, len(places), first
    vas, kinds = ffi.from_buffer("uint64_t[]", sites[0]), ffi.from_buffer("uint8_t[]", sites[1])
    known.site_gva, known.site_kind = vas, kinds
    out = ffi.from_buffer("uint64_t[]", gva), ffi.from_buffer("uint8_t[]", kind)
    wrong = lib.hvt_expand(packed, len(packed), known, mark, *out, room, where)
    del out
    del gva[room:], kind[room:]
    return MESSAGES[wrong], (gva, kind, where[0])


def within(gva: Words, start: int, end: int) -> bool:
    """Return whether all addresses are in start..end."""
    addresses = ffi.from_buffer("uint64_t[]", gva)
    return bool(lib.hvt_within(addresses, len(addresses), start, end))


def most(kept: Words) -> int:
    """Return the highest of these 16-bit numbers, 0 if there are none."""
    numbers = ffi.from_buffer("uint16_t[]", kept)
    found: int = lib.hvt_most(numbers, len(numbers))
    return found


def plain_lines(
    text: memoryview, limit: int, second: int
) -> tuple[int, int, array[int], array[int]]:
    """Read plain references from the start of *text*: bytes and lines read, addresses, kinds."""
    most = min(limit, len(text) // _LINE)
    gva, kind = array("Q", bytes(16 * most)), array("B", bytes(2 * most))
    done = lib.hvt_lackey(
        ffi.from_buffer("char[]", text),
        len(text),
        most,
        second,
        ffi.from_buffer("uint64_t[]", gva),
        ffi.from_buffer("uint8_t[]", kind),
    )
    del gva[done.accesses :], kind[done.accesses :]
    return done.read, done.lines, gva, kind
