"""Guests that clear CR0.WP, or hide fetches: where hardware's registers are not the guest's."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

from hvmmu.arch import pfec as pf
from hvmmu.arch import pte
from hvmmu.arch.regs import CR0_WP, CR4_PKE, CR4_SMAP, CR4_SMEP, EFER_NXE
from hvmmu.fault import Cause, Route

if TYPE_CHECKING:
    from conftest import Bench

VA = 0x7F00_0000_1000
FRAME = 0x10_0000
RW, RO = pte.P | pte.W | pte.U, pte.P | pte.U
USED = pte.A | pte.D
READ, WRITE, FETCH = pf.READ, pf.WRITE, pf.FETCH


# CR0.WP clear.


def test_the_kernel_writes_a_read_only_page(bench: Bench) -> None:
    """If wrong, a kernel without CR0.WP cannot write what x86 lets it write."""
    bench.map(VA, FRAME | RO)
    bench.load(cr0=0)
    seen = bench.access(VA, WRITE)
    assert (seen.gpa, seen.routes) == (FRAME, [Route.INSTALL])
    assert bench.gpte(VA) == FRAME | RO | USED
    assert bench.access(VA, WRITE).handled == ()


def test_the_user_takes_the_page_back(bench: Bench) -> None:
    """If wrong, the user writes with the kernel, or cannot read after it."""
    bench.map(VA, FRAME | RO | USED)
    bench.load(cr0=0)
    bench.access(VA, WRITE)
    assert bench.access(VA, bench.READ).gpa == FRAME
    assert bench.access(VA, bench.WRITE).pfec == pf.P | pf.W | pf.U
    seen = bench.access(VA, WRITE)
    assert (seen.gpa, seen.last) == (FRAME, (Route.ACCESSED_DIRTY, Cause.WRITE_PROTECT_OFF))


def test_a_path_cut_above_what_the_kernel_wrote(bench: Bench) -> None:
    """If wrong, a link made again counts as a page taken back from the user."""
    bench.map(VA, FRAME | RO | USED)
    bench.load(cr0=0)
    bench.access(VA, WRITE)
    bench.store(bench.slot(VA, 2), bench.gpte(VA, 2))
    assert bench.access(VA, WRITE).last == (Route.INSTALL, Cause.UNBUILT)


def test_the_kernel_reads_and_runs_what_it_wrote(bench: Bench) -> None:
    """If wrong, writing a user page takes from the kernel what it had."""
    bench.map(VA, FRAME | RO | USED)
    bench.load(cr0=0)
    bench.access(VA, WRITE)
    assert bench.access(VA, READ).gpa == FRAME
    assert bench.access(VA, FETCH).gpa == FRAME


def test_smep_still_keeps_the_kernel_from_running_user_pages(bench: Bench) -> None:
    """If wrong, a page made the kernel's for a write may be run by it."""
    bench.map(VA, FRAME | RO | USED)
    bench.load(cr0=0, cr4=CR4_SMEP)
    assert bench.access(VA, WRITE).gpa == FRAME
    assert bench.access(VA, FETCH).pfec == pf.P | pf.ID
    assert bench.access(VA, bench.FETCH).gpa == FRAME


@pytest.mark.parametrize(
    ("cr4", "efer", "others"),
    [
        pytest.param(CR4_SMEP, 0, {}, id="no NX to keep the kernel from running it"),
        pytest.param(CR4_SMAP, EFER_NXE, {"rflags_ac": 1}, id="AC changes unseen"),
        pytest.param(CR4_PKE, EFER_NXE, {}, id="PKRU changes unseen"),
    ],
)
def test_writes_that_no_entry_can_let_through(
    bench: Bench, cr4: int, efer: int, others: dict[str, int]
) -> None:
    """If wrong, an entry lets through what the guest forbids, or the write never completes."""
    bench.map(VA, FRAME | RO)
    bench.load(cr0=0, cr4=cr4, efer=efer, **others)
    for _ in range(2):
        seen = bench.access(VA + 8, WRITE)
        assert (seen.gpa, seen.last) == (FRAME + 8, (Route.EMULATE, Cause.WRITE_PROTECT_OFF))
    assert bench.gpte(VA) == FRAME | RO | USED
    assert bench.access(VA, READ).gpa == FRAME


def test_ac_is_looked_at_after_a_write(bench: Bench) -> None:
    """If wrong, a page that the kernel wrote under AC stays open to it when AC is clear."""
    bench.map(VA, FRAME | RO)
    bench.load(cr0=0, cr4=CR4_SMAP, rflags_ac=1)
    bench.access(VA, WRITE)
    bench.load(cr0=0, cr4=CR4_SMAP)
    assert bench.access(VA, READ).pfec == pf.P
    assert bench.access(VA, WRITE).pfec == pf.P | pf.W


def test_pkru_is_looked_at_after_a_write(bench: Bench) -> None:
    """If wrong, a page that the kernel wrote stays open to it when its key is turned."""
    bench.map(VA, FRAME | RO)
    bench.load(cr0=0, cr4=CR4_PKE)
    bench.access(VA, WRITE)
    bench.load(cr0=0, cr4=CR4_PKE, pkru=1)
    assert bench.access(VA, READ).pfec == pf.P | pf.PK


def test_a_key_that_forbids_writes_binds_no_kernel_without_wp(bench: Bench) -> None:
    """If wrong, hardware's CR0.WP, which is always set, makes a key bind the kernel."""
    bench.map(VA, FRAME | RW | USED | 1 << pte.PKEY_SHIFT)
    bench.load(cr0=0, cr4=CR4_PKE, pkru=0b1000)
    seen = bench.access(VA, WRITE)
    assert (seen.gpa, seen.last) == (FRAME, (Route.EMULATE, Cause.WRITE_PROTECT_OFF))
    assert bench.access(VA, bench.WRITE).pfec == pf.P | pf.W | pf.U | pf.PK


def test_a_page_table_is_written_by_a_kernel_without_wp(bench: Bench) -> None:
    """If wrong, clearing CR0.WP lets the kernel write tables unseen."""
    table = bench.slot(VA) & -0x1000
    bench.map(VA + 0x1000, table | RO | USED)
    bench.load(cr0=0)
    seen = bench.access(VA + 0x1000, WRITE)
    assert (seen.gpa, seen.last) == (table, (Route.EMULATE, Cause.TABLE_WRITE))


def test_wp_set_again(bench: Bench) -> None:
    """If wrong, what was made writable while CR0.WP was clear stays so."""
    bench.map(VA, FRAME | RO | USED)
    bench.load(cr0=0)
    bench.access(VA, WRITE)
    bench.load(cr0=CR0_WP)
    assert bench.access(VA, WRITE).pfec == pf.P | pf.W
    bench.load(cr0=0)
    assert bench.access(VA, WRITE).gpa == FRAME


def test_smep_and_smap_turned_on_later(bench: Bench) -> None:
    """If wrong, a page made the kernel's before SMEP or SMAP was on escapes them."""
    bench.map(VA, FRAME | RO | USED)
    bench.load(cr0=0)
    bench.access(VA, WRITE)
    bench.load(cr0=0, cr4=CR4_SMEP)
    assert bench.access(VA, FETCH).pfec == pf.P | pf.ID
    bench.load(cr0=0)
    bench.access(VA, WRITE)
    bench.load(cr0=0, cr4=CR4_SMAP)
    assert bench.access(VA, READ).pfec == pf.P


# NXE clear, with SMAP or protection keys: error codes hide which faults are fetches.


def test_fetches_pass_where_reads_may_not(bench: Bench) -> None:
    """If wrong, a kernel's fetch from a user page, which SMAP spares, is refused as a read."""
    bench.map(VA, FRAME | RW)
    bench.load(cr4=CR4_SMAP, efer=0)
    assert bench.core.regs.efer & EFER_NXE
    assert not bench.mmu.guest_regs.efer & EFER_NXE
    assert bench.access(VA, FETCH).gpa == FRAME
    assert bench.access(VA, READ).pfec == pf.P
    assert bench.access(VA, FETCH).gpa == FRAME


def test_keys_spare_fetches(bench: Bench) -> None:
    """If wrong, a fetch by a user without the key is refused as a read would be."""
    bench.map(VA, FRAME | RW)
    bench.load(cr4=CR4_PKE, efer=0, pkru=0b01)
    assert bench.access(VA, bench.FETCH).gpa == FRAME
    assert bench.access(VA, bench.READ).pfec == pf.P | pf.U | pf.PK


def test_hidden_fetches_stay_hidden(bench: Bench) -> None:
    """If wrong, the NXE that hardware runs with shows in the guest's error codes."""
    bench.map(VA, FRAME | pte.P | pte.W)
    bench.load(cr4=CR4_SMAP, efer=0)
    assert bench.access(VA, bench.FETCH).pfec == pf.P | pf.U
    assert bench.access(VA + 0x1000, bench.FETCH).pfec == pf.U
    assert bench.access(VA, FETCH).gpa == FRAME
    assert bench.access(VA + 0x1000, bench.FETCH).pfec == pf.U


def test_nx_is_reserved_for_such_a_guest(bench: Bench) -> None:
    """If wrong, the NXE that hardware runs with makes the guest's reserved bit 63 mean NX."""
    bench.map(VA, FRAME | RW | USED | pte.NX)
    bench.load(cr4=CR4_SMAP, efer=0)
    seen = bench.access(VA, bench.READ)
    assert seen.last == (Route.INJECT, Cause.RESERVED)
    assert seen.pfec == pf.P | pf.RSVD | pf.U
    bench.rewrite(VA, FRAME | RW | USED | pte.NX)
    assert bench.access(VA, bench.READ).pfec == pf.P | pf.RSVD | pf.U
