"""One chunk of an .hvt file as it was read: its columns, and the accesses they stand for."""

from __future__ import annotations

import sys
from array import array
from bisect import bisect_right
from typing import TYPE_CHECKING, Literal

from hvmmu.arch import pfec as pf
from hvmmu.errors import TraceError
from hvmmu.guest.spans import Compact, InSpan, Span, near_of, open_span
from hvmmu.guest.steps import SITES
from hvmmu.guest.tokens import KINDS, SECOND, SETS, DamagedError, Sites
from hvmmu.workloads.codec import zstd_unpack
from hvmmu.workloads.hvt.fastest import are_listed, within
from hvmmu.workloads.hvt.layout import MOST_FRAME, SPAN, ChunkHead, padded
from hvmmu.workloads.hvt.reduction import WAYS
from hvmmu.workloads.hvt.writing import COUNTS
from hvmmu.workloads.tracefile import USER_END, USER_START

if TYPE_CHECKING:
    import hashlib
    from collections.abc import Iterator, Sequence

    from hvmmu.guest.steps import Words

AGAIN = "import it, or copy it, again"
_ANY_KIND = bytes(KINDS)
_OTHERS = tuple(bytes(k for k in range(256) if not k & bit) for bit in (pf.ID, pf.W, SECOND))
"""What is neither a fetch, nor a write, nor a second page."""


class KnownSites:
    """The sites so far, to which each chunk adds its own.

    What a chunk was given stays as it was: who takes the place of another is listed in a copy.
    """

    def __init__(self) -> None:
        self.now, self._count = Sites(), 0

    def add(self, known: int, slots: memoryview, gva: memoryview, kind: memoryview) -> None:
        """Add a chunk's columns to the *known* ones before it.

        Raise DamagedError if this is not how many are known, or a column cannot be.
        """
        if known != self._count:
            raise DamagedError("a chunk before it is not there")
        places, added = _column("H", slots), _checked(gva, kind)
        self._count += len(added)
        start = places[0] if added else 0
        end = start + len(added)
        if list(places) == list(range(start, end)) and not any(self.now.kind[start:end]):
            self.now.gva[start:end], self.now.kind[start:end] = added, kind
            return
        self.now = Sites(self.now.gva[:], self.now.kind[:])
        for slot, va, k in zip(places, added, kind, strict=True):
            self.now.gva[slot], self.now.kind[slot] = va, k


class Chunk:
    """The accesses of one chunk; *where* is the file and chunk to name if a frame is damaged.

    Raise DamagedError if the columns contradict each other. Frames are only looked at when accesses
    that were left out are asked for.
    """

    def __init__(
        self, head: ChunkHead, columns: Sequence[memoryview], known: KnownSites, where: str
    ) -> None:
        self.head = head
        self._columns, self._where = columns, where
        slots, site_gva, site_kind, kept_ends, frame_ends, kept, self._frames = columns
        known.add(head.known, slots, site_gva, site_kind)
        self._sites = known.now
        self._kept_ends = _ends(kept_ends, head.kept)
        self._frame_ends = _ends(frame_ends, head.packed)
        if 0 in map(int.__sub__, self._kept_ends[1:], self._kept_ends):
            raise DamagedError("a span keeps no access")
        self._kept = _column("H", kept)
        if not are_listed(self._kept, self._sites.kind):
            raise DamagedError("an access is of a page that is not listed")

    def reduced(self) -> Compact:
        """Return the accesses as a step, those that change nothing left out."""
        sites = self._sites
        return Compact(
            self._kept, sites.gva, sites.kind, self.head.accesses, SETS, WAYS, self._rest
        )

    def windows(self) -> Iterator[tuple[array[int], array[int]]]:
        """Yield all accesses by window, with SECOND set in kinds; raise TraceError."""
        tally, near, accesses = [0, 0, 0], 0, 0
        for nth in range(self.head.spans):
            span = self._span(nth, self._frame(nth))
            near += len(span.columns.near)
            for window in range(span.windows):
                gva, kind, _ = span.expanded(window, mark=SECOND)
                kinds = kind.tobytes()
                for i, others in enumerate(_OTHERS):
                    tally[i] += len(kinds.translate(None, others))
                accesses += len(kinds)
                yield gva, kind
        head = self.head
        if tally != [head.fetches, head.writes, head.accesses - head.references]:
            raise self._damaged("holds other kinds than its head tells")
        if near != head.near:
            raise self._damaged("its windows keep other accesses than its head tells")

    def add_to(self, digest: hashlib._Hash) -> None:
        """Add what the header's sha256 is of."""
        digest.update(COUNTS.pack(self.head.accesses, self.head.references, self.head.known))
        for at in (0, 1, 2, 3, 5):
            column = self._columns[at]
            digest.update(column)
            digest.update(bytes(padded(len(column)) - len(column)))
        for nth in range(self.head.spans):
            digest.update(self._frame(nth))

    def _rest(self, at: int) -> InSpan:
        nth = bisect_right(self._kept_ends, at) - 1
        start, end = self._kept_ends[nth : nth + 2]
        frame = self._frame(nth)
        span = self._span(nth, frame)
        return InSpan(span, near_of(frame, span.accesses, at - start), end)

    def _span(self, nth: int, frame: bytes) -> Span:
        start, end = self._kept_ends[nth : nth + 2]
        accesses = min(self.head.accesses - nth * SPAN, SPAN)
        return open_span(frame, self._kept[start:end], self._sites, accesses, self._damaged)

    def _frame(self, nth: int) -> bytes:
        packed = self._frames[slice(*self._frame_ends[nth : nth + 2])]
        frame = zstd_unpack(bytes(packed), MOST_FRAME)
        if frame is None:
            raise self._damaged("a frame does not unpack")
        return frame

    def _damaged(self, what: str) -> TraceError:
        return TraceError(self._where, None, what, AGAIN)


def _column(code: Literal["H", "I", "Q"], column: memoryview) -> Words:
    if sys.byteorder == "big":  # pragma: no cover - no such machine to test on
        made = array(code, column.tobytes())
        made.byteswap()
        return made
    return column.cast(code)


def _checked(gva: memoryview, kind: memoryview) -> array[int]:
    sites = array("Q", _column("Q", gva))
    if not within(sites, USER_START, USER_END):
        raise DamagedError("an address is not in the user half")
    if bytes(kind).translate(None, _ANY_KIND):
        raise DamagedError("an access is of no known kind")
    return sites


def _ends(column: memoryview, last: int) -> list[int]:
    """Return where each span starts, and at last where the last one ends."""
    ends = [0, *_column("I", column)]
    if ends != sorted(ends) or ends[-1] != last:
        raise DamagedError("its spans are out of order")
    return ends


assert SITES == 1 << 16  # what a slot of 16 bits can name
