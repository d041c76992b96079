"""Which value goes where: the entries that map nothing, event by event."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

from hvmmu.arch import pfec as pf
from hvmmu.arch import pte
from hvmmu.arch.regs import CR4_PKE, CR4_SMAP
from hvmmu.fault import Cause, Route
from hvmmu.tlb import Scope

if TYPE_CHECKING:
    from collections.abc import Callable

    from conftest import Bench

    from hvmmu._core.shadow_pages import ShadowPage

VA, NEXT = 0x7F00_0000_1000, 0x7F00_0000_2000
FRAME, OTHER = 0x10_0000, 0x10_1000
RW, RO = pte.P | pte.W | pte.U, pte.P | pte.U
USED = pte.A | pte.D
ABSENT = 0
RESERVED = pte.ADDRESS | RW | USED


def leaf_page(bench: Bench, va: int = VA) -> ShadowPage:
    """Return the shadow of the guest's page table for *va*."""
    [page] = bench.pages.shadows_of(bench.slot(va) >> 12)
    return page


def at(bench: Bench, va: int = VA) -> int:
    """Return the shadow's entry for *va* in that page."""
    return bench.pages.entries(leaf_page(bench, va))[va >> 12 & 511]


def warmed(build: Callable[..., Bench], entry: int = ABSENT, **options: bool) -> Bench:
    """Return a bench with the shadow built down to the leaf page, VA's entry not accessed yet."""
    bench = build(**options)
    bench.map(VA, entry)
    bench.map(NEXT, OTHER | RW | USED)
    bench.access(NEXT, bench.READ)
    return bench


# A new shadow page.


@pytest.mark.parametrize("level", [4, 3, 2, 1])
def test_a_new_page_tells_present_from_absent(marked: Bench, level: int) -> None:
    """If wrong, a fault of the guest's exits, or one of the shadow's goes to the guest."""
    bench = marked
    bench.map(VA, FRAME | RW | USED)
    bench.map(NEXT, FRAME | RW)  # accessed or not: present is what counts
    bench.map(NEXT + 0x1000, FRAME | RW & ~pte.P)
    bench.access(VA, bench.READ)
    gptes = [bench.slots.load((bench.slot(VA, level) & -0x1000) + 8 * n) for n in range(512)]
    [page] = bench.pages.shadows_of(bench.slot(VA, level) >> 12)
    entries = bench.pages.entries(page)
    here = VA >> (3 + 9 * level) & 511
    assert entries[here] not in (0, bench.TRAP)
    for n in range(512):
        if n != here:
            assert entries[n] == (bench.TRAP if gptes[n] & pte.P else 0), n


def test_a_new_page_holds_nothing_where_nothing_is_marked(build: Callable[..., Bench]) -> None:
    """If wrong, a backend without marks finds some in its tables."""
    bench = build(marked=False)
    bench.map(VA, FRAME | RW | USED)
    bench.map(NEXT, FRAME | RW)
    bench.access(VA, bench.READ)
    assert sum(entry != 0 for entry in bench.pages.entries(leaf_page(bench))) == 1


def test_a_reserved_bit_counts_as_present(build: Callable[..., Bench]) -> None:
    """If wrong, hardware gives the guest a not-present fault instead of a reserved-bit one."""
    bench = warmed(build, RESERVED)
    assert at(bench) == bench.TRAP
    seen = bench.access(VA, bench.WRITE)
    assert seen.last == (Route.INJECT, Cause.RESERVED)
    assert seen.pfec == pf.P | pf.RSVD | pf.W | pf.U


def test_a_direct_page_is_all_trap(build: Callable[..., Bench]) -> None:
    """If wrong, pieces of a guest's large page fault as if they were not mapped."""
    bench = build(large_pages=False)
    bench.map(VA, 0x20_0000 | RW | USED, level=2)
    bench.access(VA, bench.READ)
    [page] = [page for page in bench.pages if page.role.direct]
    entries = bench.pages.entries(page)
    assert [n for n in range(512) if entries[n] != bench.TRAP] == [VA >> 12 & 511]


# An emulated write.


@pytest.mark.parametrize(
    ("entry", "value"),
    [
        pytest.param(ABSENT, "notrap", id="not present"),
        pytest.param(FRAME | USED | pte.W, "notrap", id="not present, other bits set"),
        pytest.param(FRAME | RW, "trap", id="present, not accessed"),
        pytest.param(FRAME | RW | pte.D, "trap", id="dirty, not accessed"),
        pytest.param(FRAME | RW | USED, "entry", id="present and accessed"),
        pytest.param(RESERVED, "trap", id="reserved bits set"),
        pytest.param(1 << 40 | RW | USED, "trap", id="no memory there"),
    ],
)
@pytest.mark.parametrize("before", [ABSENT, FRAME | RW | USED])
def test_a_written_leaf(
    build: Callable[..., Bench], before: int, *, entry: int, value: str
) -> None:
    """If wrong, the next access to the page takes another route than its new entry asks for."""
    bench = warmed(build, before)
    bench.access(VA, bench.READ)
    bench.rewrite(VA, entry)
    found = {0: "notrap", bench.TRAP: "trap"}.get(at(bench), "entry")
    assert found == value
    if value == "entry":
        assert at(bench) == bench.hpa(FRAME) | RW


@pytest.mark.parametrize(
    ("entry", "routes", "bypassed"),
    [
        (ABSENT, [], True),
        (FRAME | RW, [Route.INSTALL], False),
        (FRAME | RW | USED, [], False),
        (RESERVED, [Route.INJECT], False),
        (1 << 40 | RW | USED, [Route.MMIO], False),
    ],
)
def test_what_the_value_leads_to(
    build: Callable[..., Bench], *, entry: int, routes: list[Route], bypassed: bool
) -> None:
    """If wrong, the values are right and do nothing."""
    bench = warmed(build)
    bench.rewrite(VA, entry)
    seen = bench.access(VA, bench.READ)
    assert seen.routes == routes
    assert seen.bypassed is bypassed


@pytest.mark.parametrize("level", [4, 3, 2])
@pytest.mark.parametrize("present", [False, True])
def test_above_the_leaf_a_written_entry_stays_trap(
    marked: Bench, level: int, present: bool
) -> None:
    """If wrong, an upper entry is left to the guest, or linked before anybody has walked it."""
    bench = marked
    bench.map(VA, FRAME | RW | USED)
    bench.access(VA, bench.READ)
    path = bench.path(VA)
    link = bench.gpte(VA, level)
    bench.store(bench.slot(VA, level), link if present else 0)
    assert bench.pages.entry(path[4 - level]) == bench.TRAP
    assert Scope.ALL in bench.flushes
    seen = bench.access(VA, bench.READ)
    assert seen.routes == [Route.INSTALL if present else Route.INJECT]
    bench.store(bench.slot(VA, level), link)
    assert bench.access(VA, bench.READ).gpa == FRAME


def test_a_write_flushes_what_was_mapped(bench: Bench) -> None:
    """If wrong, hardware still holds what the guest has unmapped."""
    bench.map(VA, FRAME | RW | USED)
    bench.access(VA, bench.WRITE)
    del bench.flushes[:]
    bench.rewrite(VA, 0)
    assert Scope.ALL in bench.flushes
    assert bench.access(VA, bench.READ).pfec == pf.U
    del bench.flushes[:]
    bench.rewrite(VA, FRAME | RW | USED)
    assert set(bench.flushes) == {None}  # nothing was mapped: an upgrade owes nothing


# Update on write.


@pytest.mark.parametrize(
    ("entry", "spte"),
    [
        (FRAME | RW | USED, RW),
        (FRAME | RW | pte.A, RO),  # D is clear: the first write must be seen
        (FRAME | RO | USED, RO),
        (FRAME | pte.P | pte.W | USED, pte.P | pte.W),
        (FRAME | RW | USED | pte.NX, RW | pte.NX),
        (FRAME | RW | USED | pte.G | pte.PS | pte.PWT | pte.PCD | 7 << 9, RW),
    ],
)
def test_update_on_write_builds_the_entry(
    build: Callable[..., Bench], entry: int, spte: int
) -> None:
    """If wrong, the entry built at once allows something else than one built by a fault."""
    bench = warmed(build)
    bench.rewrite(VA, entry)
    assert at(bench) == bench.hpa(FRAME) | spte
    kind = bench.READ if spte & pte.U else pf.READ
    assert bench.access(VA, kind).handled == ()


def test_update_on_write_is_narrowed_by_the_path(build: Callable[..., Bench]) -> None:
    """If wrong, a table under a read-only path gets writable entries."""
    bench = build()
    bench.map(VA, ABSENT, path=pte.P | pte.U | pte.A)
    bench.map(NEXT, OTHER | RW | USED)
    bench.access(NEXT, bench.READ)
    bench.rewrite(VA, FRAME | RW | USED)
    assert at(bench) == bench.hpa(FRAME) | RO
    assert bench.access(VA, bench.WRITE).pfec == pf.P | pf.W | pf.U


def test_update_on_write_off(build: Callable[..., Bench]) -> None:
    """If wrong, the parameter does nothing."""
    bench = warmed(build, update_on_write=False)
    bench.rewrite(VA, FRAME | RW | USED)
    assert at(bench) == bench.TRAP
    assert bench.access(VA, bench.READ).routes == [Route.INSTALL]


def test_update_on_write_of_a_table(build: Callable[..., Bench]) -> None:
    """If wrong, a guest that maps a page table gets to write it unseen."""
    bench = warmed(build)
    table = bench.slot(VA) & -0x1000
    bench.rewrite(VA, table | RW | USED)
    assert at(bench) == bench.hpa(table) | RO
    assert bench.access(VA, bench.WRITE).last == (Route.EMULATE, Cause.TABLE_WRITE)


def test_update_on_write_leaves_other_registers_pages_alone(build: Callable[..., Bench]) -> None:
    """If wrong, a page made for other registers gets an entry that is right for these only."""
    bench = warmed(build)
    bench.load(cr0=0)
    bench.access(NEXT, bench.READ)
    old, new = bench.pages.shadows_of(bench.slot(VA) >> 12)
    bench.rewrite(VA, FRAME | RW | USED)
    here = VA >> 12 & 511
    assert bench.pages.entries(old)[here] == bench.TRAP
    assert bench.pages.entries(new)[here] == bench.hpa(FRAME) | RW


def test_update_on_write_while_paging_is_off(build: Callable[..., Bench]) -> None:
    """If wrong, tables written before paging is on again are read under no registers at all."""
    bench = warmed(build)
    off = bench.mmu.guest_regs.__class__(cr0=1)
    _, flush = bench.mmu.load_guest(off)
    flush.forgo("the engine is not told")
    bench.mmu.emulate_store(bench.slot(VA), FRAME | RW | USED, 8).forgo("nothing was mapped")
    assert at(bench) == bench.TRAP
    bench.load()
    assert bench.access(VA, bench.READ).gpa == FRAME


def test_update_on_write_carries_the_protection_key(build: Callable[..., Bench]) -> None:
    """If wrong, a keyed page may be read without its key, or a key shows that CR4.PKE hides."""
    key = 3 << pte.PKEY_SHIFT
    bench = warmed(build)
    bench.rewrite(VA, FRAME | RW | USED | key)
    assert at(bench) == bench.hpa(FRAME) | RW
    bench.load(cr4=CR4_PKE, pkru=1 << 6)
    assert bench.access(VA, bench.READ).pfec == pf.P | pf.U | pf.PK
    bench.load(cr4=CR4_PKE)
    bench.access(VA, bench.READ)
    bench.rewrite(VA, FRAME | RW | USED | key)
    assert bench.spte(VA) == bench.hpa(FRAME) | RW | key
    bench.load(cr4=CR4_PKE, pkru=1 << 6)
    assert bench.access(VA, bench.READ).pfec == pf.P | pf.U | pf.PK


# Zap.


def test_a_zapped_pages_parents_are_trap(marked: Bench) -> None:
    """If wrong, the fault that should build the page again goes to the guest instead."""
    bench = marked
    bench.map(VA, FRAME | RW | USED)
    bench.access(VA, bench.READ)
    parent = bench.path(VA)[2]
    bench.perform(bench.pages.zap_page(leaf_page(bench)))
    assert bench.flushes[-1] is Scope.ALL
    assert bench.pages.entry(parent) == bench.TRAP
    assert bench.access(VA, bench.READ).routes == [Route.INSTALL]


# Where the guest must not see hardware's error codes.


@pytest.mark.parametrize("guard", [CR4_SMAP, CR4_PKE])
def test_while_fetches_are_hidden_every_unbuilt_entry_is_trap(marked: Bench, guard: int) -> None:
    """If wrong, a bypassed fault shows the guest I/D, which its registers keep out of sight."""
    bench = marked
    bench.map(VA, FRAME | RW | USED)
    bench.load(cr4=guard, efer=0)
    bench.access(VA, bench.READ)
    assert set(bench.pages.entries(leaf_page(bench))) == {bench.TRAP, bench.spte(VA)}
    bench.rewrite(NEXT, ABSENT)
    assert at(bench, NEXT) == bench.TRAP
    seen = bench.access(NEXT, bench.FETCH)
    assert seen.last == (Route.INJECT, Cause.NOT_PRESENT)
    assert seen.pfec == pf.U
    bench.load()
    bench.access(VA, bench.READ)
    assert bench.access(NEXT, bench.FETCH).bypassed
