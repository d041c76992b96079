"""The reference walk: what the recorded walks cannot show, and what a reader wants to see small."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

from hvmmu.arch import pfec as pf
from hvmmu.arch import pte
from hvmmu.arch.paging import LEGACY32, LONG4, PAE, formats
from hvmmu.arch.regs import CR0_WP, CR4_PGE, CR4_PKE, CR4_SMEP, EFER_NXE, CpuFeatures, Regs
from hvmmu.spec.walk import ALL_ACCESS, Outcome, Walk, permission_fault, reported_kind, walk

if TYPE_CHECKING:
    from conftest import Hardware

VA, FRAME = 0x7F00_0000_1000, 0x10_0000
RW, RO = pte.P | pte.W | pte.U, pte.P | pte.U


def walked(hw: Hardware, kind: int, va: int = VA) -> Walk:
    """Walk the hardware's tables with no TLB before them."""
    regs = hw.core.regs
    return walk(hw.memory, regs, formats(LONG4, regs, hw.core.cpu), va, kind)


class Watched:
    """Physical memory that notes every store."""

    def __init__(self, hw: Hardware) -> None:
        self.hw = hw
        self.stores: list[int] = []

    def load(self, pa: int, size: int) -> int:
        """Read."""
        return self.hw.memory.load(pa, size)

    def store(self, pa: int, value: int, size: int) -> None:
        """Note where, and write."""
        self.stores.append(pa)
        self.hw.memory.store(pa, value, size)


def test_what_a_walk_tells(hw: Hardware) -> None:
    """If wrong, a TLB fills, or a shadow MMU builds, from something else than was walked."""
    hw.load(cr4=CR4_PGE)
    hw.map(VA, FRAME | RW | pte.NX | pte.G | 5 << pte.PKEY_SHIFT)
    found = walked(hw, pf.U | pf.W, VA + 0x123)
    assert found.outcome is Outcome.OK
    assert found.pa == FRAME + 0x123
    assert found.access == pf.W | pf.U
    assert (found.level, found.pkey, found.is_global, found.dirty) == (1, 5, True, True)
    assert [step.level for step in found.path] == [4, 3, 2, 1]
    assert [step.pa for step in found.path] == [hw.slot(VA, level) for level in (4, 3, 2, 1)]
    assert not any(step.entry & (pte.A | pte.D) for step in found.path)  # as they were before


def test_access_narrows_level_by_level(hw: Hardware) -> None:
    """If wrong, one level's permission is lost, or one that no level took is missing."""
    hw.map(VA, FRAME | RW)
    hw.memory.store(hw.slot(VA, 3), hw.entry(VA, 3) & ~pte.W)
    hw.memory.store(hw.slot(VA, 2), hw.entry(VA, 2) | pte.NX)
    found = walked(hw, pf.U)
    assert [s.access for s in found.path] == [ALL_ACCESS, pf.U | pf.ID, pf.U, pf.U]
    assert found.access == pf.U


def test_a_not_present_entry_narrows_nothing(hw: Hardware) -> None:
    """If wrong, the bits of an entry that the CPU ignores decide what a fault was caused by."""
    hw.map(VA, pte.NX)
    found = walked(hw, pf.U)
    assert found.outcome is Outcome.PAGE_FAULT
    assert (found.level, found.path[-1].access, found.pfec) == (1, ALL_ACCESS, pf.U)


def test_a_walk_that_reads_nothing_has_no_level(hw: Hardware) -> None:
    """If wrong, a non-canonical address is charged to an entry."""
    found = walked(hw, pf.U, 1 << 47)
    assert found.outcome is Outcome.GENERAL_PROTECTION
    assert (found.level, found.path) == (0, [])


def test_memory_is_touched_only_where_bits_change(hw: Hardware) -> None:
    """If wrong, walks write to tables that need no bit: each such write may be a costly one."""
    hw.map(VA, FRAME | RW)
    watched, regs = Watched(hw), hw.core.regs
    form = formats(LONG4, regs, hw.core.cpu)
    slots = [hw.slot(VA, level) for level in (4, 3, 2, 1)]
    walk(watched, regs, form, VA, pf.U)
    assert watched.stores == slots
    walk(watched, regs, form, VA, pf.U)
    assert watched.stores == slots
    walk(watched, regs, form, VA, pf.U | pf.W)
    assert watched.stores == [*slots, slots[-1]]
    walk(watched, regs, form, VA, pf.U | pf.W)
    assert watched.stores == [*slots, slots[-1]]


@pytest.mark.parametrize("leaf", [0, FRAME | RO, FRAME | RW | 1 << 50])
def test_a_walk_that_faults_writes_nothing(hw: Hardware, leaf: int) -> None:
    """If wrong, entries above a fault are marked: this hardware says that it does not."""
    hw.map(VA, leaf)
    watched, regs = Watched(hw), hw.core.regs
    found = walk(watched, regs, formats(LONG4, regs, hw.core.cpu), VA, pf.U | pf.W)
    assert found.outcome is Outcome.PAGE_FAULT
    assert watched.stores == []


def test_d_of_a_read_is_the_entrys_own(hw: Hardware) -> None:
    """If wrong, a clean page is cached as dirty, and its first write never sets D."""
    hw.map(VA, FRAME | RW)
    assert not walked(hw, pf.U).dirty
    hw.map(VA, FRAME | RW | pte.D)
    assert walked(hw, pf.U).dirty


def test_fetches_are_reported_only_where_they_matter() -> None:
    """If wrong, an error code shows I/D on a CPU that leaves it clear."""
    kind, cpu = pf.U | pf.ID, CpuFeatures()
    nxe, smep = Regs(efer=EFER_NXE), Regs(cr4=CR4_SMEP)
    for mode, regs, shown in (
        (LONG4, Regs(), pf.U),
        (LONG4, nxe, kind),
        (PAE, nxe, kind),
        (LEGACY32, nxe, pf.U),  # 4-byte entries have no NX
        (LEGACY32, smep, kind),
        (LONG4, smep, kind),
    ):
        assert reported_kind(kind, formats(mode, regs, cpu), regs) == shown


def test_protection_keys_need_long_mode() -> None:
    """If wrong, PKRU forbids accesses under PAE, whose entries have no key."""
    regs = Regs(cr0=CR0_WP, cr4=CR4_PKE, pkru=1)
    assert permission_fault(ALL_ACCESS, 0, pf.U, regs) == 0


def test_large_pages_carry_the_offset_below_them(hw: Hardware) -> None:
    """If wrong, bits of a large entry below its span (PAT among them) leak into the address."""
    hw.map(VA, 0x4000_0000 - 0x20_0000 | RW | pte.PAT_LARGE, level=2)
    found = walked(hw, pf.U, VA + 0x12345)
    assert found.outcome is Outcome.OK
    assert found.pa == 0x4000_0000 - 0x20_0000 + (VA + 0x12345) % 0x20_0000
    assert found.level == 2
