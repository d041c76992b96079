"""One chunk of an .hvt file as it was read: its columns, and the accesses they stand for."""

from __future__ import annotations

import sys
import zlib
from array import array
from bisect import bisect_right
from itertools import islice
from typing import TYPE_CHECKING, Literal

from hvmmu._trace.hvt.accelerated import list_sites, listed, within
from hvmmu._trace.hvt.layout import COUNTS, DIGESTED, SPAN, ChunkHead, padded, unpacked_frame
from hvmmu._trace.span import Compact, Frame, InSpan, Span
from hvmmu._trace.tokens import KINDS, SECOND, SETS, WAYS, DamagedError, Sites, no_sites
from hvmmu._trace.tracefile import USER_END, USER_START
from hvmmu.arch import pfec as pf
from hvmmu.errors import TraceError
from hvmmu.steps import SITES, Accesses

if TYPE_CHECKING:
    import hashlib
    from collections.abc import Iterator, Sequence

    from hvmmu._trace.hvt.file_bytes import Stored
    from hvmmu.steps import Words

AGAIN = "import it, or copy it, again"
_ANY_KIND = bytes(KINDS)
_SECONDS = bytes(k for k in range(256) if k & SECOND)
_FIRSTS = bytes(k & ~SECOND for k in range(256))
"""The kinds with SECOND set, and all kinds with it clear."""
_OTHERS = tuple(bytes(k for k in range(256) if not k & bit) for bit in (pf.ID, pf.W, SECOND))
"""What is neither a fetch, nor a write, nor a second page."""


class KnownSites:
    """The sites so far, to which each chunk adds its own.

    What a chunk was given stays as it was: who takes the place of another is listed in a copy.
    """

    def __init__(self) -> None:
        self.now, self._count = no_sites(), 0

    def add(self, known: int, slots: memoryview, gva: memoryview, kind: memoryview) -> None:
        """Add a chunk's columns to the *known* ones before it.

        Raise DamagedError if this is not how many are known, or a column cannot be.
        """
        if known != self._count:
            raise DamagedError("a chunk before it is not there")
        places, added = _column("H", slots), _checked(gva, kind)
        self._count += len(added)
        if listed(places, self.now.kind):
            self.now = Sites(self.now.gva[:], self.now.kind[:])
        list_sites(places, added, kind, self.now)


class Chunk:
    """The accesses of one chunk; *where* is the file and chunk to name if a frame is damaged.

    Raise DamagedError if the columns contradict each other. Frames are only looked at when accesses
    that were left out are asked for.
    """

    def __init__(
        self,
        head: ChunkHead,
        columns: Sequence[memoryview],
        frames: Stored,
        known: KnownSites,
        where: str,
    ) -> None:
        self.head = head
        self._columns, self._frames, self._where = columns, frames, where
        slots, site_gva, site_kind, reference_ends, kept_ends, frame_ends, kept = columns
        known.add(head.known, slots, site_gva, site_kind)
        self._sites = known.now
        self._reference_ends = _ends(reference_ends, head.references)
        self._kept_ends = _ends(kept_ends, head.kept)
        self._frame_ends = _ends(frame_ends, head.packed)
        if 0 in map(int.__sub__, self._kept_ends[1:], self._kept_ends):
            raise DamagedError("a span keeps no access")
        self._kept = _column("H", kept)
        if listed(self._kept, self._sites.kind) < len(self._kept):
            raise DamagedError("an access is of a page that is not listed")

    def reduced(self) -> Compact:
        """Return the accesses as a step, those that change nothing left out."""
        return self._first_spans(self.head.spans)

    def first(self, references: int) -> Iterator[Accesses | Compact]:
        """Yield the accesses of the first *references* references, of which there are more.

        With 0 that is the second page of a reference that the chunk before ends with, or nothing.
        All but those of one span come reduced.
        """
        nth = bisect_right(self._reference_ends, references) - 1
        if nth:
            yield self._first_spans(nth)
        references -= self._reference_ends[nth]
        for gva, kind in self._windows_of(self._frame(nth).opened()):
            kinds, end = kind.tobytes(), len(kind)
            count = len(kinds.translate(None, _SECONDS))
            if count > references:
                firsts = (index for index, k in enumerate(kinds) if not k & SECOND)
                end = next(islice(firsts, references, None))
            references -= count
            if end:
                yield Accesses(gva[:end], array("B", kinds[:end].translate(_FIRSTS)))
            if references < 0:
                return

    def _first_spans(self, count: int) -> Compact:
        kept, sites = self._kept[: self._kept_ends[count]], self._sites
        accesses = min(count * SPAN, self.head.accesses)
        return Compact(kept, sites.gva, sites.kind, accesses, SETS, WAYS, self._rest)

    def windows(self) -> Iterator[tuple[array[int], array[int]]]:
        """Yield all accesses by window, with SECOND set in kinds; raise TraceError."""
        tally, near, head = [0, 0, 0], 0, self.head
        for nth in range(head.spans):
            span, accesses = self._frame(nth).opened(), 0
            near += len(span.columns.near)
            seconds = tally[2]
            for gva, kind in self._windows_of(span):
                kinds = kind.tobytes()
                for i, others in enumerate(_OTHERS):
                    tally[i] += len(kinds.translate(None, others))
                accesses += len(kinds)
                yield gva, kind
            start, end = self._reference_ends[nth : nth + 2]
            if accesses - (tally[2] - seconds) != end - start:
                raise self._damaged("a span holds other references than it tells")
        if tally != [head.fetches, head.writes, head.accesses - head.references]:
            raise self._damaged("holds other kinds than its head tells")
        if near != head.near:
            raise self._damaged("its windows keep other accesses than its head tells")

    @staticmethod
    def _windows_of(span: Span) -> Iterator[tuple[array[int], array[int]]]:
        for window in range(span.windows):
            gva, kind, _ = span.expanded(window, mark=SECOND)
            yield gva, kind

    def add_to(self, digest: hashlib._Hash) -> None:
        """Add what the header's sha256 is of; raise TraceError for frames that were changed."""
        if zlib.crc32(self._frames[: self.head.packed]) != self.head.frames_crc:
            raise self._damaged("the CRC of its frames is wrong")
        for nth in range(self.head.spans):
            digest.update(self._frame(nth).content)
        digest.update(COUNTS.pack(self.head.accesses, self.head.references, self.head.known))
        for nth in DIGESTED:
            column = self._columns[nth]
            digest.update(column)
            digest.update(bytes(padded(len(column)) - len(column)))

    def _rest(self, at: int) -> InSpan:
        nth = bisect_right(self._kept_ends, at) - 1
        return InSpan(self._frame(nth), at - self._kept_ends[nth], self._kept_ends[nth + 1])

    def _frame(self, nth: int) -> Frame:
        start, end = self._frame_ends[nth : nth + 2]
        content = unpacked_frame(self._frames[start:end])
        if content is None:
            raise self._damaged("a frame does not unpack")
        kept = self._kept[self._kept_ends[nth] : self._kept_ends[nth + 1]]
        accesses = min(self.head.accesses - nth * SPAN, SPAN)
        return Frame(content, kept, self._sites, accesses, self._damaged)

    def _damaged(self, what: str) -> TraceError:
        return TraceError(self._where, None, what, AGAIN)


def _column(code: Literal["H", "I", "Q"], column: memoryview) -> Words:
    if sys.byteorder == "big":  # pragma: no cover - no such machine to test on
        made = array(code, column.tobytes())
        made.byteswap()
        return made
    return column.cast(code)


def _checked(gva: memoryview, kind: memoryview) -> Words:
    sites = _column("Q", gva)
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
