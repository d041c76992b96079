"""What a process has mapped: a sorted list of regions, split and merged at page borders."""

from __future__ import annotations

from bisect import bisect_left, bisect_right
from operator import attrgetter
from typing import TYPE_CHECKING

import attrs

from hvmmu._core.binding import ffi, lib
from hvmmu.steps import Backing
from hvmmu.types import PAGE_SIZE, Gpa, Gva

if TYPE_CHECKING:
    from collections.abc import Iterator

_START, _END = attrgetter("start"), attrgetter("end")
_BACKINGS = {backing: number for number, backing in enumerate(Backing)}


class PageCache:
    """The frames of one mapped file.

    *pages* counts the pages that regions still map; at zero nobody can reach the file again.
    """

    def __init__(self, pages: int) -> None:
        self.pages = pages
        made = lib.hv_page_cache_new()
        if made == ffi.NULL:
            raise MemoryError("no memory for a page cache")
        self.handle = ffi.gc(made, lib.hv_page_cache_free)
        """The struct `hv_page_cache`."""

    @property
    def frames(self) -> dict[Gva, Gpa]:
        """The frames that were read in, by page address in the file's first mapping."""
        pages = self.handle.pages[0 : self.handle.count]
        return {Gva(page.gva): Gpa(page.frame) for page in pages}


@attrs.frozen(eq=False)
class Region:
    """Addresses from *start* up to *end* under one protection, from one backing."""

    start: Gva
    end: Gva
    prot: int
    backing: Backing
    cache: PageCache | None

    @property
    def pages(self) -> int:
        """Count its pages."""
        return (self.end - self.start) // PAGE_SIZE

    def part(self, start: int, end: int, prot: int | None = None) -> Region:
        """Return what of the region lies from *start* up to *end*, under *prot* if given."""
        return attrs.evolve(
            self,
            start=Gva(max(self.start, start)),
            end=Gva(min(self.end, end)),
            prot=self.prot if prot is None else prot,
        )

    def continues(self, before: Region) -> bool:
        """Say whether *before* and this region are one."""
        return (
            before.end == self.start
            and before.prot == self.prot
            and before.backing is self.backing
            and before.cache is self.cache
        )


class Regions:
    """The regions of one process: never overlapping, and merged wherever they can be."""

    def __init__(self, regions: list[Region] | None = None) -> None:
        self._sorted: list[Region] = regions or []
        self.described = ffi.new("hv_regions *", {"is_stale": True})
        """What C reads of them: the struct `hv_regions`."""

    def __iter__(self) -> Iterator[Region]:
        """Iterate in address order."""
        return iter(self._sorted)

    def copy(self) -> Regions:
        """Return an equal list that changes on its own."""
        return Regions(list(self._sorted))

    def describe(self) -> None:
        """Write down for C what the list holds now."""
        self._array = ffi.new("hv_region[]", [_as_c(region) for region in self._sorted])
        self.described.sorted, self.described.count = self._array, len(self._sorted)
        self.described.is_stale = False

    def within(self, start: int, end: int) -> list[Region]:
        """Return the parts of regions that lie from *start* up to *end*, in order."""
        return [region.part(start, end) for region in self._sorted[self._touching(start, end)]]

    def insert(self, region: Region) -> None:
        """Add *region*, which overlaps none, and merge it with its neighbours."""
        self._replace(region.start, region.end, [region])

    def remove(self, start: int, end: int) -> None:
        """Forget everything from *start* up to *end*."""
        self._replace(start, end, [])

    def protect(self, start: int, end: int, prot: int) -> None:
        """Give everything from *start* up to *end* the protection *prot*."""
        self._replace(start, end, [r.part(start, end, prot) for r in self.within(start, end)])

    def _touching(self, start: int, end: int) -> slice:
        first = bisect_right(self._sorted, start, key=_END)
        return slice(first, bisect_left(self._sorted, end, key=_START))

    def _replace(self, start: int, end: int, new: list[Region]) -> None:
        self.described.is_stale = True
        touched = self._touching(start, end)
        old = self._sorted[touched]
        head = [old[0].part(0, start)] if old and old[0].start < start else []
        tail = [old[-1].part(end, old[-1].end)] if old and old[-1].end > end else []
        # One neighbour on each side takes part in the merge.
        low, high = max(touched.start - 1, 0), touched.stop + 1
        before, after = self._sorted[low : touched.start], self._sorted[touched.stop : high]
        self._sorted[low:high] = _merged([*before, *head, *new, *tail, *after])


def _as_c(region: Region) -> dict[str, object]:
    return {
        "start": region.start,
        "end": region.end,
        "prot": region.prot,
        "backing": _BACKINGS[region.backing],
        "file": ffi.NULL if region.cache is None else region.cache.handle,
    }


def _merged(regions: list[Region]) -> list[Region]:
    merged: list[Region] = []
    for region in regions:
        if merged and region.continues(merged[-1]):
            merged[-1] = attrs.evolve(merged[-1], end=region.end)
        else:
            merged.append(region)
    return merged
