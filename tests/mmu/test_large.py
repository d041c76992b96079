"""Guest pages of 2 MiB and 1 GiB: one large entry where that is safe, pieces where it is not."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

from hvmmu.arch import pfec as pf
from hvmmu.arch import pte
from hvmmu.arch.regs import CR4_PKE
from hvmmu.fault import Cause, Route
from hvmmu.memory import Memslot
from hvmmu.tlb import Scope

if TYPE_CHECKING:
    from collections.abc import Callable

    from conftest import Bench

    from hvmmu._core.shadow_pages import ShadowPage
    from hvmmu.arch.role import Role

VA = 0x7F00_0020_0000
LARGE, SMALL = 2 << 20, 1 << 12
FRAME = 8 << 20
"""A 2 MiB page of guest memory with no table in it."""
TABLES = 0
"""The one that all the guest's tables are in."""
RW, RO = pte.P | pte.W | pte.U, pte.P | pte.U
USED = pte.A | pte.D


def direct_pages(bench: Bench) -> list[ShadowPage]:
    """Return the shadow pages behind which no guest table lies."""
    return [page for page in bench.pages if page.role.direct]


def test_a_large_page_is_one_entry(bench: Bench) -> None:
    """If wrong, a 2 MiB page costs a fault for each piece that is touched."""
    bench.map(VA, FRAME | RW | USED, level=2)
    seen = bench.access(VA + 0x1234, bench.WRITE)
    assert (seen.gpa, seen.last) == (FRAME + 0x1234, (Route.INSTALL, Cause.UNBUILT))
    assert seen.handled[0].level == 2
    assert bench.level(VA) == 2
    assert bench.spte(VA) & ~USED == bench.hpa(FRAME) | RW | pte.PS
    assert bench.access(VA + LARGE - 8, bench.READ).handled == ()
    assert direct_pages(bench) == []


@pytest.mark.parametrize("large_pages", [False, True])
def test_the_first_write_to_a_clean_large_page(
    build: Callable[..., Bench], large_pages: bool
) -> None:
    """If wrong, the guest's D of a large page is lost, in one piece or in pieces."""
    bench = build(large_pages=large_pages)
    bench.map(VA, FRAME | RW, level=2)
    bench.access(VA, bench.READ)
    assert not bench.gpte(VA, 2) & pte.D
    seen = bench.access(VA + 8, bench.WRITE)
    assert seen.gpa == FRAME + 8
    assert bench.gpte(VA, 2) == FRAME | RW | pte.PS | USED
    assert bench.access(VA, bench.WRITE).handled == ()


def test_large_pages_off(build: Callable[..., Bench]) -> None:
    """If wrong, the parameter does nothing, or pieces land elsewhere."""
    bench = build(large_pages=False)
    bench.map(VA, FRAME | RW | USED, level=2)
    for piece in (0, 1, 511):
        seen = bench.access(VA + piece * SMALL + 8, bench.WRITE)
        assert seen.gpa == FRAME + piece * SMALL + 8
        assert seen.handled[0].level == 2  # the guest's entry that decided
        assert bench.level(VA) == 1
    [page] = direct_pages(bench)
    assert (page.gfn, page.role.level) == (FRAME >> 12, 1)
    assert len(bench.pages.rmap) == 3


def test_a_clean_large_page_in_pieces_has_no_writable_one(build: Callable[..., Bench]) -> None:
    """If wrong, a guest that clears D of a large page misses writes to pieces built before.

    The guest writes one entry and all the pieces must go: they lie under another role.
    """
    bench = build(large_pages=False)
    bench.map(VA, FRAME | RW | USED, level=2)
    bench.access(VA, bench.WRITE)
    bench.access(VA + SMALL, bench.WRITE)
    bench.rewrite(VA, FRAME | RW | pte.A, level=2)
    bench.audit()
    assert bench.access(VA + SMALL, bench.READ).routes == [Route.INSTALL]
    assert not bench.spte(VA + SMALL) & pte.W
    assert not bench.spte(VA) & pte.W
    bench.audit()
    seen = bench.access(VA + SMALL, bench.WRITE)
    assert seen.gpa == FRAME + SMALL
    assert bench.gpte(VA, 2) & pte.D
    assert bench.spte(VA + SMALL) & pte.W


def test_pieces_keep_the_pages_permissions(build: Callable[..., Bench]) -> None:
    """If wrong, a piece allows what its large page forbids."""
    bench = build(large_pages=False)
    key = 2 << pte.PKEY_SHIFT
    bench.map(VA, FRAME | RO | pte.NX | USED | key, level=2)
    bench.load(cr4=CR4_PKE)
    bench.access(VA, bench.READ)
    assert bench.spte(VA) & ~USED == bench.hpa(FRAME) | RO | pte.NX | key
    assert bench.access(VA, bench.WRITE).pfec == pf.P | pf.W | pf.U
    assert bench.access(VA, bench.FETCH).pfec == pf.P | pf.U | pf.ID
    bench.load(cr4=CR4_PKE, pkru=1 << 4)
    assert bench.access(VA, bench.READ).pfec == pf.P | pf.U | pf.PK


# Tables inside.


def test_a_large_page_with_a_table_inside_is_mapped_in_pieces(bench: Bench) -> None:
    """If wrong, a write through the large entry changes a table unseen."""
    bench.map(VA, TABLES | RW | USED, level=2)
    table = bench.slot(VA, 2) & -SMALL
    assert bench.access(VA + 0x10_0000, bench.WRITE).gpa == TABLES + 0x10_0000
    assert bench.level(VA + 0x10_0000) == 1
    seen = bench.access(VA + table, bench.WRITE)
    assert (seen.gpa, seen.last) == (table, (Route.EMULATE, Cause.TABLE_WRITE))
    assert bench.access(VA + table, bench.READ).handled == ()


def test_a_large_page_is_split_when_a_table_arises_in_it(bench: Bench) -> None:
    """If wrong, a table made in a page that was mapped whole is written unseen."""
    other = 0x6000_0000_0000
    bench.map(VA, FRAME | RW | USED, level=2)
    bench.map(other, 0x10_0000 | RW | USED)
    leaf = FRAME + 5 * SMALL
    bench.slots.store(leaf, bench.gpte(other))
    bench.slots.store(bench.slot(other, 2), leaf | bench.LINK)
    bench.access(VA, bench.WRITE)
    assert bench.level(VA) == 2
    del bench.flushes[:]
    assert bench.access(other, bench.READ).gpa == 0x10_0000
    assert Scope.ALL in bench.flushes
    bench.audit()
    seen = bench.access(VA + 5 * SMALL, bench.WRITE)
    assert (seen.gpa, seen.last) == (leaf, (Route.EMULATE, Cause.TABLE_WRITE))
    assert bench.access(VA, bench.WRITE).gpa == FRAME
    assert bench.level(VA) == 1


def test_pieces_become_whole_again(build: Callable[..., Bench]) -> None:
    """If wrong, one table that once lay in a large page costs its pieces' faults for ever."""
    bench = build()
    bench.map(VA, FRAME | RW | USED, level=2)
    page, flush = bench.pages.get((FRAME >> 12) + 5, _leaf_role(bench))
    bench.perform(flush)
    bench.access(VA, bench.WRITE)
    assert bench.level(VA) == 1
    bench.perform(bench.pages.zap_page(page))
    assert bench.access(VA, bench.WRITE).handled == ()  # while its pieces serve, they stay
    seen = bench.access(VA + SMALL, bench.WRITE)
    assert seen.gpa == FRAME + SMALL
    assert bench.level(VA) == 2
    assert Scope.ALL in bench.flushes


def _leaf_role(bench: Bench) -> Role:
    bench.load()
    return bench.mmu.role.replace(level=1, access=pf.W | pf.U | pf.ID)


def test_a_table_may_arise_in_the_page_on_the_way_to_it(bench: Bench) -> None:
    """If wrong, a large page that holds its own tables is mapped whole after all."""
    va = 0x6000_0000_0000
    inside = [FRAME + n * SMALL for n in range(2)]
    bench.slots.store(bench.slot(va, 4), inside[0] | bench.LINK)
    bench.slots.store(inside[0] + 8 * (va >> 30 & 511), inside[1] | bench.LINK)
    bench.slots.store(inside[1] + 8 * (va >> 21 & 511), FRAME | RW | USED | pte.PS)
    seen = bench.access(va + inside[1] - FRAME + 0x800, bench.WRITE)
    assert seen.gpa == inside[1] + 0x800
    assert seen.last == (Route.EMULATE, Cause.TABLE_WRITE)
    assert bench.level(va) == 1


# Where no large entry fits.


def test_a_slot_that_lies_askew_in_host_memory(build: Callable[..., Bench]) -> None:
    """If wrong, a large entry maps host memory 4 KiB beside the guest's."""
    bench = build(slots=(Memslot(0, 32 << 20, (64 << 20) + SMALL),))
    bench.map(VA, FRAME | RW | USED, level=2)
    assert bench.access(VA + 0x5008, bench.WRITE).gpa == FRAME + 0x5008
    assert bench.level(VA) == 1


def test_a_large_page_with_a_hole_in_it(build: Callable[..., Bench]) -> None:
    """If wrong, a large entry maps host memory where the guest has none."""
    whole = (Memslot(0, FRAME + SMALL, 64 << 20), Memslot(FRAME + 2 * SMALL, LARGE, 80 << 20))
    bench = build(slots=whole)
    bench.map(VA, FRAME | RW | USED, level=2)
    assert bench.access(VA, bench.WRITE).gpa == FRAME
    seen = bench.access(VA + SMALL + 8, bench.WRITE)
    assert (seen.gpa, seen.last) == (FRAME + SMALL + 8, (Route.MMIO, Cause.NO_MEMORY))
    assert bench.access(VA + 2 * SMALL, bench.WRITE).gpa == FRAME + 2 * SMALL
    assert bench.level(VA) == 1


# 1 GiB.


@pytest.mark.parametrize(("large_pages", "level"), [(True, 2), (False, 1)])
def test_a_gigabyte_page(build: Callable[..., Bench], large_pages: bool, level: int) -> None:
    """If wrong, a 1 GiB page is not mapped by pieces of the size that is allowed, or elsewhere."""
    bench = build(large_pages=large_pages)
    base = 0x7F40_0000_0000
    bench.map(base, RW | USED, level=3)
    seen = bench.access(base + FRAME + 0x1238, bench.WRITE)
    assert seen.gpa == FRAME + 0x1238
    assert seen.handled[0].level == 3
    assert bench.level(base + FRAME) == level
    again = bench.access(base + FRAME + 2 * SMALL, bench.WRITE)
    assert again.routes == ([] if large_pages else [Route.INSTALL])
    beyond = bench.access(base + bench.RAM + 8, bench.WRITE)
    assert (beyond.gpa, beyond.last) == (bench.RAM + 8, (Route.MMIO, Cause.NO_MEMORY))
    table = bench.access(base + bench.ROOT, bench.WRITE)
    assert (table.gpa, table.last) == (bench.ROOT, (Route.EMULATE, Cause.TABLE_WRITE))
    assert bench.level(base + bench.ROOT) == 1
    assert sorted({page.role.level for page in direct_pages(bench)}) == [1, 2]


def test_a_gigabyte_page_that_is_rewritten(bench: Bench) -> None:
    """If wrong, pieces of a 1 GiB page outlive it."""
    base = 0x7F40_0000_0000
    bench.map(base, RW | USED, level=3)
    bench.access(base + FRAME, bench.WRITE)
    bench.rewrite(base, RO | USED, level=3)
    assert bench.access(base + FRAME, bench.WRITE).pfec == pf.P | pf.W | pf.U
    bench.rewrite(base, 0, level=3)
    assert bench.access(base + FRAME, bench.READ).pfec == pf.U
