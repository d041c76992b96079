"""ChampSim's traces: one record of 64 bytes for each instruction, little-endian, without a header.

A record holds the instruction's address (8 bytes), whether it branches and whether the branch is
taken (1 each), registers written (2) and read (4), addresses written (2 of 8 bytes) and read (4 of
8 bytes); an address of 0 is none. There are no sizes, so no reference reaches a second page.
"""

from __future__ import annotations

import sys
from array import array
from itertools import compress
from typing import TYPE_CHECKING

from hvmmu._trace.importers.importer import Importer
from hvmmu._trace.tracefile import reference_error
from hvmmu.arch.pfec import USER_FETCH, USER_READ, USER_WRITE

if TYPE_CHECKING:
    from collections.abc import Iterator

    from hvmmu._trace.importers.stream import Stream

RECORD = 64
_WORDS = RECORD // 8
_ORDER = (0, 4, 5, 6, 7, 2, 3)
"""The words of a record that are addresses: the fetch, then what is read, then what is written."""
_KINDS = bytes((USER_FETCH, *[USER_READ] * 4, *[USER_WRITE] * 2))
_FLAGS = (8, 9)
_TODO = "give a trace of ChampSim's tracer (64-byte records), and name it with --format"


class ChampSim(Importer):
    """The records that ChampSim's Pin tracer writes, as published sets of traces have them."""

    name = "champsim"
    summary = "ChampSim's binary traces (64-byte records); must be named, as they have no header"

    def recognises(self, head: bytes) -> bool:
        """Return False: nothing in the file says so."""
        del head
        return False

    def accesses(
        self, stream: Stream, limit: int | None
    ) -> Iterator[tuple[array[int], array[int]]]:
        """Yield each instruction's fetch, then its reads, then its writes; raise TraceError."""
        number, rest, left = 1, b"", limit
        for block in stream.blocks():
            whole = rest + block
            cut = len(whole) // RECORD * RECORD
            records, rest = whole[:cut], whole[cut:]
            gva, kind = _parsed(records, number, stream)
            number += cut // RECORD
            if left is not None:
                gva, kind = gva[:left], kind[:left]
                left -= len(gva)
            if gva:
                yield gva, kind
            if left == 0:
                return
        if rest:
            raise stream.error(None, f"record {number} is cut off", _TODO)


def _parsed(records: bytes, number: int, stream: Stream) -> tuple[array[int], array[int]]:
    for flag in _FLAGS:
        odd = records[flag::RECORD].translate(None, b"\0\1")
        if odd:
            at = next(i for i, value in enumerate(records[flag::RECORD]) if value > 1)
            what = f"record {number + at} is none: a branch flag is {odd[0]}"
            raise stream.error(None, what, _TODO)
    words = array("Q", records)
    if sys.byteorder == "big":  # pragma: no cover - no such machine to test on
        words.byteswap()
    count = len(words) // _WORDS
    slots = array("Q", bytes(8 * len(_ORDER) * count))
    for place, word in enumerate(_ORDER):
        slots[place :: len(_ORDER)] = words[word::_WORDS]
    gva = array("Q", compress(slots, slots))
    if gva and (reference_error(min(gva), 1) or reference_error(max(gva), 1)):
        problems = ((i, reference_error(va, 1)) for i, va in enumerate(slots) if va)
        at, (what, _) = next((i, problem) for i, problem in problems if problem)
        raise stream.error(None, f"record {number + at // len(_ORDER)}: {what}", _TODO)
    return gva, array("B", bytes(compress(_KINDS * count, slots)))
