"""One chunk of an .hvt file as it was read: its columns, and the accesses they stand for."""

from __future__ import annotations

import struct
import sys
from array import array
from bisect import bisect_right
from typing import TYPE_CHECKING

from hvmmu.errors import TraceError
from hvmmu.guest.steps import Reduced
from hvmmu.workloads.codec import zstd_unpack
from hvmmu.workloads.hvt.fastest import expand, look_up
from hvmmu.workloads.hvt.layout import ChunkHead, padded
from hvmmu.workloads.hvt.reduction import KINDS, SECOND, WINDOW, DamagedError
from hvmmu.workloads.lackey import USER_END, USER_START

if TYPE_CHECKING:
    import hashlib
    from collections.abc import Iterator, Sequence

    from hvmmu.guest.steps import Words

AGAIN = "import it, or copy it, again"
_COUNTS = struct.Struct("<III")
_UNMARKED = bytes(kind & ~SECOND for kind in range(256))
_ANY_KIND = bytes(KINDS)


class Sites:
    """The distinct pairs of page and kind so far, which a chunk goes on with, or starts anew."""

    def __init__(self) -> None:
        self.clear()

    def clear(self) -> None:
        """Forget all."""
        self.gva, self.kind = array("Q"), bytearray()

    def add(self, known: int, gva: bytes, kind: bytes) -> None:
        """Add a chunk's columns to the *known* first; raise DamagedError."""
        if known not in (0, len(self.gva)):
            raise DamagedError("a chunk before it is not there")
        if not known:
            self.clear()
        self.gva += _checked(gva, kind)
        self.kind += kind


class Chunk:
    """The accesses of one chunk; *where* is the file and chunk to name if its tokens are damaged.

    Raise DamagedError if the columns contradict each other. The tokens are only looked at when
    accesses that were left out are asked for.
    """

    def __init__(
        self, head: ChunkHead, sets: int, columns: Sequence[bytes], sites: Sites, where: str
    ) -> None:
        self.head = head
        self._sets, self._columns, self._where = sets, columns, where
        site_gva, site_kind, kept_ends, token_ends, kept, _ = columns
        sites.add(head.known, site_gva, site_kind)
        self._kept_ends = _ends(kept_ends, head.kept)
        self._token_ends = _ends(token_ends, head.raw)
        if 0 in map(int.__sub__, self._kept_ends[1:], self._kept_ends):
            raise DamagedError("a window keeps no access")
        self.gva, self.kind = look_up(_column("H", kept), sites.gva, sites.kind)
        self._raw: bytes | None = None

    def reduced(self) -> Reduced:
        """Return the accesses as a step, those that change nothing left out."""
        return Reduced(self.gva, self.kind, self.head.accesses, self._sets, self._rest)

    def windows(self) -> Iterator[tuple[array[int], array[int]]]:
        """Yield all accesses by window, with SECOND set in kinds; raise TraceError."""
        for window in range(self.head.windows):
            gva, kind, _ = self._expanded(window)
            yield gva, kind

    def add_to(self, digest: hashlib._Hash) -> None:
        """Add what the header's sha256 is of."""
        digest.update(_COUNTS.pack(self.head.accesses, self.head.references, self.head.known))
        for column in self._columns[:-1]:
            digest.update(column.ljust(padded(len(column)), b"\0"))
        digest.update(self._tokens())

    def _rest(self, at: int) -> tuple[Words, Words, int]:
        window = bisect_right(self._kept_ends, at) - 1
        gva, kind, where = self._expanded(window)
        start = where[at - self._kept_ends[window]]
        kinds = array("B", kind[start:].tobytes().translate(_UNMARKED))
        return gva[start:], kinds, self._kept_ends[window + 1]

    def _expanded(self, window: int) -> tuple[array[int], array[int], array[int]]:
        start, end = self._kept_ends[window : window + 2]
        first, last = self._token_ends[window : window + 2]
        size = min(self.head.accesses - window * WINDOW, WINDOW)
        try:
            return expand(
                self._tokens()[first:last], self.gva[start:end], self.kind[start:end], size
            )
        except DamagedError as error:
            raise TraceError(self._where, None, str(error), AGAIN) from None

    def _tokens(self) -> bytes:
        if self._raw is None:
            self._raw = zstd_unpack(self._columns[-1], self.head.raw)
        if self._raw is None:
            raise TraceError(self._where, None, "its tokens do not unpack", AGAIN)
        return self._raw


def _column(code: str, column: bytes) -> array[int]:
    made = array(code, column)
    if sys.byteorder == "big":  # pragma: no cover - no such machine to test on
        made.byteswap()
    return made


def _checked(gva: bytes, kind: bytes) -> array[int]:
    sites = _column("Q", gva)
    if sites and (min(sites) < USER_START or max(sites) >= USER_END):
        raise DamagedError("an address is not in the user half")
    if kind.translate(None, _ANY_KIND):
        raise DamagedError("an access is of no known kind")
    return sites


def _ends(column: bytes, last: int) -> list[int]:
    """Return where each window starts, and at last where the last one ends."""
    ends = [0, *_column("I", column)]
    if ends != sorted(ends) or ends[-1] != last:
        raise DamagedError("its windows are out of order")
    return ends
