"""Read-only views of the books of shadow pages, which are C's: see `shadow_page.h`.

The functions that change an entry are for tests and mutants; the MMU's own changes are made in C.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from hvmmu._core.engine import ffi, lib
from hvmmu.arch.role import Role
from hvmmu.errors import GuestMemoryError, InvariantError
from hvmmu.flush import Flush
from hvmmu.tlb import Scope
from hvmmu.types import ENTRIES, PAGE_SHIFT

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from hvmmu.memory import Memslots
    from hvmmu.spte import Nonpresent

_FAILURES: dict[int, tuple[type[Exception], str]] = {
    lib.HV_NO_HOST_MEMORY: (
        GuestMemoryError,
        "no memory left for the books of shadow tables; lower mmu.shadow_pages or guest.memory",
    ),
    lib.HV_NO_FRAMES: (
        GuestMemoryError,
        "no host frame left for shadow tables; raise mmu.shadow_pages",
    ),
    lib.HV_NO_ROOM: (
        GuestMemoryError,
        "all shadow pages are in use as roots; raise mmu.shadow_pages",
    ),
    lib.HV_NO_PAGING: (InvariantError, "a page fault exited before the guest turned paging on"),
    lib.HV_NO_ROOT: (InvariantError, "a page fault exited from a shadow root that was zapped"),
    lib.HV_NOT_CANONICAL: (InvariantError, "a page fault exited at no canonical address"),
}


def checked(result: int) -> int:
    """Return what a function of C's returned; raise the error that it stands for if negative."""
    if result < 0:
        kind, message = _FAILURES[result]
        raise kind(message)
    return result


class ShadowPage:
    """A shadow table: 512 entries at *hpa* that stand for guest table *gfn* under *role*."""

    __slots__ = ("_page", "_pages", "gfn", "hpa", "role", "serial")

    def __init__(self, pages: Any, frame: int) -> None:  # noqa: ANN401 - a struct of cffi's
        self._pages, self._page = pages, pages.pages + frame
        self.hpa = frame << PAGE_SHIFT
        self.gfn, self.serial = self._page.gfn, self._page.serial
        self.role = Role(self._page.role)

    @property
    def parents(self) -> set[int]:
        """Where the entries that link to this page lie (sptep)."""
        frame = self.hpa >> PAGE_SHIFT
        count = lib.hv_parents(self._pages, frame, ffi.NULL, 0)
        sptep = ffi.new("uint64_t[]", count)
        lib.hv_parents(self._pages, frame, sptep, count)
        return set(sptep)

    @property
    def write_flooding(self) -> int:
        """Writes to the guest's table since the shadow was last of use."""
        return int(self._page.write_flooding)

    @property
    def last_written(self) -> int | None:
        """The entry (sptep) that the last emulated write built."""
        return self._page.last_written or None


class Rmap:
    """The reverse map: which leaf entries map a guest frame."""

    def __init__(self, pages: Any, slots: Memslots) -> None:  # noqa: ANN401 - a struct of cffi's
        self._pages, self._slots = pages, slots

    def items(self) -> Iterator[tuple[int, int, int]]:
        """Yield every leaf as (gfn, sptep, level); a large one with its first gfn."""
        pages, count = self._pages, len(self)
        sptep, hpa = ffi.new("uint64_t[]", count), ffi.new("uint64_t[]", count)
        lib.hv_leaves(pages, sptep, hpa, count)
        for one, at in zip(sptep, hpa, strict=True):
            level = Role(pages.pages[one >> PAGE_SHIFT].role).level
            yield self._slots.gpa(at) >> PAGE_SHIFT, one, level

    def leaves(self, gfn: int, level: int) -> list[int]:
        """Return the leaves of *level* whose first frame is *gfn*."""
        return [sptep for first, sptep, at in self.items() if (first, at) == (gfn, level)]

    def __len__(self) -> int:
        """Count the leaves."""
        return int(lib.hv_leaves(self._pages, ffi.NULL, ffi.NULL, 0))


class ShadowPages:
    """The shadow pages of one guest."""

    def __init__(
        self,
        pages: Any,  # noqa: ANN401 - a struct of cffi's
        slots: Memslots,
        nonpresent: Nonpresent,
    ) -> None:
        self.pointer, self.nonpresent = pages, nonpresent
        self.rmap = Rmap(pages, slots)
        self._words = slots.memory.u64
        self._known: dict[int, ShadowPage] = {}

    @property
    def zapped(self) -> int:
        """Shadow pages given up since the start."""
        return int(self.pointer.zapped)

    def page(self, frame: int) -> ShadowPage:
        """Return the shadow page in host frame *frame*, the same object each time."""
        known = self._known.get(frame)
        if known is None or known.serial != self.pointer.pages[frame].serial:
            known = self._known[frame] = ShadowPage(self.pointer, frame)
        return known

    def __iter__(self) -> Iterator[ShadowPage]:
        """Yield the shadow pages, oldest first."""
        frame = self.pointer.oldest
        while frame:
            yield self.page(frame)
            frame = self.pointer.pages[frame].newer

    def __len__(self) -> int:
        """Count the shadow pages."""
        return int(self.pointer.count)

    def __contains__(self, page: ShadowPage) -> bool:
        """Say whether *page* is still in use."""
        return bool(self.pointer.pages[page.hpa >> PAGE_SHIFT].serial == page.serial)

    def shadows_of(self, gfn: int) -> list[ShadowPage]:
        """Return the shadow pages that stand for the guest table at *gfn*, oldest first."""
        found, frame = [], 0
        while frame := lib.hv_next_shadow(self.pointer, gfn, frame):
            found.append(self.page(frame))
        return found

    def is_table(self, gfn: int) -> bool:
        """Say whether *gfn* is shadowed as a page table, so that writes to it must exit."""
        return bool(lib.hv_is_table(self.pointer, gfn))

    def holds_table(self, gfn: int) -> bool:
        """Say whether any frame of the 2 MiB region around *gfn* is shadowed as a page table."""
        return bool(lib.hv_holds_table(self.pointer, gfn))

    def entry(self, sptep: int) -> int:
        """Return the entry at *sptep*."""
        spte: int = self._words[sptep >> 3]
        return spte

    def entries(self, page: ShadowPage) -> list[int]:
        """Return the 512 entries of *page*."""
        first = page.hpa >> 3
        return self._words[first : first + ENTRIES].tolist()

    def child(self, sptep: int) -> ShadowPage | None:
        """Return the shadow page that the entry at *sptep* links to, None if it links to none."""
        frame = lib.hv_child(self.pointer, sptep)
        return self.page(frame) if frame else None

    # Changes.

    def _changed(self, change: Callable[..., int | None], *arguments: int) -> tuple[int, Flush]:
        """Change the books; return what the change returned, and the flush that it owes."""
        before = self.pointer.flushes
        result = change(self.pointer, *arguments) or 0
        owed = self.pointer.flushes != before
        self.pointer.flushes = before  # the flush is the caller's, and no vCPU's
        return checked(result), Flush(Scope.ALL if owed else None)

    def get(self, gfn: int, role: Role) -> tuple[ShadowPage, Flush]:
        """Return the shadow page for *gfn* under *role*, built if there is none."""
        frame, flush = self._changed(lib.hv_page_get, gfn, role)
        return self.page(frame), flush

    def zap_page(self, page: ShadowPage) -> Flush:
        """Give a shadow page up: its entries, the links to it, its frame."""
        return self._changed(lib.hv_zap_page, page.hpa >> PAGE_SHIFT)[1]

    def zap_entry(self, sptep: int) -> Flush:
        """Make the entry at *sptep* trap, whatever it was."""
        return self._changed(lib.hv_zap_entry, sptep)[1]

    def link(self, sptep: int, child: ShadowPage) -> None:
        """Point the entry at *sptep*, which maps nothing, to *child*."""
        lib.hv_link(self.pointer, sptep, child.hpa >> PAGE_SHIFT)

    def set_leaf(self, sptep: int, spte: int) -> None:
        """Write a leaf into the entry at *sptep*, which maps nothing."""
        lib.hv_set_leaf(self.pointer, sptep, spte)

    def set_notrap(self, sptep: int) -> None:
        """Leave the entry at *sptep*, which maps nothing, to the guest's own not-present fault."""
        lib.hv_set_notrap(self.pointer, sptep)
