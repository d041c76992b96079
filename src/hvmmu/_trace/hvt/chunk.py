"""One chunk of an .hvt file: its columns, and the accesses that they stand for."""

from __future__ import annotations

import sys
import zlib
from array import array
from bisect import bisect_right
from itertools import islice
from typing import TYPE_CHECKING, Literal

from hvmmu._trace.grammar import SETS, SPAN, STRADDLES, USER_END, USER_START, WAYS
from hvmmu._trace.hvt.layout import (
    COUNTS,
    DIGESTED,
    ChunkHead,
    DamagedError,
    decompressed,
    padded,
)
from hvmmu._trace.page_slots import PageSlots, all_within
from hvmmu._trace.span import PackedSpan, Span, SpanTail
from hvmmu.arch import pfec as pf
from hvmmu.errors import TraceError
from hvmmu.steps import Accesses, ReducedAccesses

if TYPE_CHECKING:
    import hashlib
    from collections.abc import Iterator, Sequence

    from hvmmu._trace.hvt.file_bytes import Stored

AGAIN = "import it, or copy it, again"
_KINDS = bytes((pf.USER_READ, pf.USER_WRITE, pf.USER_FETCH))
_SECONDS = bytes(k for k in range(256) if k & STRADDLES)
_FIRSTS = bytes(k & ~STRADDLES for k in range(256))
"""The kinds with STRADDLES set, and all kinds with it clear."""
_OTHERS = tuple(bytes(k for k in range(256) if not k & bit) for bit in (pf.ID, pf.W, STRADDLES))
"""The kinds that are no fetch, that are no write, and that are no second page."""


class SlotTable:
    """The page slots as they are after each chunk.

    A chunk keeps the ones that it was read with: if a pair takes another's slot, that is in a copy.
    """

    def __init__(self) -> None:
        self.slots, self._count = PageSlots.empty(), 0

    def add(self, before: int, slots: array[int], gva: array[int], kind: bytes) -> None:
        """Add the pairs that a chunk lists after the *before* ones of the chunks before it.

        Raise DamagedError if there are not as many before, or for pairs that cannot be.
        """
        if before != self._count:
            raise DamagedError("a chunk before it is missing")
        if not all_within(gva, USER_START, USER_END):
            raise DamagedError("an address is not in the user half")
        if kind.translate(None, _KINDS):
            raise DamagedError("an access has an unknown kind")
        self._count += len(gva)
        if self.slots.count_listed(slots):
            self.slots = self.slots.copy()
        self.slots.list_pairs(slots, gva, kind)


class Chunk:
    """The accesses of one chunk; *where* names file and chunk in errors about its spans.

    Raise DamagedError if the columns contradict each other. A span is read only for accesses that
    its filter dropped.
    """

    def __init__(
        self,
        head: ChunkHead,
        columns: Sequence[memoryview],
        packed: Stored,
        table: SlotTable,
        where: str,
    ) -> None:
        self.head = head
        self._columns, self._packed, self._where = columns, packed, where
        slots, gva, kind, reference_ends, kept_ends, packed_ends, kept = columns
        table.add(head.listed_before, _array("H", slots), _array("Q", gva), bytes(kind))
        self._slots = table.slots
        self._reference_ends = _ends(reference_ends, head.references)
        self._kept_ends = _ends(kept_ends, head.span_kept)
        self._packed_ends = _ends(packed_ends, head.packed)
        if 0 in map(int.__sub__, self._kept_ends[1:], self._kept_ends):
            raise DamagedError("a span keeps no access")
        self._kept = _array("H", kept)
        if self._slots.count_listed(self._kept) < len(self._kept):
            raise DamagedError("an access is to a page that is not listed")

    def reduced(self) -> ReducedAccesses:
        """Return the accesses as a step, without those that change nothing."""
        return self._first_spans(self.head.spans)

    def first(self, references: int) -> Iterator[Accesses | ReducedAccesses]:
        """Yield the accesses of the first *references* references, of which there are more.

        With 0 that is the second page of the last reference of the chunk before, or nothing. All
        spans come reduced but the last one.
        """
        nth = bisect_right(self._reference_ends, references) - 1
        if nth:
            yield self._first_spans(nth)
        references -= self._reference_ends[nth]
        for gva, kind in _windows_of(self._span(nth).unpacked()):
            kinds, end = kind.tobytes(), len(kind)
            count = len(kinds.translate(None, _SECONDS))
            if count > references:
                firsts = (index for index, k in enumerate(kinds) if not k & STRADDLES)
                end = next(islice(firsts, references, None))
            references -= count
            if end:
                yield Accesses(gva[:end], array("B", kinds[:end].translate(_FIRSTS)))
            if references < 0:
                return

    def _first_spans(self, count: int) -> ReducedAccesses:
        kept, slots = self._kept[: self._kept_ends[count]], self._slots
        accesses = min(count * SPAN, self.head.accesses)
        return ReducedAccesses(kept, slots.gva, slots.kind, accesses, SETS, WAYS, self._tail)

    def windows(self) -> Iterator[tuple[array[int], array[int]]]:
        """Yield all accesses by window, with STRADDLES set in kinds; raise TraceError."""
        tally, window_kept, head = [0, 0, 0], 0, self.head
        for nth in range(head.spans):
            span, accesses = self._span(nth).unpacked(), 0
            window_kept += span.kept_ends[-1]
            seconds = tally[2]
            for gva, kind in _windows_of(span):
                kinds = kind.tobytes()
                for i, others in enumerate(_OTHERS):
                    tally[i] += len(kinds.translate(None, others))
                accesses += len(kinds)
                yield gva, kind
            start, end = self._reference_ends[nth : nth + 2]
            if accesses - (tally[2] - seconds) != end - start:
                raise self._damaged("a span has other references than its chunk says")
        if tally != [head.fetches, head.writes, head.accesses - head.references]:
            raise self._damaged("has other kinds than its head says")
        if window_kept != head.window_kept:
            raise self._damaged("its windows keep other accesses than its head says")

    def add_to(self, digest: hashlib._Hash) -> None:
        """Add the chunk to the header's sha256; raise TraceError for damaged spans."""
        if zlib.crc32(self._packed[: self.head.packed]) != self.head.packed_crc:
            raise self._damaged("the CRC of its spans is wrong")
        for nth in range(self.head.spans):
            digest.update(self._span(nth).stored)
        digest.update(
            COUNTS.pack(self.head.accesses, self.head.references, self.head.listed_before)
        )
        for nth in DIGESTED:
            column = self._columns[nth]
            digest.update(column)
            digest.update(bytes(padded(len(column)) - len(column)))

    def _tail(self, at: int) -> SpanTail:
        nth = bisect_right(self._kept_ends, at) - 1
        return SpanTail(self._span(nth), at - self._kept_ends[nth], self._kept_ends[nth + 1])

    def _span(self, nth: int) -> PackedSpan:
        start, end = self._packed_ends[nth : nth + 2]
        stored = decompressed(self._packed[start:end])
        if stored is None:
            raise self._damaged("a span does not decompress")
        kept = self._kept[self._kept_ends[nth] : self._kept_ends[nth + 1]]
        accesses = min(self.head.accesses - nth * SPAN, SPAN)
        return PackedSpan(stored, kept, self._slots, accesses, self._damaged)

    def _damaged(self, what: str) -> TraceError:
        return TraceError(self._where, None, what, AGAIN)


def _windows_of(span: Span) -> Iterator[tuple[array[int], array[int]]]:
    for window in range(span.windows):
        gva, kind, _ = span.expanded(window, mark=STRADDLES)
        yield gva, kind


def _array(code: Literal["H", "I", "Q"], column: memoryview) -> array[int]:
    made = array(code)
    made.frombytes(column)
    if sys.byteorder == "big":  # pragma: no cover - no such machine to test on
        made.byteswap()
    return made


def _ends(column: memoryview, last: int) -> list[int]:
    """Return where each span starts, and at last where the last one ends."""
    ends = [0, *_array("I", column)]
    if ends != sorted(ends) or ends[-1] != last:
        raise DamagedError("its spans are out of order")
    return ends
