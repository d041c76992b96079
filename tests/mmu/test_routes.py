"""Each route that a fault can take, and the error code that the guest gets where it is its own."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

from hvmmu.arch import pfec as pf
from hvmmu.arch import pte
from hvmmu.arch.regs import (
    CR0_PE,
    CR0_PG,
    CR0_WP,
    CR4_LA57,
    CR4_PAE,
    CR4_PGE,
    CR4_PKE,
    CR4_SMAP,
    CR4_SMEP,
    EFER_LMA,
    EFER_LME,
    EFER_NXE,
    Regs,
)
from hvmmu.errors import BackendUnavailableError, InvariantError
from hvmmu.fault import Cause, FaultOutcome, PageFault, Route
from hvmmu.tlb import Scope

if TYPE_CHECKING:
    from collections.abc import Callable

    from conftest import Bench

VA, NEXT = 0x7F00_0000_1000, 0x7F00_0000_2000
FRAME, OTHER = 0x10_0000, 0x10_1000
HOLE = 1 << 40
USED = pte.A | pte.D
RW = pte.P | pte.W | pte.U
RO = pte.P | pte.U


def warm(bench: Bench, va: int = NEXT) -> None:
    """Have the shadow built down to the leaf table that VA lies in."""
    bench.map(va, OTHER | RW | USED)
    bench.load()
    bench.access(va, bench.READ)


# Faults that are the guest's own.

KEY = 1 << pte.PKEY_SHIFT
GUEST_FAULTS = [
    pytest.param(0, pf.U, {}, pf.U, Cause.NOT_PRESENT, id="absent"),
    pytest.param(pte.ADDRESS | RW, pf.U, {}, pf.P | pf.RSVD | pf.U, Cause.RESERVED, id="rsvd"),
    pytest.param(FRAME | RO, pf.U | pf.W, {}, pf.P | pf.U | pf.W, Cause.READ_ONLY, id="ro"),
    pytest.param(FRAME | RO, pf.W, {}, pf.P | pf.W, Cause.READ_ONLY, id="kernel-ro"),
    pytest.param(
        FRAME | pte.P | pte.W, pf.U, {}, pf.P | pf.U, Cause.SUPERVISOR_PAGE, id="kernel-page"
    ),
    pytest.param(
        FRAME | RW | pte.NX, pf.U | pf.ID, {}, pf.P | pf.U | pf.ID, Cause.NO_EXECUTE, id="nx"
    ),
    pytest.param(FRAME | RW, pf.ID, {"cr4": CR4_SMEP}, pf.P | pf.ID, Cause.SMEP, id="smep"),
    pytest.param(FRAME | RW, 0, {"cr4": CR4_SMAP}, pf.P, Cause.SMAP, id="smap"),
    pytest.param(
        FRAME | RW | KEY,
        pf.U,
        {"cr4": CR4_PKE, "pkru": 0b0100},
        pf.P | pf.U | pf.PK,
        Cause.PROTECTION_KEY,
        id="pkey",
    ),
]


@pytest.mark.parametrize(("entry", "kind", "regs", "pfec", "cause"), GUEST_FAULTS)
def test_inject(
    bench: Bench, *, entry: int, kind: int, regs: dict[str, int], pfec: int, cause: Cause
) -> None:
    """If wrong, the guest gets another fault than on a bare machine, or the ledger another cause.

    The shadow's root is empty, so hardware's own code tells of that (RSVD, where entries are
    marked), and must not leak.
    """
    bench.map(VA, entry)
    bench.load(**regs)
    seen = bench.access(VA, kind)
    assert seen.handled == (FaultOutcome(Route.INJECT, cause, pfec, 1),)
    assert (seen.gpa, seen.pfec) == (None, pfec)
    assert bench.gpte(VA) == entry  # a fault sets no bit


@pytest.mark.parametrize(("entry", "kind", "regs", "pfec", "cause"), GUEST_FAULTS)
def test_inject_after_a_good_access(
    bench: Bench, *, entry: int, kind: int, regs: dict[str, int], pfec: int, cause: Cause
) -> None:
    """If wrong, an entry that was built for one access lets another through, or hides its fault."""
    bench.map(VA, entry)
    bench.load(**regs)
    for other in (pf.READ, pf.READ | pf.U, pf.FETCH, pf.FETCH | pf.U, pf.WRITE):
        bench.access(VA, other)
    seen = bench.access(VA, kind)
    assert seen.pfec == pfec
    if not seen.bypassed:
        assert seen.last == (Route.INJECT, cause)


@pytest.mark.parametrize("level", [4, 3, 2])
def test_inject_names_the_level_that_decided(bench: Bench, level: int) -> None:
    """If wrong, the ledger puts a fault at another level of the guest's tables."""
    bench.map(VA, 0, level=level)
    seen = bench.access(VA, bench.READ)
    assert seen.pfec == pf.U
    if seen.bypassed:  # the root's shadow is there from the start, so its absent entries are known
        assert (level, bench.core.level) == (4, 4)
    else:
        assert seen.handled == (FaultOutcome(Route.INJECT, Cause.NOT_PRESENT, pf.U, level),)


def test_a_fault_is_not_bypassed_before_its_leaf_page_is_built(marked: Bench) -> None:
    """If wrong, a path with tables counts as absent, or injecting builds shadow pages."""
    bench = marked
    bench.map(NEXT, OTHER | RW | USED)
    for _ in range(2):
        assert bench.access(VA, bench.WRITE).routes == [Route.INJECT]
    bench.access(NEXT, bench.READ)
    seen = bench.access(VA, bench.WRITE)
    assert seen.bypassed
    assert seen.pfec == pf.W | pf.U


def test_nothing_is_bypassed_without_marks(build: Callable[..., Bench]) -> None:
    """If wrong, a backend whose faults all exit loses some."""
    bench = build(marked=False)
    warm(bench)
    assert bench.access(VA, bench.WRITE).routes == [Route.INJECT]


# Faults that the shadow must resolve.


@pytest.mark.parametrize("kind", [pf.U, pf.U | pf.W, pf.U | pf.ID])
def test_install(bench: Bench, kind: int) -> None:
    """If wrong, the first access to a page lands elsewhere, or sets other bits than a CPU does."""
    bench.map(VA, FRAME | RW)
    seen = bench.access(VA + 8, kind)
    assert seen.last == (Route.INSTALL, Cause.UNBUILT)
    assert len(seen.handled) == 1
    assert (seen.handled[0].level, seen.handled[0].gpa) == (1, FRAME + 8)
    assert seen.gpa == FRAME + 8
    assert bench.gpte(VA) == FRAME | RW | pte.A | (pte.D if kind & pf.W else 0)
    assert bench.access(VA, kind).handled == ()


def test_the_first_write_after_a_read_sets_d(bench: Bench) -> None:
    """If wrong, a guest's D is lost: a read must leave a clean page read-only in the shadow."""
    bench.map(VA, FRAME | RW)
    bench.access(VA, bench.READ)
    assert not bench.spte(VA) & pte.W
    seen = bench.access(VA, bench.WRITE)
    assert seen.handled[0].pfec == pf.P | pf.W | pf.U  # hardware's: the shadow entry is read-only
    assert seen.last == (Route.ACCESSED_DIRTY, Cause.DIRTY)
    assert bench.gpte(VA) & pte.D
    assert bench.spte(VA) & pte.W


def test_a_dirty_page_needs_no_second_fault(bench: Bench) -> None:
    """If wrong, pages that a guest marks dirty itself, as Linux does, cost an exit more."""
    bench.map(VA, FRAME | RW | USED)
    assert bench.access(VA, bench.READ).routes == [Route.INSTALL]
    assert bench.access(VA, bench.WRITE).handled == ()


def test_accessed_bits_of_upper_entries(bench: Bench) -> None:
    """If wrong, a guest that ages its tables finds upper entries unused that were used."""
    bench.map(VA, FRAME | RW, path=RW)
    bench.access(VA, bench.READ)
    assert all(bench.gpte(VA, level) & pte.A for level in (4, 3, 2, 1))
    assert not any(bench.gpte(VA, level) & pte.D for level in (4, 3, 2, 1))


@pytest.mark.parametrize("kind", [pf.U, pf.U | pf.W])
def test_a_link_made_again_is_an_install(bench: Bench, kind: int) -> None:
    """If wrong, a path that was cut above a leaf counts as a fault for nothing, or for D."""
    bench.map(VA, FRAME | RW | USED)
    bench.access(VA, bench.READ)
    bench.store(bench.slot(VA, 2), bench.gpte(VA, 2))
    seen = bench.access(VA, kind)
    assert [(one.route, one.cause) for one in seen.handled] == [(Route.INSTALL, Cause.UNBUILT)]


def test_spurious(bench: Bench) -> None:
    """If wrong, a fault that another vCPU or a stale TLB caused changes the shadow."""
    bench.map(VA, FRAME | RW | USED)
    bench.access(VA, bench.READ)
    before = bench.spte(VA)
    handled, flush = bench.mmu.handle(PageFault(VA, pf.U))
    assert handled == FaultOutcome(Route.SPURIOUS, Cause.STALE, pf.U, 1, FRAME)
    assert flush.scope is None
    assert bench.spte(VA) == before


def test_mmio(bench: Bench) -> None:
    """If wrong, an access to no memory lands in some, or never ends."""
    bench.map(VA, HOLE | RW)
    for kind in (bench.READ, bench.WRITE, bench.WRITE):
        seen = bench.access(VA + 16, kind)
        assert seen.last == (Route.MMIO, Cause.NO_MEMORY)
        assert seen.gpa == HOLE + 16
    assert bench.gpte(VA) == HOLE | RW | USED


# Writes to page tables.


def test_writes_to_a_page_table_are_emulated(bench: Bench) -> None:
    """If wrong, a guest changes a shadowed table and nobody hears of it."""
    table = bench.slot(VA) & -0x1000
    bench.map(VA, FRAME | RW | USED)
    bench.map(NEXT, table | RW | USED)
    bench.access(VA, bench.READ)
    for _ in range(3):
        seen = bench.access(NEXT + 8, bench.WRITE)
        assert seen.last == (Route.EMULATE, Cause.TABLE_WRITE)
        assert seen.gpa == table + 8
    assert bench.access(NEXT + 8, bench.READ).gpa == table + 8


def test_a_mapping_of_a_page_that_becomes_a_table(bench: Bench) -> None:
    """If wrong, a page that was writable before it became a table stays so."""
    table = bench.slot(VA) & -0x1000
    bench.map(VA, FRAME | RW | USED)
    far = 0x6000_0000_0000
    bench.map(far, table | RW | USED)
    assert bench.access(far, bench.WRITE).last == (Route.INSTALL, Cause.UNBUILT)
    assert bench.access(far, bench.WRITE).handled == ()
    del bench.flushes[:]
    bench.access(VA, bench.READ)
    assert Scope.ALL in bench.flushes  # hardware may have cached it as writable
    assert not bench.spte(far) & pte.W
    assert bench.access(far, bench.WRITE).last == (Route.EMULATE, Cause.TABLE_WRITE)


def test_a_table_that_maps_itself(bench: Bench) -> None:
    """If wrong, a guest with a recursive slot, as some kernels have, edits tables unseen."""
    bench.map(VA, FRAME | RW | USED)
    bench.slots.store(bench.ROOT + 8 * 511, bench.ROOT | bench.LINK | pte.D)
    bench.access(VA, bench.READ)
    recursive = 0xFFFF_FFFF_FFFF_F000  # index 511 at all four levels: the root itself
    seen = bench.access(recursive, bench.WRITE)
    assert seen.gpa == bench.ROOT
    assert seen.last == (Route.EMULATE, Cause.TABLE_WRITE)
    through_pt = 0xFFFF_FF80_0000_0000 | VA >> 9 & 0x7F_FFFF_FFF8
    assert bench.access(through_pt, bench.WRITE).gpa == bench.slot(VA)
    assert bench.access(through_pt, bench.WRITE).last == (Route.EMULATE, Cause.TABLE_WRITE)


def test_all_shadows_of_a_table_follow_a_write(bench: Bench) -> None:
    """If wrong, a table that two paths lead to, one of them read-only, is updated in one only."""
    bench.map(VA, FRAME | RW | USED)
    table = bench.slot(VA) & -0x1000
    bench.map(VA + (2 << 20), 0, level=2)
    bench.slots.store(bench.slot(VA + (2 << 20), 2), table | RO | pte.A)
    bench.access(VA, bench.READ)
    bench.access(VA + (2 << 20), bench.READ)
    assert len(bench.pages.shadows_of(table >> 12)) == 2
    bench.rewrite(VA, OTHER | RW | USED)
    assert bench.access(VA, bench.WRITE).gpa == OTHER
    assert bench.access(VA + (2 << 20), bench.READ).gpa == OTHER
    assert bench.access(VA + (2 << 20), bench.WRITE).pfec == pf.P | pf.W | pf.U


@pytest.mark.parametrize("halves", [(0, 4), (4, 0)])
def test_an_entry_written_in_halves(bench: Bench, halves: tuple[int, int]) -> None:
    """If wrong, a 32-bit store to an entry updates the shadow from only half of it."""
    warm(bench)
    new = FRAME | RW | USED | pte.NX
    for half in halves:
        bench.store(bench.slot(VA) + half, new >> (8 * half) & 0xFFFF_FFFF, 4)
    assert bench.gpte(VA) == new
    assert bench.access(VA, bench.WRITE).gpa == FRAME
    assert bench.access(VA, bench.FETCH).pfec == pf.P | pf.U | pf.ID


@pytest.mark.parametrize("size", [1, 2, 4, 8])
def test_stores_beside_tables(bench: Bench, size: int) -> None:
    """If wrong, an emulated store of some size writes other bytes than a CPU would."""
    bench.slots.store(FRAME, (1 << 64) - 1)
    bench.store(FRAME + size % 8, 0, size)
    kept = (1 << 64) - 1 & ~(((1 << 8 * size) - 1) << 8 * (size % 8))
    assert bench.slots.load(FRAME) == kept


# Registers.


def test_hardware_runs_with_registers_of_its_own(bench: Bench) -> None:
    """If wrong, a guest that clears CR0.WP writes through the shadow's write protection."""
    bench.load(cr0=0, cr4=CR4_PGE | CR4_SMEP, pkru=5, rflags_ac=1)
    root = bench.mmu.root
    assert root is not None
    assert bench.mmu.guest_regs.cr0 == CR0_PE | CR0_PG
    assert bench.core.regs == Regs(
        cr0=CR0_PE | CR0_PG | CR0_WP,
        cr3=root.hpa,
        cr4=CR4_PAE | CR4_SMEP,
        efer=EFER_LME | EFER_LMA | EFER_NXE,
        pkru=5,
        rflags_ac=1,
    )


def test_two_roots_are_kept(bench: Bench) -> None:
    """If wrong, every context switch builds all shadow tables again."""
    bench.map(VA, FRAME | RW | USED)
    bench.map(VA, OTHER | RW | USED, root=0x8_0000)
    assert bench.access(VA, bench.READ).gpa == FRAME
    bench.load(cr3=0x8_0000)
    assert bench.flushes[-1] is Scope.ALL
    assert bench.access(VA, bench.READ).gpa == OTHER
    bench.load(cr3=bench.ROOT)
    seen = bench.access(VA, bench.READ)
    assert (seen.gpa, seen.handled) == (FRAME, ())


def test_a_root_in_no_memory(bench: Bench) -> None:
    """If wrong, a CR3 that points nowhere stops the hypervisor instead of faulting the guest."""
    bench.load(cr3=HOLE)
    seen = bench.access(VA, bench.READ)
    assert seen.last == (Route.INJECT, Cause.RESERVED)  # all ones come back from there
    bench.load()


def test_the_same_registers_again_change_nothing(bench: Bench) -> None:
    """If wrong, a write of CR3's own value throws the shadow away."""
    bench.load()
    root = bench.mmu.root
    bench.load()
    assert bench.mmu.root is root
    assert bench.flushes[-1] is None


@pytest.mark.parametrize(
    ("cr4", "efer", "mode"),
    [
        (0, 0, "legacy32"),
        (CR4_PAE, 0, "pae"),
        (CR4_PAE | CR4_LA57, EFER_LME | EFER_LMA, "long5"),
    ],
)
def test_modes_that_are_not_shadowed(bench: Bench, cr4: int, efer: int, mode: str) -> None:
    """If wrong, a guest's tables are read in the wrong format instead of being refused."""
    with pytest.raises(BackendUnavailableError, match=f"turned on {mode} paging.*native"):
        bench.mmu.load_guest(Regs(CR0_PE | CR0_PG, bench.ROOT, cr4, efer))


def test_before_paging(build: Callable[..., Bench]) -> None:
    """If wrong, a guest that has not turned paging on gets shadow tables, or a fault is lost."""
    bench = build()
    regs, flush = bench.mmu.load_guest(Regs(CR0_PE, 0x5000))
    assert regs == Regs(CR0_PE, 0x5000)
    assert flush.scope is None
    assert bench.mmu.root is None
    assert len(bench.pages) == 0
    with pytest.raises(InvariantError, match="before the guest turned paging on"):
        bench.mmu.handle(PageFault(VA, 0))


def test_paging_off_again(bench: Bench) -> None:
    """If wrong, hardware goes on walking a shadow root after the guest has left paging."""
    regs, flush = bench.mmu.load_guest(Regs(CR0_PE, bench.ROOT))
    flush.forgo("the engine is not told")
    assert regs.cr3 == bench.ROOT
    assert bench.mmu.root is None
    bench.load()
    assert bench.mmu.root is not None


def test_broken_promises_are_our_bug(bench: Bench) -> None:
    """If wrong, a caller that breaks the MMU's rules corrupts the shadow in silence."""
    bench.map(VA, FRAME | RW)
    bench.load()
    with pytest.raises(InvariantError, match="no canonical address"):
        bench.mmu.handle(PageFault(1 << 50, pf.U))
    root = bench.mmu.root
    assert root is not None
    bench.perform(bench.pages.zap_page(root))
    with pytest.raises(InvariantError, match="from a shadow root that was zapped"):
        bench.mmu.handle(PageFault(VA, pf.U))
    bench._take(*bench.mmu.reload())
    assert bench.access(VA, bench.READ).gpa == FRAME


def test_invlpg_is_hardwares_business(bench: Bench) -> None:
    """If wrong, INVLPG rebuilds what is in step with the tables already, or flushes too much."""
    flush = bench.mmu.invlpg(VA)
    assert (flush.scope, flush.gva) == (Scope.PAGE, VA)
    bench.perform(flush)
