"""The books of shadow pages against the tables themselves, after random changes to both."""

from __future__ import annotations

import random
from typing import TYPE_CHECKING

import pytest
from hypothesis import given
from hypothesis import strategies as st

from hvmmu._core.shadow_mmu import ShadowVm
from hvmmu._mmu_params import MmuParams
from hvmmu.arch import pte
from hvmmu.arch.role import FIELDS, Role, layout
from hvmmu.errors import GuestMemoryError
from hvmmu.memory import Memory, Memslot, Memslots
from hvmmu.spte import LINK, Nonpresent
from hvmmu.types import PAGE_SIZE

if TYPE_CHECKING:
    from hvmmu._core.shadow_pages import ShadowPage

REGION = 2 << 20
BASE, RAM = REGION, 3 * REGION
BEYOND = 1 << 28
GFNS = (0, 1, 511, 512, 513, 1100, BEYOND, BEYOND + 512)
"""Guest frames in three regions of 2 MiB, two regions' first among them, and in no memory."""
SPLIT = (Memslot(0, REGION, BASE + 2 * REGION), Memslot(REGION, 2 * REGION, BASE))
"""The same guest frames, but the first region behind the others."""
END = 12
"""Host frames below it, but for frame 0, are the shadow's: few, so that they run out."""
PLAIN = Role().replace(level=1, access=7, nxe=True, cr0_wp=True, bypassable=True)
ROLES = [
    PLAIN.replace(level=level, direct=direct, bypassable=bypassable)
    for level, direct, bypassable in ((1, 0, 1), (1, 0, 0), (1, 1, 1), (2, 0, 1), (3, 0, 1))
]
LEAF = pte.P | pte.U | pte.A


class Books:
    """Shadow pages, over a guest whose tables hold these entries."""

    def __init__(
        self, entries: Nonpresent, gptes: list[int], slots: tuple[Memslot, ...] = SPLIT
    ) -> None:
        self.memory = Memory(BASE + RAM)
        self.slots = Memslots(self.memory, slots)
        for gfn in GFNS:
            for at, gpte in enumerate(gptes):
                self.slots.store(gfn * PAGE_SIZE + 8 * at, gpte)
        self.pages = ShadowVm(self.slots, entries, MmuParams(), end_frame=END).pages

    def any(self, draw: random.Random) -> ShadowPage | None:
        """Return one of the pages there are, None if there is none."""
        pages = list(self.pages)
        return draw.choice(pages) if pages else None

    def get(self, draw: random.Random) -> None:
        """Ask for a page, twice."""
        gfn, role = draw.choice(GFNS), draw.choice(ROLES)
        try:
            page, flush = self.pages.get(gfn, role)
        except GuestMemoryError:
            assert len(self.pages) == END - 1
            return
        flush.forgo("nothing runs here")
        again, flush = self.pages.get(gfn, role)
        assert (again, flush.scope) == (page, None)
        assert (page.gfn, page.role) == (gfn, role)

    def set(self, draw: random.Random) -> None:
        """Have an entry map something else: nothing, another page, or a leaf that fits it."""
        page, child = self.any(draw), self.any(draw)
        if page is None or child is None:
            return
        sptep = page.hpa + 8 * draw.randrange(4)
        was_present = self.pages.nonpresent.is_present(self.pages.entry(sptep))
        flush = self.pages.zap_entry(sptep)
        flush.forgo("nothing runs here")
        assert (flush.scope is not None) is was_present
        gfn = draw.choice([gfn for gfn in GFNS if gfn < BEYOND])
        leaf = (self.slots.hpa(gfn * PAGE_SIZE) or 0) | LEAF
        if not self.pages.is_table(gfn):
            leaf |= draw.choice((0, pte.W))
        if page.role.level == 1:
            self.pages.set_leaf(sptep, leaf)
        elif page.role.level == 2 and not gfn % 512:
            self.pages.set_leaf(sptep, leaf & ~pte.W | pte.PS)
        elif draw.random() < 0.5:
            self.pages.link(sptep, child)
        elif draw.random() < 0.5:
            self.pages.set_notrap(sptep)

    def zap(self, draw: random.Random) -> None:
        """Give a page up."""
        page, zapped = self.any(draw), self.pages.zapped
        if page is None:
            return
        self.pages.zap_page(page).forgo("nothing runs here")
        assert page not in self.pages
        assert self.pages.zapped == zapped + 1

    def check(self) -> None:
        """Hold the books against the entries."""
        pages = {page.hpa: page for page in self.pages}
        leaves, links = set(), set()
        for page in pages.values():
            for at, spte in enumerate(self.pages.entries(page)):
                if self.pages.nonpresent.is_present(spte):
                    sptep, level = page.hpa + 8 * at, page.role.level
                    if level == 1 or spte & pte.PS:
                        leaves.add((self.slots.gpa(spte & pte.ADDRESS) >> 12, sptep, level))
                    else:
                        assert spte & ~pte.ADDRESS == LINK
                        links.add((sptep, spte & pte.ADDRESS))
        assert set(self.pages.rmap.items()) == leaves
        assert len(self.pages.rmap) == len(leaves)
        assert {(at, page.hpa) for page in pages.values() for at in page.parents} == links
        tables = [page for page in pages.values() if not page.role.direct]
        for gfn in GFNS:
            shadows = [page for page in tables if page.gfn == gfn]
            assert self.pages.shadows_of(gfn) == shadows
            assert self.pages.is_table(gfn) is bool(shadows)
            if gfn < BEYOND:
                near = any(page.gfn // 512 == gfn // 512 for page in tables)
                assert self.pages.holds_table(gfn) is near
            else:
                assert not self.pages.holds_table(gfn)
            for level in (1, 2):
                mine = {sptep for first, sptep, at in leaves if (first, at) == (gfn, level)}
                assert set(self.pages.rmap.leaves(gfn, level)) == mine
        for first, sptep, level in leaves:
            if self.pages.entry(sptep) & pte.W:
                assert level == 1
                assert not self.pages.is_table(first)


@given(
    seed=st.integers(0, 2**64 - 1),
    entries=st.sampled_from([Nonpresent(), Nonpresent(0xFFFF_FFFF_FFFF_F001, 0)]),
    slots=st.sampled_from([SPLIT, (Memslot(0, RAM, BASE),)]),
)
def test_the_books_are_right(seed: int, entries: Nonpresent, slots: tuple[Memslot, ...]) -> None:
    """If wrong, a table is written to unseen, or large pages and host frames are lost for good."""
    draw = random.Random(seed)  # noqa: S311 - not for secrets
    books = Books(entries, [draw.choice((0, 0x1000 | pte.P)) for _ in range(8)], slots)
    for nth in range(60):
        draw.choices((books.get, books.set, books.zap), (30, 60, 10))[0](draw)
        if nth % 5 == 4:
            books.check()
    books.memory.close()


@pytest.mark.parametrize("gfn", [0, BEYOND])
def test_a_new_page_is_filled(gfn: int) -> None:
    """If wrong, a table in no memory, where all ones come from, reads as one of absent entries."""
    books = Books(Nonpresent(0xFFFF_FFFF_FFFF_F001, 0), [0, 0x1000 | pte.P])
    page, _ = books.pages.get(gfn, PLAIN)
    trap = books.pages.nonpresent.trap
    wanted = [0, trap] if gfn == 0 else [trap, trap]
    assert books.pages.entries(page)[:2] == wanted
    books.memory.close()


def test_a_large_leaf_goes_when_a_table_arises() -> None:
    """If wrong, a guest table inside a page that is mapped whole is written unseen."""
    books = Books(Nonpresent(), [])
    page, _ = books.pages.get(0, PLAIN.replace(level=2))
    hpa = books.slots.hpa(512 * PAGE_SIZE)
    assert hpa is not None
    books.pages.set_leaf(page.hpa, hpa | LEAF | pte.W | pte.PS)
    table, flush = books.pages.get(700, PLAIN)
    assert flush.scope is not None
    flush.forgo("nothing runs here")
    assert books.pages.entry(page.hpa) == 0
    assert table.hpa == 2 * PAGE_SIZE
    books.check()
    books.memory.close()


# Roles.


def test_the_fields_of_a_role_are_apart() -> None:
    """If wrong, two roles that differ are the same, and one's pages are used for the other."""
    masks = [field.mask for field in FIELDS.values()]
    assert sum(masks) == (1 << sum(field.width for field in FIELDS.values())) - 1
    assert max(masks) < 1 << 32
    constants = dict(layout())
    assert constants["LEVEL"] == 7
    assert constants["ACCESS"] >> constants["ACCESS_SHIFT"] == 31


@given(
    values=st.fixed_dictionaries({n: st.integers(0, f.mask >> f.shift) for n, f in FIELDS.items()})
)
def test_a_role_is_read_as_it_is_made(values: dict[str, int]) -> None:
    """If wrong, a field of a role is lost, or spills into another."""
    role = Role().replace(**values)
    assert {name: getattr(role, name) for name in FIELDS} == values
    assert all(f"{name}=" in repr(role) for name, value in values.items() if value)


def test_a_value_that_does_not_fit() -> None:
    """If wrong, a value that is too large changes another field in silence."""
    with pytest.raises(ValueError, match="level of a role has 3 bits, and 8 has more"):
        PLAIN.replace(level=8)
