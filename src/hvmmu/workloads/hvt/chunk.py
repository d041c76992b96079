"""One chunk of an .hvt file as it was read: its columns, and the accesses they stand for."""

from __future__ import annotations

import struct
import sys
from array import array
from bisect import bisect_right
from typing import TYPE_CHECKING, Literal

from hvmmu.arch import pfec as pf
from hvmmu.errors import TraceError
from hvmmu.guest.steps import Reduced
from hvmmu.workloads.codec import zstd_unpack
from hvmmu.workloads.hvt.fastest import expand, most, within
from hvmmu.workloads.hvt.layout import ChunkHead, padded
from hvmmu.workloads.hvt.reduction import KINDS, SECOND, WINDOW, DamagedError, Sites
from hvmmu.workloads.tracefile import USER_END, USER_START

if TYPE_CHECKING:
    import hashlib
    from collections.abc import Iterator, Sequence

    from hvmmu.guest.steps import Words

AGAIN = "import it, or copy it, again"
_COUNTS = struct.Struct("<III")
_ANY_KIND = bytes(KINDS)
_OTHERS = tuple(bytes(k for k in range(256) if not k & bit) for bit in (pf.ID, pf.W, SECOND))
"""What is neither a fetch, nor a write, nor a second page."""


class KnownSites:
    """The sites so far, which a chunk goes on with, or starts anew.

    What a chunk was given stays as it was: others are added behind, or are begun elsewhere.
    """

    def __init__(self) -> None:
        self.now, self._count = Sites(), 0

    def add(self, known: int, gva: memoryview, kind: memoryview) -> int:
        """Add a chunk's columns to the *known* first; return how many there are.

        Raise DamagedError if this is not how many are known, or a column cannot be.
        """
        if known not in (0, self._count):
            raise DamagedError("a chunk before it is not there")
        if not known:
            self.now = Sites()
        added = _checked(gva, kind)
        self._count = known + len(added)
        self.now.gva[known : self._count] = added
        self.now.kind[known : self._count] = kind
        return self._count


class Chunk:
    """The accesses of one chunk; *where* is the file and chunk to name if its tokens are damaged.

    Raise DamagedError if the columns contradict each other. The tokens are only looked at when
    accesses that were left out are asked for.
    """

    def __init__(
        self,
        head: ChunkHead,
        sets: int,
        columns: Sequence[memoryview],
        known: KnownSites,
        where: str,
    ) -> None:
        self.head = head
        self._sets, self._columns, self._where = sets, columns, where
        site_gva, site_kind, kept_ends, token_ends, kept, _ = columns
        count = known.add(head.known, site_gva, site_kind)
        self._sites = known.now
        self._kept_ends = _ends(kept_ends, head.kept)
        self._token_ends = _ends(token_ends, head.raw)
        if 0 in map(int.__sub__, self._kept_ends[1:], self._kept_ends):
            raise DamagedError("a window keeps no access")
        self._kept = _column("H", kept)
        if most(self._kept) >= count:
            raise DamagedError("an access is of a page that is not listed")
        self._raw: bytes | None = None

    def reduced(self) -> Reduced:
        """Return the accesses as a step, those that change nothing left out."""
        sites = self._sites
        return Reduced(
            self._kept, sites.gva, sites.kind, self.head.accesses, self._sets, self._rest
        )

    def windows(self) -> Iterator[tuple[array[int], array[int]]]:
        """Yield all accesses by window, with SECOND set in kinds; raise TraceError."""
        tally = [0, 0, 0]
        for window in range(self.head.windows):
            gva, kind, _ = self._expanded(window, 0, SECOND)
            kinds = kind.tobytes()
            for i, others in enumerate(_OTHERS):
                tally[i] += len(kinds.translate(None, others))
            yield gva, kind
        head = self.head
        if tally != [head.fetches, head.writes, head.accesses - head.references]:
            raise TraceError(self._where, None, "holds other kinds than its head tells", AGAIN)

    def add_to(self, digest: hashlib._Hash) -> None:
        """Add what the header's sha256 is of."""
        digest.update(_COUNTS.pack(self.head.accesses, self.head.references, self.head.known))
        for column in self._columns[:-1]:
            digest.update(column)
            digest.update(bytes(padded(len(column)) - len(column)))
        digest.update(self._tokens())

    def _rest(self, at: int) -> tuple[Words, Words, int]:
        window = bisect_right(self._kept_ends, at) - 1
        gva, kind, place = self._expanded(window, at - self._kept_ends[window], 0)
        return memoryview(gva)[place:], memoryview(kind)[place:], self._kept_ends[window + 1]

    def _expanded(self, window: int, first: int, mark: int) -> tuple[array[int], array[int], int]:
        start, end = self._kept_ends[window : window + 2]
        tokens = memoryview(self._tokens())[slice(*self._token_ends[window : window + 2])]
        room = min(self.head.accesses - window * WINDOW, WINDOW)
        try:
            return expand(tokens, self._kept[start:end], self._sites, room, first=first, mark=mark)
        except DamagedError as error:
            raise TraceError(self._where, None, str(error), AGAIN) from None

    def _tokens(self) -> bytes:
        if self._raw is None:
            self._raw = zstd_unpack(bytes(self._columns[-1]), self.head.raw)
        if self._raw is None:
            raise TraceError(self._where, None, "its tokens do not unpack", AGAIN)
        return self._raw


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
    """Return where each window starts, and at last where the last one ends."""
    ends = [0, *_column("I", column)]
    if ends != sorted(ends) or ends[-1] != last:
        raise DamagedError("its windows are out of order")
    return ends
