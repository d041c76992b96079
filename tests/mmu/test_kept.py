"""Shadow pages kept in C against those kept in Python: the same changes, the same books."""

from __future__ import annotations

import random
from typing import TYPE_CHECKING, Any

import attrs
import pytest
from hypothesis import given
from hypothesis import strategies as st

from hvmmu._core.py_pages import ShadowPages
from hvmmu.arch import pte
from hvmmu.arch.role import Role
from hvmmu.errors import GuestMemoryError
from hvmmu.memory import FramePool, Memory, Memslot, Memslots
from hvmmu.spec.engine import ReferenceEngine
from hvmmu.spte import Nonpresent
from hvmmu.tlb import Scope
from hvmmu.types import ENTRIES, PAGE_SIZE, Pfn

if TYPE_CHECKING:
    from collections.abc import Iterable

    from hvmmu.arch.role import ShadowPage

engines = pytest.importorskip("hvmmu._core.engine", reason="the compiled engine was not built")
kept = pytest.importorskip("hvmmu._core.shadow_pages", reason="the compiled engine was not built")

REGION = 2 << 20
BASE, RAM = REGION, 3 * REGION
GFNS = (0, 1, 511, 512, 513, 1100)
"""Guest frames in three regions of 2 MiB, the first of two of them among these."""
END = 12
"""Host frames below it, but for frame 0, are the shadow's: few, so that they run out."""
PLAIN = Role(1, direct=False, access=7, nxe=True, cr0_wp=True, smep_andnot_wp=False,
             smap_andnot_wp=False, pke=False, bypassable=True)  # fmt: skip
ROLES = tuple(
    attrs.evolve(PLAIN, level=level, direct=direct, bypassable=bypassable)
    for level, direct, bypassable in ((1, False, True), (1, False, False), (1, True, True),
                                 (2, False, True), (3, False, True))
)  # fmt: skip
LEAF = pte.P | pte.U | pte.A


class Books:
    """One way to keep shadow pages, with a memory of its own."""

    def __init__(self, entries: Nonpresent, gptes: Iterable[int], *, in_c: bool) -> None:
        self.memory = Memory(BASE + RAM)
        slot = Memslot(0, RAM, BASE)
        slots = Memslots(self.memory, (slot,))
        for gfn in GFNS:
            for at, gpte in enumerate(gptes):
                slots.store(gfn * PAGE_SIZE + 8 * at, gpte)
        self.pages: Any
        if in_c:
            engine = engines.CompiledEngine(self.memory)
            self.pages = kept.CompiledPages(self.memory, slot, engine, END, entries)
        else:
            pool = FramePool(self.memory, Pfn(1), END - 1)
            engine = ReferenceEngine(self.memory)
            self.pages = ShadowPages(self.memory, slots, engine, pool, entries)

    def page(self, nth: int) -> ShadowPage | None:
        """Return one of the pages there are, None if there is none."""
        pages = list(self.pages)
        return pages[nth % len(pages)] if pages else None

    def get(self, gfn: int, role: Role) -> object:
        """Ask for a page; return where it lies, and the flush that is owed."""
        try:
            page, flush = self.pages.get(gfn, role)
        except GuestMemoryError:
            return None
        flush.forgo("nothing runs here")
        return page.hpa, flush.scope

    def set(self, nth: int, at: int, other: int, gfn: int, *, writable: bool) -> object:
        """Have an entry map something else: nothing, another page, or a leaf that fits it."""
        page = self.page(nth)
        if page is None:
            return None
        sptep = page.hpa + 8 * at
        flush = self.pages.zap_entry(sptep)
        flush.forgo("nothing runs here")
        hpa, write = BASE + gfn * PAGE_SIZE, pte.W if writable else 0
        child = self.page(other)
        if page.role.level == 1:
            self.pages.set_leaf(sptep, hpa | LEAF | write, gfn, 1)
        elif page.role.level == 2 and gfn % ENTRIES == 0:
            self.pages.set_leaf(sptep, hpa | LEAF | write | pte.PS, gfn, 2)
        elif child is not None:
            self.pages.link(sptep, child)
        return flush.scope

    def clear(self, nth: int, at: int, *, quietly: bool) -> object:
        """Have an entry map nothing."""
        page = self.page(nth)
        if page is None:
            return None
        flush = self.pages.zap_entry(page.hpa + 8 * at)
        flush.forgo("nothing runs here")
        if quietly:
            self.pages.set_notrap(page.hpa + 8 * at)
        return flush.scope

    def zap(self, nth: int) -> object:
        """Give a page up."""
        page = self.page(nth)
        if page is not None:
            self.pages.zap_page(page).forgo("nothing runs here")
            assert page not in self.pages
        return None

    def state(self) -> dict[str, object]:
        """Return all that can be asked, but for the order within lists."""
        pages, known = self.pages, list(self.pages)
        return {
            "pages": [(page.gfn, page.role, page.hpa, sorted(page.parents)) for page in known],
            "zapped": pages.zapped,
            "shadows": [[page.hpa for page in pages.shadows_of(gfn)] for gfn in GFNS],
            "is_table": [pages.is_table(gfn) for gfn in GFNS],
            "holds_table": [pages.holds_table(gfn) for gfn in GFNS],
            "rmap": sorted(pages.rmap.items()),
            "leaves": [sorted(pages.rmap.leaves(gfn, at)) for gfn in GFNS for at in (1, 2)],
            "entries": [pages.entries(page) for page in known],
            "children": [
                child and child.hpa
                for page in known for at in range(4)
                for child in [pages.child(page.hpa + 8 * at)]
            ],
        }  # fmt: skip


def step(draw: random.Random, books: tuple[Books, Books]) -> None:
    """Do one thing to both."""
    what, nth, at, other = draw.random(), draw.randrange(99), draw.randrange(4), draw.randrange(99)
    gfn, flag, role = draw.choice(GFNS), draw.random() < 0.5, draw.choice(ROLES)
    done = [
        each.get(gfn, role) if what < 0.3
        else each.set(nth, at, other, gfn, writable=flag) if what < 0.75
        else each.clear(nth, at, quietly=flag) if what < 0.9
        else each.zap(nth)
        for each in books
    ]  # fmt: skip
    assert done[0] == done[1]


@given(
    seed=st.integers(0, 2**64 - 1),
    entries=st.sampled_from([Nonpresent(), Nonpresent(0xFFFF_FFFF_FFFF_F001, 0)]),
)
def test_the_same_books(seed: int, entries: Nonpresent) -> None:
    """If wrong, a table is written to unseen, or large pages and host frames are lost for good."""
    draw = random.Random(seed)  # noqa: S311 - not for secrets
    gptes = [draw.choice((0, 0x1000 | pte.P)) for _ in range(8)]
    books = Books(entries, gptes, in_c=False), Books(entries, gptes, in_c=True)
    for _ in range(80):
        step(draw, books)
        one, other = (each.state() for each in books)
        for part, value in one.items():
            assert other[part] == value, part
    for each in books:
        each.memory.close()


def test_a_region_is_free_of_tables_again() -> None:
    """If wrong, where a table once lay, no large page is used any more."""
    for in_c in (False, True):
        books = Books(Nonpresent(), [], in_c=in_c)
        for gfn in (512, 513):
            books.get(gfn, PLAIN)
        books.zap(0)
        assert books.pages.holds_table(1000)
        books.zap(0)
        assert not books.pages.holds_table(1000)
        books.memory.close()


def test_a_flush_is_owed() -> None:
    """If wrong, the comparison above is of flushes that never are."""
    books = Books(Nonpresent(), [], in_c=True)
    books.get(0, PLAIN)
    books.set(0, 0, 0, 512, writable=True)
    assert books.get(512, PLAIN) == (2 * PAGE_SIZE, Scope.ALL)
    books.memory.close()
