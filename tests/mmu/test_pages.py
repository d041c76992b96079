"""The shadow pages: what is write-protected, what is zapped, and when."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

from hvmmu.arch import pfec as pf
from hvmmu.arch import pte
from hvmmu.arch.role import Role
from hvmmu.fault import Cause, Route
from hvmmu.spec.walk import ALL_ACCESS
from hvmmu.tlb import Scope

if TYPE_CHECKING:
    from collections.abc import Callable

    from conftest import Bench

VA, NEXT = 0x7F00_0000_1000, 0x7F00_0000_2000
FRAME, OTHER = 0x10_0000, 0x10_1000
RW, RO = pte.P | pte.W | pte.U, pte.P | pte.U
USED = pte.A | pte.D
ROLE = Role().replace(level=1, access=ALL_ACCESS, bypassable=True, nxe=True, cr0_wp=True)


# The books.


def test_pages_are_found_by_what_they_shadow(bench: Bench) -> None:
    """If wrong, a table is shadowed twice under one role, or not write-protected."""
    page, flush = bench.pages.get(0x500, ROLE)
    assert flush.scope is None
    assert bench.pages.get(0x500, ROLE)[0] is page
    assert bench.pages.shadows_of(0x500) == [page]
    assert bench.pages.is_table(0x500)
    assert not bench.pages.is_table(0x501)
    assert bench.pages.holds_table(0x5FF)
    assert not bench.pages.holds_table(0x600)
    assert (page in bench.pages, len(bench.pages), list(bench.pages)) == (True, 1, [page])
    bench.perform(bench.pages.zap_page(page))
    assert (page in bench.pages, len(bench.pages)) == (False, 0)
    assert not bench.pages.is_table(0x500)
    assert not bench.pages.holds_table(0x5FF)
    assert bench.pages.shadows_of(0x500) == []
    assert bench.pages.zapped == 1


def test_a_table_stays_protected_until_its_last_shadow_goes(bench: Bench) -> None:
    """If wrong, a table with two shadows is written unseen once one is zapped."""
    one, _ = bench.pages.get(0x500, ROLE)
    two, flush = bench.pages.get(0x500, ROLE.replace(cr0_wp=False))
    assert flush.scope is None
    assert bench.pages.shadows_of(0x500) == [one, two]
    neighbour, _ = bench.pages.get(0x501, ROLE)
    bench.perform(bench.pages.zap_page(one))
    assert bench.pages.is_table(0x500)
    bench.perform(bench.pages.zap_page(two))
    assert not bench.pages.is_table(0x500)
    assert bench.pages.holds_table(0x500)  # the neighbour is in the same 2 MiB
    bench.perform(bench.pages.zap_page(neighbour))
    assert not bench.pages.holds_table(0x500)


def test_a_direct_page_shadows_no_table(bench: Bench) -> None:
    """If wrong, a guest's data is write-protected because a large page maps it."""
    page, flush = bench.pages.get(0x600, ROLE.replace(direct=True, pkey=2, dirty=True))
    assert flush.scope is None
    assert not bench.pages.is_table(0x600)
    assert (page.role.direct, page.role.pkey, page.role.dirty) == (True, 2, True)
    bench.perform(bench.pages.zap_page(page))


def test_a_freed_frame_comes_back_empty(bench: Bench) -> None:
    """If wrong, a new shadow page begins with entries of the one that lay there before."""
    page, _ = bench.pages.get(0x500, ROLE)
    bench.pages.set_leaf(page.hpa + 8 * 7, bench.hpa(FRAME) | RO)
    bench.perform(bench.pages.zap_page(page))
    assert len(bench.pages.rmap) == 0
    again, _ = bench.pages.get(0x501, ROLE)
    assert again.hpa == page.hpa
    assert set(bench.pages.entries(again)) == {bench.nonpresent.notrap}


def test_zapping_a_page_frees_what_it_links_to(bench: Bench) -> None:
    """If wrong, a child believes in a parent that is gone, and writes into a frame of others'."""
    bench.map(VA, FRAME | RW | USED)
    bench.access(VA, bench.READ)
    [middle] = bench.pages.shadows_of(bench.slot(VA, 2) >> 12)
    [leaf] = bench.pages.shadows_of(bench.slot(VA) >> 12)
    assert leaf.parents == {middle.hpa + 8 * (VA >> 21 & 511)}
    bench.perform(bench.pages.zap_page(middle))
    assert leaf.parents == set()
    assert leaf in bench.pages
    assert bench.access(VA, bench.READ).gpa == FRAME
    assert len(leaf.parents) == 1  # found again, not built again
    assert bench.pages.zapped == 1


def test_a_root_that_was_zapped_is_made_anew(bench: Bench) -> None:
    """If wrong, hardware goes on walking a frame that belongs to somebody else by now."""
    bench.map(VA, FRAME | RW | USED)
    bench.access(VA, bench.READ)
    root = bench.mmu.root
    assert root is not None
    bench.perform(bench.pages.zap_page(root))
    bench._take(*bench.mmu.reload())
    assert bench.mmu.root is not root
    assert Scope.ALL in bench.flushes[-1:]
    assert bench.access(VA, bench.READ).gpa == FRAME


# Write protection.


def test_every_mapping_of_a_table_is_write_protected(bench: Bench) -> None:
    """If wrong, one alias of a table is still writable."""
    table = bench.slot(VA) & -0x1000
    bench.map(VA, FRAME | RW | USED)
    far = [0x6000_0000_0000 + n * (1 << 30) for n in range(3)]
    for va in far:
        bench.map(va, table | RW | USED)
    read_only = far[0] + 0x1000
    bench.map(read_only, table | RO | USED)
    bench.access(read_only, bench.READ)
    for va in far:
        bench.access(va, bench.WRITE)
        assert bench.spte(va) & pte.W
    bench.access(VA, bench.READ)
    assert bench.access(read_only, bench.READ).handled == ()
    for va in far:
        assert not bench.spte(va) & pte.W
        assert bench.access(va, bench.WRITE).last == (Route.EMULATE, Cause.TABLE_WRITE)


def test_a_table_that_nobody_could_write_owes_no_flush(bench: Bench) -> None:
    """If wrong, every new shadow page empties the TLB, whether it must or not."""
    far = 0x6000_0000_0000
    bench.map(far, 0x50_0000 | RO | USED)
    bench.access(far, bench.READ)
    page, flush = bench.pages.get(0x500, ROLE)
    assert flush.scope is None
    bench.perform(bench.pages.zap_page(page))


def test_a_frame_that_is_no_table_any_more_becomes_writable(build: Callable[..., Bench]) -> None:
    """If wrong, data in what was once a table is written by emulation for ever."""
    bench = build(flood_threshold=0)
    table = bench.slot(VA) & -0x1000
    bench.map(VA, FRAME | RW | USED)
    bench.access(VA, bench.READ)
    far = 0x6000_0000_0000
    bench.map(far, table | RW | USED)
    bench.perform(bench.pages.zap_page(bench.pages.shadows_of(bench.slot(far, 4) >> 12)[0]))
    bench._take(*bench.mmu.reload())
    assert bench.access(far, bench.WRITE).last == (Route.EMULATE, Cause.TABLE_WRITE)
    [page] = bench.pages.shadows_of(table >> 12)
    bench.perform(bench.pages.zap_page(page))
    seen = bench.access(far, bench.WRITE)
    assert (seen.gpa, seen.last) == (table, (Route.INSTALL, Cause.UNBUILT))
    assert bench.access(far, bench.WRITE).handled == ()


# Flooding.


def flood(bench: Bench, times: int, entry: int = 0) -> None:
    """Have the guest write its entry for VA that often, with no use in between."""
    for _ in range(times):
        bench.rewrite(VA, entry)


def is_shadowed(bench: Bench, va: int = VA) -> bool:
    """Say whether the guest's page table for *va* is shadowed."""
    return bench.pages.is_table(bench.slot(va) >> 12)


@pytest.mark.parametrize("threshold", [1, 3, 7])
def test_a_flooded_table_is_zapped(build: Callable[..., Bench], threshold: int) -> None:
    """If wrong, a frame that became data costs an exit for every write, for ever."""
    bench = build(flood_threshold=threshold)
    bench.map(VA, FRAME | RW | USED)
    bench.access(VA, bench.READ)
    flood(bench, threshold - 1)
    assert is_shadowed(bench)
    flood(bench, 1)
    assert not is_shadowed(bench)
    assert bench.pages.zapped == 1


def test_a_threshold_of_zero_means_never(build: Callable[..., Bench]) -> None:
    """If wrong, the heuristic cannot be turned off."""
    bench = build(flood_threshold=0)
    bench.map(VA, FRAME | RW | USED)
    bench.access(VA, bench.READ)
    flood(bench, 20)
    assert is_shadowed(bench)


def test_a_resolved_fault_ends_the_flood(build: Callable[..., Bench]) -> None:
    """If wrong, a table that is written and used in turn, as all are, is zapped again and again."""
    bench = build(flood_threshold=3)
    bench.map(VA, FRAME | RW | USED)
    bench.access(VA, bench.READ)
    for _ in range(4):
        flood(bench, 2, FRAME | RW)  # A clear: the next access is a fault
        assert bench.access(VA, bench.READ).routes == [Route.INSTALL]
    assert is_shadowed(bench)
    assert bench.pages.zapped == 0


def test_a_resolved_fault_ends_the_flood_of_a_root(build: Callable[..., Bench]) -> None:
    """If wrong, an address space that is being built loses its root again and again."""
    bench = build(flood_threshold=3)
    bench.map(VA, FRAME | RW | USED)
    bench.access(VA, bench.READ)
    for _ in range(4):
        bench.rewrite(VA, FRAME | RW)
        for entry in (1, 2):
            bench.store(bench.ROOT + 8 * entry, 0)
        assert bench.access(VA, bench.READ).routes == [Route.INSTALL]
    assert bench.pages.zapped == 0


def test_hardwares_use_ends_the_flood(build: Callable[..., Bench]) -> None:
    """If wrong, a table whose written entries are used without any fault counts as flooded."""
    bench = build(flood_threshold=3)
    bench.map(VA, FRAME | RW | USED)
    bench.access(VA, bench.READ)
    for _ in range(4):
        flood(bench, 2, FRAME | RW | USED)
        assert bench.access(VA, bench.READ).handled == ()
    assert is_shadowed(bench)


def test_an_unused_entry_does_not_end_it(build: Callable[..., Bench]) -> None:
    """If wrong, writing valid entries that nobody uses is never seen as a flood."""
    bench = build(flood_threshold=3)
    bench.map(VA, FRAME | RW | USED)
    bench.access(VA, bench.READ)
    flood(bench, 3, FRAME | RW | USED)
    assert not is_shadowed(bench)


def test_a_flooded_root_is_built_anew(build: Callable[..., Bench]) -> None:
    """If wrong, a guest that fills its root table loses its address space under hardware."""
    bench = build(flood_threshold=3)
    bench.map(VA, FRAME | RW | USED)
    bench.access(VA, bench.READ)
    for n in range(3):
        bench.store(bench.ROOT + 8 * n, 0)
    assert bench.pages.zapped == 1
    assert bench.mmu.root in bench.pages
    assert bench.access(VA, bench.READ).gpa == FRAME


# The limit.


@pytest.mark.parametrize("limit", [8, 9, 20])
def test_no_more_pages_than_allowed(build: Callable[..., Bench], limit: int) -> None:
    """If wrong, shadow tables grow without bound, or one in use is zapped for another."""
    bench = build(shadow_pages=limit)
    vas = [0x1000_0000_0000 + (n << 30) for n in range(12)]
    for n, va in enumerate(vas):
        bench.map(va, FRAME + (n << 12) | RW | USED)
    for _ in range(2):
        for n, va in enumerate(vas):
            root = bench.mmu.root
            seen = bench.access(va, bench.READ)
            assert seen.gpa == FRAME + (n << 12)
            assert Route.INJECT not in seen.routes
            assert len(bench.pages) <= limit
            assert bench.mmu.root is root or root is None
            bench.audit()
    assert bench.pages.zapped > 0


def test_the_oldest_goes_first(build: Callable[..., Bench]) -> None:
    """If wrong, what was built last is thrown away at once, or the root under hardware is."""
    bench = build(shadow_pages=8)
    vas = [0x1000_0000_0000 + (n << 30) for n in range(4)]
    for va in vas:
        bench.map(va, FRAME | RW | USED)
    for va in vas:
        before = [page for page in bench.pages if page is not bench.mmu.root]
        bench.access(va, bench.READ)
        gone = [page for page in before if page not in bench.pages]
        assert gone == before[: len(gone)]
        assert bench.mmu.root in bench.pages
    assert bench.pages.zapped > 0


def test_other_address_spaces_roots_may_go(build: Callable[..., Bench]) -> None:
    """If wrong, roots of processes that ended fill the limit, and nothing can be zapped."""
    bench = build(shadow_pages=8)
    roots = [0x10_0000 + (n << 12) for n in range(20)]
    for n, root in enumerate(roots):
        bench.map(VA, (0x20_0000 + (n << 12)) | RW | USED, root=root)
    for n, root in enumerate(roots):
        bench.load(cr3=root)
        assert bench.access(VA, bench.READ).gpa == 0x20_0000 + (n << 12)
        assert len(bench.pages) <= 8


def test_a_flush_is_owed_for_what_was_recycled(build: Callable[..., Bench]) -> None:
    """If wrong, hardware still holds translations that led through a recycled page."""
    bench = build(shadow_pages=8)
    vas = [0x1000_0000_0000 + (n << 30) for n in range(6)]
    for va in vas:
        bench.map(va, FRAME | RW | USED)
    for va in vas:
        zapped = bench.pages.zapped
        del bench.flushes[:]
        bench.access(va, bench.READ)
        assert (Scope.ALL in bench.flushes) is (bench.pages.zapped > zapped) or va == vas[0]


def test_a_recycled_page_is_not_needed_by_its_guest(build: Callable[..., Bench]) -> None:
    """If wrong, the guest can tell that a shadow page was given up."""
    bench = build(shadow_pages=8)
    vas = [0x1000_0000_0000 + (n << 30) for n in range(6)]
    for va in vas:
        bench.map(va, FRAME | RO | USED)
    for va in vas * 2:
        assert bench.access(va, bench.READ).gpa == FRAME
        assert bench.access(va, bench.WRITE).pfec == pf.P | pf.W | pf.U
        assert bench.access(va + 0x1000, bench.WRITE).pfec == pf.W | pf.U
