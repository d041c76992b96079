"""Shadow pages kept in C, for the fast lane to change in place: what `ShadowPages` is otherwise.

`_core/shadow_page.c` does the work. It wants a guest whose tables all lie in its one memslot.
"""

from __future__ import annotations

from functools import lru_cache
from typing import TYPE_CHECKING, Any

from hvmmu._core.engine import ffi, lib
from hvmmu.arch.role import Role
from hvmmu.errors import GuestMemoryError, InvariantError
from hvmmu.flush import Flush
from hvmmu.tlb import Scope
from hvmmu.types import ENTRIES, PAGE_SHIFT

if TYPE_CHECKING:
    from collections.abc import Iterator

    from hvmmu._core.engine import CompiledEngine
    from hvmmu.memory import Memory, Memslot
    from hvmmu.spte import Nonpresent

_FLAGS = ("dirty", "bypassable", "pke", "nxe", "cr0_wp", "smep_andnot_wp", "smap_andnot_wp")
_FIRST_FLAG = 13
_ROOM = 64


@lru_cache(maxsize=4096)
def packed(role: Role) -> int:
    """Return a role as C has it: see pages.h."""
    flags = sum(bool(getattr(role, flag)) << at for at, flag in enumerate(_FLAGS))
    return role.level | role.direct << 3 | role.access << 4 | role.pkey << 9 | flags << _FIRST_FLAG


@lru_cache(maxsize=4096)
def unpacked(role: int) -> Role:
    """Return a role as Python has it."""
    flags = {flag: bool(role >> _FIRST_FLAG + at & 1) for at, flag in enumerate(_FLAGS)}
    return Role(
        level=role & 7,
        direct=bool(role >> 3 & 1),
        access=role >> 4 & 0x1F,
        pkey=role >> 9 & 0xF,
        **flags,
    )


class CompiledPage:
    """A shadow page as `ShadowPage` is one, but kept in C."""

    __slots__ = ("_page", "_pages", "gfn", "hpa", "role", "serial")

    def __init__(self, pages: Any, frame: int) -> None:  # noqa: ANN401 - a struct of cffi's
        self._pages, self._page = pages, pages.pages + frame
        self.hpa = frame << PAGE_SHIFT
        self.gfn, self.serial = self._page.gfn, self._page.serial
        self.role = unpacked(self._page.role)

    @property
    def parents(self) -> dict[int, None]:
        """Where the entries that link to this page lie (sptep)."""
        frame, pages = self.hpa >> PAGE_SHIFT, self._pages
        return dict.fromkeys(_listed(lambda out, room: lib.hv_parents(pages, frame, out, room)))

    @property
    def write_flooding(self) -> int:
        """Writes to the guest's table since the shadow was last of use."""
        return int(self._page.write_flooding)

    @write_flooding.setter
    def write_flooding(self, count: int) -> None:
        self._page.write_flooding = count

    @property
    def last_written(self) -> int | None:
        """The entry (sptep) that the last emulated write built."""
        return self._page.last_written or None

    @last_written.setter
    def last_written(self, sptep: int | None) -> None:
        self._page.last_written = sptep or 0


def _listed(fill: Any) -> list[int]:  # noqa: ANN401 - a function of cffi's
    room = _ROOM
    while True:
        out = ffi.new("uint64_t[]", room)
        count = fill(out, room)
        if count < room:
            return list(out[0:count])
        room *= 8


class CompiledRmap:
    """The reverse map, read only: what changes it changes an entry too."""

    def __init__(self, pages: Any) -> None:  # noqa: ANN401 - a struct of cffi's
        self._pages = pages

    def _of(self, gfn: int) -> Iterator[tuple[int, int]]:
        pages = self._pages
        for sptep in _listed(lambda out, room: lib.hv_leaves(pages, gfn, out, room)):
            yield sptep, pages.pages[sptep >> PAGE_SHIFT].role & 7

    def leaves(self, gfn: int, level: int) -> list[int]:
        """Return the leaves of *level* whose first frame is *gfn*."""
        return [sptep for sptep, at in self._of(gfn) if at == level]

    def items(self) -> Iterator[tuple[int, int, int]]:
        """Yield every (gfn, sptep, level)."""
        for gfn in range(self._pages.ram_size >> PAGE_SHIFT):
            if self._pages.leaves[gfn]:
                for sptep, level in self._of(gfn):
                    yield gfn, sptep, level

    def __len__(self) -> int:
        """Count the leaves."""
        return sum(1 for _ in self.items())


class CompiledPages:
    """The shadow pages of one guest, as `ShadowPages` keeps them, in C."""

    def __init__(
        self, memory: Memory, slot: Memslot, engine: CompiledEngine, end: int, entries: Nonpresent
    ) -> None:
        self._memory, self.nonpresent = memory, entries
        made = lib.hv_pages_new(
            engine.memory, slot.hpa, slot.size, end, entries.trap, entries.notrap
        )
        if made == ffi.NULL:
            raise MemoryError("no memory for the books of shadow pages")
        self.handle = ffi.gc(made, lib.hv_pages_free)
        self._known: dict[int, CompiledPage] = {}
        self.rmap = CompiledRmap(self.handle)

    @property
    def zapped(self) -> int:
        """Shadow pages given up since the start."""
        return int(self.handle.zapped)

    def page(self, frame: int) -> CompiledPage:
        """Return the shadow page in host frame *frame*, the same object each time."""
        known = self._known.get(frame)
        if known is None or known.serial != self.handle.pages[frame].serial:
            known = self._known[frame] = CompiledPage(self.handle, frame)
        return known

    def __iter__(self) -> Iterator[CompiledPage]:
        """Yield the shadow pages, oldest first."""
        frame = self.handle.oldest
        while frame:
            yield self.page(frame)
            frame = self.handle.pages[frame].newer

    def __len__(self) -> int:
        """Count the shadow pages."""
        return int(self.handle.count)

    def __contains__(self, page: CompiledPage) -> bool:
        """Say whether *page* is still in use."""
        return bool(self.handle.pages[page.hpa >> PAGE_SHIFT].serial == page.serial)

    def shadows_of(self, gfn: int) -> list[CompiledPage]:
        """Return the shadow pages that stand for the guest table at *gfn*; a copy."""
        found, frame = [], self.handle.by_gfn[gfn]
        while frame:
            page = self.page(frame)
            if not page.role.direct:
                found.append(page)
            frame = self.handle.pages[frame].next
        return found

    def is_table(self, gfn: int) -> bool:
        """Say whether *gfn* is shadowed as a page table, so that writes to it must exit."""
        return bool(lib.hv_is_table(self.handle, gfn))

    def holds_table(self, gfn: int) -> bool:
        """Say whether any frame of the 2 MiB region around *gfn* is shadowed as a page table."""
        return bool(lib.hv_holds_table(self.handle, gfn))

    def entry(self, sptep: int) -> int:
        """Return the entry at *sptep*."""
        spte: int = self._memory.u64[sptep >> 3]
        return spte

    def entries(self, page: CompiledPage) -> list[int]:
        """Return the 512 entries of *page*."""
        first = page.hpa >> 3
        return self._memory.u64[first : first + ENTRIES].tolist()

    def child(self, sptep: int) -> CompiledPage | None:
        """Return the shadow page that the entry at *sptep* links to, None if it links to none."""
        frame = lib.hv_child(self.handle, sptep)
        return self.page(frame) if frame else None

    def get(self, gfn: int, role: Role) -> tuple[CompiledPage, Flush]:
        """Return the shadow page for *gfn* under *role*, built if there is none."""
        if gfn >= self.handle.ram_size >> PAGE_SHIFT:
            raise InvariantError(f"the guest has a page table at gfn {gfn:#x}, beyond its memory")
        flush = ffi.new("int32_t *")
        frame = lib.hv_page_get(self.handle, gfn, packed(role), flush)
        if not frame:
            raise GuestMemoryError("no host frame left for shadow tables; raise mmu.shadow_pages")
        return self.page(frame), Flush(Scope.ALL if flush[0] else None)

    def link(self, sptep: int, child: CompiledPage) -> None:
        """Point the entry at *sptep*, which maps nothing, to *child*."""
        lib.hv_link(self.handle, sptep, child.hpa >> PAGE_SHIFT)

    def set_leaf(self, sptep: int, spte: int, gfn: int, level: int) -> None:
        """Write a leaf into the entry at *sptep*, which maps nothing."""
        del gfn, level  # the entry and its page say them
        lib.hv_set_leaf(self.handle, sptep, spte)

    def set_notrap(self, sptep: int) -> None:
        """Leave the entry at *sptep*, which maps nothing, to the guest's own not-present fault."""
        lib.hv_set_notrap(self.handle, sptep)

    def zap_entry(self, sptep: int) -> Flush:
        """Make the entry at *sptep* trap, whatever it was."""
        return Flush(Scope.ALL if lib.hv_zap_entry(self.handle, sptep) else None)

    def zap_page(self, page: CompiledPage) -> Flush:
        """Give a shadow page up: its entries, the links to it, its frame."""
        lib.hv_zap_page(self.handle, page.hpa >> PAGE_SHIFT)
        return Flush(Scope.ALL)
