"""A TLB that really caches: split first level, shared second, set-associative, true LRU.

Within a set the most recently used entry comes first. An entry found in the second level is the
same object as in the first, so a refreshed entry is fresh in both.
"""

from collections.abc import Iterator

from hvmmu.errors import InvariantError
from hvmmu.tlb import Scope, TlbGeometry

SHIFTS = (12, 21, 30)
"""The page sizes a TLB holds: 4 KiB, 2 MiB, 1 GiB. (A 4 MiB page is held as two of 2 MiB.)"""


class TlbEntry:
    """One cached translation; *access* has the bits of a kind, *tag* is page number and size."""

    __slots__ = ("access", "base", "dirty", "is_global", "mask", "pkey", "tag")

    def __init__(
        self,
        tag: int,
        base: int,
        *,
        mask: int,
        access: int,
        pkey: int,
        dirty: bool,
        is_global: bool,
    ) -> None:
        self.tag = tag
        self.base = base
        """Physical address of the page."""
        self.mask = mask
        """Page size minus one."""
        self.access = access
        self.pkey = pkey
        self.dirty = dirty
        self.is_global = is_global


Sets = list[list[TlbEntry]]


def tag_of(va: int, size: int) -> int:
    """Return the tag of *va* in a page of SHIFTS[size]."""
    return va >> SHIFTS[size] << 2 | size


class Tlb:
    """Instruction and data first levels over one second level."""

    def __init__(self, geometry: TlbGeometry) -> None:
        self.instruction: Sets = [[] for _ in range(geometry.instruction.sets)]
        self.data: Sets = [[] for _ in range(geometry.data.sets)]
        self._second: Sets = [[] for _ in range(geometry.second.sets)]
        self._ways = geometry.instruction.ways, geometry.data.ways
        self._second_ways = geometry.second.ways
        self._sizes = [0]
        """Which of SHIFTS have been seen: 4 KiB alone costs one probe."""
        self.first_misses = [0, 0]
        """Fills of the instruction and of the data level."""
        self.second_misses = 0

    def find(self, va: int, *, fetch: bool) -> TlbEntry | None:
        """Return the entry for *va*, made most recent; None on a miss, which changes nothing."""
        first = self.instruction if fetch else self.data
        for size in self._sizes:
            entry = _take(first, tag_of(va, size))
            if entry is not None:
                return entry
        for size in self._sizes:
            entry = _take(self._second, tag_of(va, size))
            if entry is not None:
                self._put_first(entry, fetch=fetch)
                return entry
        return None

    def promote(self, va: int, *, fetch: bool) -> None:
        """Make the entry of a 4 KiB page the most recent one of its first level, if it is there."""
        _take(self.instruction if fetch else self.data, tag_of(va, 0))

    def fill(self, va: int, entry: TlbEntry, *, fetch: bool) -> None:
        """Cache *entry* for *va* after a walk that found it nowhere."""
        size = entry.tag & 3
        if size not in self._sizes:
            self._sizes.append(size)
            self._sizes.sort()
        if entry.tag != tag_of(va, size):
            raise InvariantError(f"TLB entry for {va:#x} carries another page's tag")
        _insert(self._second, self._second_ways, entry)
        self.second_misses += 1
        self._put_first(entry, fetch=fetch)

    def _put_first(self, entry: TlbEntry, *, fetch: bool) -> None:
        first, ways = (self.instruction, self._ways[0]) if fetch else (self.data, self._ways[1])
        _insert(first, ways, entry)
        self.first_misses[0 if fetch else 1] += 1

    def flush(self, scope: Scope, va: int = 0) -> None:
        """Drop entries; *va* is read only for one page."""
        for ways in self._all_sets():
            if scope is Scope.ALL:
                ways.clear()
            elif scope is Scope.NON_GLOBAL:
                ways[:] = [entry for entry in ways if entry.is_global]
        if scope is Scope.PAGE:
            for size in self._sizes:
                tag = tag_of(va, size)
                for sets in (self.instruction, self.data, self._second):
                    _drop(sets, tag)

    def _all_sets(self) -> Iterator[list[TlbEntry]]:
        for sets in (self.instruction, self.data, self._second):
            yield from sets

    def entries(self) -> Iterator[TlbEntry]:
        """Yield every cached entry, those in two levels twice."""
        for ways in self._all_sets():
            yield from ways


def _ways_of(sets: Sets, tag: int) -> list[TlbEntry]:
    return sets[(tag >> 2) & (len(sets) - 1)]


def _take(sets: Sets, tag: int) -> TlbEntry | None:
    """Find *tag* and move it to the front of its set."""
    ways = _ways_of(sets, tag)
    for at, entry in enumerate(ways):
        if entry.tag == tag:
            if at:
                del ways[at]
                ways.insert(0, entry)
            return entry
    return None


def _insert(sets: Sets, limit: int, entry: TlbEntry) -> None:
    """Put *entry* in front, in place of an older one of its tag, else of the least recent."""
    _drop(sets, entry.tag)
    ways = _ways_of(sets, entry.tag)
    if len(ways) == limit:
        ways.pop()
    ways.insert(0, entry)


def _drop(sets: Sets, tag: int) -> None:
    ways = _ways_of(sets, tag)
    ways[:] = [entry for entry in ways if entry.tag != tag]
