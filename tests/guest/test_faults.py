"""The first touch of a page and the later ones: what the pager puts behind each mapping."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

from hvmmu._guest.kernel import SegfaultError
from hvmmu._guest.layout import MOST_REPEATS
from hvmmu.arch import pte
from hvmmu.errors import GuestMemoryError, InvariantError
from hvmmu.steps import Backing

if TYPE_CHECKING:
    from collections.abc import Callable

    from conftest import Guest

BITS = ~pte.ADDRESS & (1 << 64) - 1
RW = pte.P | pte.U | pte.W | pte.A | pte.D


def test_a_demand_zero_write_costs_one_store(guest: Guest) -> None:
    """If wrong, exits per demand-zero fault are not the 3, 2 and 1 the README's table shows."""
    guest.mmap(2)
    guest.touch(guest.WRITE, 0)
    guest.vcpu.log.clear()
    guest.touch(guest.WRITE, 1)
    assert [name for name, _ in guest.vcpu.log] == ["store"]
    assert guest.entry(1) & BITS == RW | pte.NX
    assert guest.causes() == {"zero": 2}


def test_accessed_and_dirty_stay_the_cpus_when_asked(boot: Callable[..., Guest]) -> None:
    """If wrong, set_accessed_dirty=0 does not let one see what setting the bits ahead saves."""
    guest = boot(accessed_dirty=False)
    stored: list[int] = []
    poke = guest.vcpu.store

    def store(gva: int, value: int) -> None:
        stored.append(value)
        poke(gva, value)

    guest.vcpu.store = store
    guest.mmap(1)
    guest.touch(guest.WRITE, 0)
    assert all(not value & (pte.A | pte.D) for value in stored)
    assert guest.entry() & BITS == RW | pte.NX  # the CPU set both


def test_a_read_shares_the_zero_frame_until_written(guest: Guest) -> None:
    """If wrong, reading a fresh page costs a frame, or a write leaks into every other zero page."""
    guest.mmap(2)
    assert guest.touch(guest.READ, 0, 1) == [0, 0]
    assert guest.entry(0) & pte.ADDRESS == guest.entry(1) & pte.ADDRESS
    assert not guest.entry(0) & (pte.W | pte.D)
    guest.touch(guest.WRITE, 0)
    assert guest.touch(guest.READ, 0, 1) == [1, 0]
    assert guest.causes() == {"zero": 2, "cow_zero": 1}


def test_breaking_a_sharing_clears_flushes_and_sets(guest: Guest) -> None:
    """If wrong, a page changes its frame while the TLB may still know the old one."""
    guest.mmap(1)
    guest.touch(guest.READ, 0)
    guest.vcpu.log.clear()
    guest.touch(guest.WRITE, 0)
    assert [name for name, _ in guest.vcpu.log] == ["store", "invlpg", "store"]


def test_a_file_page_is_shared_by_reads_and_copied_by_writes(guest: Guest) -> None:
    """If wrong, a private file mapping writes into the page cache."""
    guest.mmap(2, prot=7, backing=Backing.FILE)
    guest.touch(guest.FETCH, 0)
    cached = guest.entry(0)
    assert cached & BITS == pte.P | pte.U | pte.A
    guest.touch(guest.WRITE, 0)
    assert guest.entry(0) & BITS == RW
    assert guest.entry(0) & pte.ADDRESS != cached & pte.ADDRESS
    guest.touch(guest.WRITE, 1)
    assert guest.causes() == {"file": 1, "cow_copy": 2}
    assert guest.operations("copy_page") == 2


@pytest.mark.parametrize(
    ("access", "bits"),
    [
        ("FETCH", pte.P | pte.U | pte.A),
        ("READ", pte.P | pte.U | pte.A | pte.NX),
        ("WRITE", RW | pte.NX),
    ],
)
def test_the_first_access_decides_an_inferred_page(guest: Guest, access: str, bits: int) -> None:
    """If wrong, a trace's text, data and zero pages are not told apart."""
    guest.mmap(1, prot=7, backing=Backing.INFERRED)
    guest.touch(getattr(guest, access), 0)
    assert guest.entry() & BITS == bits


def test_an_inferred_page_gains_the_rights_it_is_used_with(guest: Guest) -> None:
    """If wrong, a program that writes code and runs it dies, or cannot after a copy."""
    guest.mmap(1, prot=7, backing=Backing.INFERRED)
    guest.touch(guest.READ, 0)
    guest.touch(guest.FETCH, 0)
    assert not guest.entry() & pte.NX
    guest.touch(guest.WRITE, 0)
    assert guest.entry() & BITS == RW
    assert guest.causes() == {"zero": 1, "exec_upgrade": 1, "cow_zero": 1}


def test_without_nx_no_entry_has_bit_63(boot: Callable[..., Guest]) -> None:
    """If wrong, every entry has a reserved bit set on a CPU without NX (the walker asserts it)."""
    guest = boot(nx=False)
    guest.mmap(3, prot=7, backing=Backing.INFERRED)
    for page, kind in enumerate((guest.READ, guest.WRITE, guest.READ)):
        guest.touch(kind, page)
        assert not guest.entry(page) & pte.NX


@pytest.mark.parametrize(
    ("prot", "access", "why"),
    [
        (0, "READ", "allows no access"),
        (1, "WRITE", "not writable"),
        (3, "FETCH", "not executable"),
        (None, "READ", "nothing is mapped"),
    ],
)
def test_an_illegal_access_is_the_workloads_mistake(
    guest: Guest, prot: int | None, access: str, why: str
) -> None:
    """If wrong, a workload's segmentation fault is a traceback, or succeeds."""
    if prot is not None:
        guest.mmap(1, prot=prot)
    with pytest.raises(SegfaultError, match=f"0x7f0000000000.*{why}"):
        guest.touch(getattr(guest, access), 0)


def test_the_kernels_half_is_out_of_reach(guest: Guest) -> None:
    """If wrong, a user access to the direct map succeeds, or is taken for our bug."""
    with pytest.raises(SegfaultError, match="kernel addresses"):
        guest.touch(guest.READ, (0xFFFF_8880_0000_0000 - 0x7F00_0000_0000) >> 12)


@pytest.mark.parametrize(("cr2", "pfec"), [(0xFFFF_8880_0000_0000, 0), (0x7F00_0000_0000, 0xD)])
def test_what_no_right_machine_delivers_is_a_bug(guest: Guest, cr2: int, pfec: int) -> None:
    """If wrong, a leaked RSVD artefact or a lost direct map is handled as the guest's own."""
    guest.mmap(1)
    guest.vcpu.cr2 = cr2
    with pytest.raises(InvariantError):
        guest.vcpu.page_fault(pfec)


def test_a_fault_that_never_ends_is_a_bug(guest: Guest) -> None:
    """If wrong, a machine that delivers one fault for ever hangs the run."""
    guest.mmap(1)
    guest.touch(guest.WRITE, 0)
    guest.vcpu.cr2 = 0x7F00_0000_0000
    for _ in range(MOST_REPEATS - 1):
        guest.vcpu.page_fault(7)
    with pytest.raises(InvariantError, match="8 times in a row"):
        guest.vcpu.page_fault(7)
    assert guest.causes() == {"zero": 1, "spurious": MOST_REPEATS - 1}


def test_the_same_fault_in_separate_steps_is_no_loop(guest: Guest) -> None:
    """If wrong, a workload that maps, touches and unmaps one page ten times is called a bug."""
    for _ in range(2 * MOST_REPEATS):
        guest.mmap(1)
        guest.touch(guest.WRITE, 0)
        guest.munmap(1)
    assert guest.os.faults == 2 * MOST_REPEATS


def test_running_out_of_frames_says_what_to_raise(boot: Callable[..., Guest]) -> None:
    """If wrong, a workload bigger than the guest ends in a traceback."""
    guest = boot(memory=4 << 20)
    guest.mmap(1024)
    with pytest.raises(GuestMemoryError, match=r"512 data frames.*raise guest\.memory"):
        guest.touch(guest.WRITE, *range(1024))
