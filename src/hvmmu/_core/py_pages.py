"""The shadow pages there are, and every change to an entry of theirs.

Three things are kept true here at all times: the reverse map names exactly the leaves there are, a
page's parents are exactly the entries that link to it, and no leaf lets a write through to a guest
frame that is shadowed as a page table.
"""

from array import array
from collections.abc import Iterator

from hvmmu._core.py_rmap import Rmap
from hvmmu.arch import pte
from hvmmu.arch.role import Role, ShadowPage
from hvmmu.engine import Engine
from hvmmu.flush import Flush
from hvmmu.memory import FramePool, Memory, Memslots
from hvmmu.spte import Nonpresent, make_link
from hvmmu.tlb import Scope
from hvmmu.types import ENTRIES, PAGE_SIZE

LARGE_FRAMES = 512
"""Guest frames in a 2 MiB page."""


class ShadowPages:
    """The shadow pages of one guest, found by what they shadow and by where they lie."""

    def __init__(
        self, memory: Memory, slots: Memslots, engine: Engine, pool: FramePool, entries: Nonpresent
    ) -> None:
        self._memory, self._slots, self._engine, self._pool = memory, slots, engine, pool
        self.nonpresent = entries
        self.rmap = Rmap()
        self.zapped = 0
        """Shadow pages given up since the start."""
        self._pages: dict[tuple[int, Role], ShadowPage] = {}
        self._by_frame: dict[int, ShadowPage] = {}
        self._tables: dict[int, list[ShadowPage]] = {}
        self._tables_in_region: dict[int, int] = {}

    def __iter__(self) -> Iterator[ShadowPage]:
        """Yield the shadow pages, oldest first."""
        return iter(self._pages.values())

    def __len__(self) -> int:
        """Count the shadow pages."""
        return len(self._pages)

    def __contains__(self, page: ShadowPage) -> bool:
        """Say whether *page* is still in use."""
        return self._by_frame.get(page.hpa) is page

    def shadows_of(self, gfn: int) -> list[ShadowPage]:
        """Return the shadow pages that stand for the guest table at *gfn*; a copy."""
        return list(self._tables.get(gfn, ()))

    def is_table(self, gfn: int) -> bool:
        """Say whether *gfn* is shadowed as a page table, so that writes to it must exit."""
        return gfn in self._tables

    def holds_table(self, gfn: int) -> bool:
        """Say whether any frame of the 2 MiB region around *gfn* is shadowed as a page table."""
        return gfn // LARGE_FRAMES in self._tables_in_region

    def entry(self, sptep: int) -> int:
        """Return the entry at *sptep*."""
        spte: int = self._memory.u64[sptep >> 3]
        return spte

    def entries(self, page: ShadowPage) -> list[int]:
        """Return the 512 entries of *page*."""
        first = page.hpa >> 3
        return self._memory.u64[first : first + ENTRIES].tolist()

    def child(self, sptep: int) -> ShadowPage | None:
        """Return the shadow page that the entry at *sptep* links to, None if it links to none."""
        spte = self.entry(sptep)
        if not self.nonpresent.is_present(spte) or self._is_leaf(sptep, spte):
            return None
        return self._by_frame[spte & pte.ADDRESS]

    def _is_leaf(self, sptep: int, spte: int) -> bool:
        return bool(spte & pte.PS) or self._by_frame[sptep & -PAGE_SIZE].role.level == 1

    def get(self, gfn: int, role: Role) -> tuple[ShadowPage, Flush]:
        """Return the shadow page for *gfn* under *role*, built if there is none.

        Building one for a guest table write-protects the table; the flush is for that.
        """
        page = self._pages.get((gfn, role))
        if page is not None:
            return page, Flush.nothing()
        page = ShadowPage(gfn, role, self._pool.take())
        self._pages[gfn, role] = page
        self._by_frame[page.hpa] = page
        flush = Flush.nothing() if role.direct else self._track(page)
        self._fill(page)
        return page, flush

    def _fill(self, page: ShadowPage) -> None:
        """Mark every entry as unbuilt: the guest's own not-present ones apart, where they may be.

        Hardware does not use the frame yet, so it is written in one go.
        """
        trap, notrap = self.nonpresent.trap, self.nonpresent.notrap
        if not trap and not notrap:
            return  # the frame came zeroed
        if page.role.direct or not page.role.bypassable:
            values = [trap] * ENTRIES
        else:
            gptes = self._slots.table(page.gfn)
            values = [trap if gpte & pte.P else notrap for gpte in gptes]
        first = page.hpa >> 3
        self._memory.u64[first : first + ENTRIES] = memoryview(array("Q", values))

    def _track(self, page: ShadowPage) -> Flush:
        """Enter a guest table's shadow, and write-protect the table if it is the first."""
        others = self._tables.setdefault(page.gfn, [])
        others.append(page)
        if len(others) > 1:
            return Flush.nothing()
        region = page.gfn // LARGE_FRAMES
        self._tables_in_region[region] = self._tables_in_region.get(region, 0) + 1
        flush = Flush.nothing()
        for sptep in self.rmap.leaves(region * LARGE_FRAMES, 2):
            flush = flush.merge(self.zap_entry(sptep))
        for sptep in self.rmap.leaves(page.gfn, 1):
            spte = self.entry(sptep)
            if spte & pte.W:
                self._engine.write_pte(sptep, spte & ~pte.W)
                flush = flush.merge(Flush(Scope.ALL))
        return flush

    def _untrack(self, page: ShadowPage) -> None:
        others = self._tables[page.gfn]
        others.remove(page)
        if others:
            return
        del self._tables[page.gfn]
        region = page.gfn // LARGE_FRAMES
        self._tables_in_region[region] -= 1
        if not self._tables_in_region[region]:
            del self._tables_in_region[region]

    def link(self, sptep: int, child: ShadowPage) -> None:
        """Point the entry at *sptep*, which maps nothing, to *child*."""
        child.parents[sptep] = None
        self._engine.write_pte(sptep, make_link(child.hpa))

    def set_leaf(self, sptep: int, spte: int, gfn: int, level: int) -> None:
        """Write a leaf into the entry at *sptep*, which maps nothing."""
        self.rmap.add(gfn, sptep, level)
        self._engine.write_pte(sptep, spte)

    def set_notrap(self, sptep: int) -> None:
        """Leave the entry at *sptep*, which maps nothing, to the guest's own not-present fault."""
        self._engine.write_pte(sptep, self.nonpresent.notrap)

    def zap_entry(self, sptep: int) -> Flush:
        """Make the entry at *sptep* trap, whatever it was."""
        spte = self.entry(sptep)
        was_present = self.nonpresent.is_present(spte)
        if was_present:
            self._forget(sptep, spte)
        if spte != self.nonpresent.trap:
            self._engine.write_pte(sptep, self.nonpresent.trap)
        return Flush(Scope.ALL) if was_present else Flush.nothing()

    def _forget(self, sptep: int, spte: int) -> None:
        """Take a present entry out of the books."""
        if self._is_leaf(sptep, spte):
            self.rmap.remove(sptep)
        else:
            del self._by_frame[spte & pte.ADDRESS].parents[sptep]

    def zap_page(self, page: ShadowPage) -> Flush:
        """Give a shadow page up: its entries, the links to it, its frame."""
        for at, spte in enumerate(self.entries(page)):
            if self.nonpresent.is_present(spte):
                self._forget(page.hpa + 8 * at, spte)
        for sptep in list(page.parents):
            self.zap_entry(sptep).forgo("one flush for the whole page follows")
        if not page.role.direct:
            self._untrack(page)
        del self._pages[page.gfn, page.role]
        del self._by_frame[page.hpa]
        self._pool.give(page.hpa)
        self.zapped += 1
        return Flush(Scope.ALL)
