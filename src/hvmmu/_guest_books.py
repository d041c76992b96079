"""The books of the guest kernel that C and Python both change: each side is brought up to date."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from hvmmu._core.binding import ffi
from hvmmu._guest.faults import MOST_REPEATS
from hvmmu._guest.layout import KERNEL_BASE, USER_END
from hvmmu._guest.pager import CAUSES
from hvmmu.steps import Backing
from hvmmu.types import PAGE_SHIFT, Gpa, Gva

if TYPE_CHECKING:
    from hvmmu._guest.frames import Zone
    from hvmmu._guest.os import GuestOs
    from hvmmu.vcpu import Vcpu

_FREE = 256
"""How many of a zone's frames that were given back C has at a time."""


class GuestBooks:
    """The books of one guest."""

    def __init__(self, vcpu: Vcpu, guest: GuestOs) -> None:
        self._guest = guest
        self._regions: tuple[object, int] | None = None
        self._caches: list[Any] = []
        lane = self._lane = vcpu.c
        lane.kernel_base, lane.user_end = KERNEL_BASE, USER_END
        lane.zero_frame = guest.pager.zero_frame
        lane.most_repeats = MOST_REPEATS
        lane.nx, lane.set_accessed_dirty = guest.entries.nx, guest.entries.set_accessed_dirty
        self._shared = ffi.from_buffer("uint32_t[]", guest.frames.shared.obj)
        lane.shared, lane.first_data = self._shared, guest.frames.data.first
        tables = guest.frames.tables.end >> PAGE_SHIFT
        self._used, self._noted = ffi.new("hv_used[]", tables), ffi.new("uint32_t[]", tables)
        lane.used, lane.noted_tables = self._used, self._noted
        lane.has_guest = True

    def push(self) -> None:
        """Bring C's side up to date."""
        lane, guest, process = self._lane, self._guest, self._guest.current
        lane.root = process.root
        (lane.last_gva, lane.last_pfec), lane.repeats = guest.handler.last, guest.handler.repeats
        _give_zone(lane.tables, guest.frames.tables)
        _give_zone(lane.data, guest.frames.data)
        now = process.regions, process.regions.changes
        if now != self._regions:
            self._give_regions()
            self._regions = now

    def pull(self) -> None:
        """Bring Python's side up to date."""
        self._take_faults()
        self._take_frames()
        self._take_tables()

    def failed(self) -> None:
        """Look for pages of files again: a fault may have ended half-way."""
        for cache in self._caches:
            if cache is not None:
                cache.is_ahead = True
        self._regions = None

    def _give_regions(self) -> None:
        regions = list(self._guest.current.regions)
        self._c_regions = ffi.new("hv_region[]", len(regions))
        self._caches = [region.cache for region in regions]
        for made, region in zip(self._c_regions, regions, strict=True):
            made.start, made.end, made.prot = region.start, region.end, region.prot
            made.inferred = region.backing is Backing.INFERRED
            made.file = region.backing is Backing.FILE
            made.own_file = region.cache is not None and not region.cache.is_ahead
        self._lane.regions, self._lane.region_count = self._c_regions, len(regions)

    def _take_faults(self) -> None:
        lane, handler, counters = self._lane, self._guest.handler, self._guest.pager.counters
        handler.log.add_all(ffi.buffer(lane.log, lane.log_bytes))
        lane.log_bytes = 0
        handler.last, handler.repeats = (lane.last_gva, lane.last_pfec), lane.repeats
        for at, cause in enumerate(CAUSES):
            counters[cause] += lane.causes[at]
            lane.causes[at] = 0

    def _take_frames(self) -> None:
        lane, frames = self._lane, self._guest.frames
        _take_zone(lane.tables, frames.tables)
        _take_zone(lane.data, frames.data)
        for cached in lane.cached[0 : lane.cached_count]:
            self._caches[cached.region].frames[Gva(cached.gva)] = Gpa(cached.frame)
        lane.cached_count = 0

    def _take_tables(self) -> None:
        lane, used = self._lane, self._guest.tables.used
        for nth in lane.noted_tables[0 : lane.noted_count]:
            table, count = Gpa(nth << PAGE_SHIFT), lane.used[nth]
            used[table] = used.get(table, 0) + count.gained
            count.gained = count.noted = 0
        lane.noted_count = 0


def _give_zone(made: Any, zone: Zone) -> None:  # noqa: ANN401 - a struct of cffi's
    made.next, made.end = zone.next, zone.end
    free = zone.free[-_FREE:]
    made.free_count, made.more_free = len(free), len(zone.free) > len(free)
    if free:
        made.free[0 : len(free)] = free


def _take_zone(made: Any, zone: Zone) -> None:  # noqa: ANN401 - a struct of cffi's
    """Take over which frames went out."""
    given = min(len(zone.free), _FREE)
    del zone.free[len(zone.free) - given + made.free_count :]
    zone.next = made.next
