"""System calls: what they leave in the tables, what they flush, and that they leak nothing."""

from __future__ import annotations

from array import array
from typing import TYPE_CHECKING

import pytest

from hvmmu._guest.flush import SINGLE_PAGE_CEILING
from hvmmu._guest.policy import GuestParams
from hvmmu.arch import pte
from hvmmu.errors import ConfigError, InputError
from hvmmu.steps import Accesses, Backing, ExitProcess, Mmap, StartMeasuring, Step

if TYPE_CHECKING:
    from collections.abc import Callable

    from conftest import Guest

BASE = 0x7F00_0000_0000


def test_boot_maps_all_memory_in_large_pages(boot: Callable[..., Guest]) -> None:
    """If wrong, the kernel cannot reach some of its RAM, or needs tables that nobody made."""
    guest = boot(memory=3 << 30)
    top = guest.vcpu.guest_memory - 8
    guest.vcpu.store(0xFFFF_8880_0000_0000 + top, 5)
    assert guest.vcpu.peek(top) == 5
    assert guest.in_use()[0] == 1 + 1 + 3  # PML4, PDPT, a PD for each GiB
    assert guest.in_use()[1] == 1  # the zero frame


def test_the_direct_map_is_global(guest: Guest) -> None:
    """If wrong, every context switch costs the kernel its own translations, unlike Linux's."""
    guest.mmap(1)
    guest.touch(guest.WRITE, 0)
    guest.switch(1)
    assert guest.vcpu.tlb
    assert all(gva << 12 >= 0xFFFF_8880_0000_0000 for gva in guest.vcpu.tlb)


def test_fork_copies_page_by_page_across_tables(guest: Guest) -> None:
    """If wrong, a child's pages lie in the wrong page table."""
    guest.mmap(600)
    guest.touch(guest.WRITE, 0, 511, 512, 599)
    guest.fork(2)
    guest.switch(2)
    assert guest.touch(guest.READ, 0, 511, 512, 599, 1) == [1, 2, 3, 4, 0]


def test_fork_shares_and_the_last_owner_reuses(guest: Guest) -> None:
    """If wrong, parent and child see each other's writes, or the last owner copies for nothing."""
    guest.mmap(1)
    guest.touch(guest.WRITE, 0)
    frame = guest.entry() & pte.ADDRESS
    guest.fork(2)
    assert not guest.entry() & pte.W
    guest.switch(2)
    assert guest.entry() == frame | pte.P | pte.U | pte.D | pte.NX  # A clear until it is used
    guest.touch(guest.WRITE, 0)
    assert guest.entry() & pte.ADDRESS != frame
    guest.switch(1)
    assert guest.touch(guest.READ, 0) == [1]
    guest.touch(guest.WRITE, 0)
    assert guest.entry() & pte.ADDRESS == frame
    assert guest.causes() == {"zero": 1, "cow_copy": 1, "cow_reuse": 1}


@pytest.mark.parametrize("pages", [1, SINGLE_PAGE_CEILING, SINGLE_PAGE_CEILING + 1])
@pytest.mark.parametrize("call", ["fork", "munmap", "mprotect"])
def test_few_pages_are_flushed_singly_and_many_by_cr3(guest: Guest, call: str, pages: int) -> None:
    """If wrong, the flush traffic is not Linux's, or stale entries survive a system call."""
    guest.mmap(pages)
    guest.touch(guest.WRITE, *range(pages))
    guest.vcpu.log.clear()
    {
        "fork": lambda: guest.fork(2),
        "munmap": lambda: guest.munmap(pages),
        "mprotect": lambda: guest.mprotect(pages, 1),
    }[call]()
    few = pages <= SINGLE_PAGE_CEILING
    assert guest.operations("invlpg") == (pages if few else 0)
    assert guest.operations("cr3") == (not few)
    assert not [gva for gva, entry in guest.vcpu.tlb.items() if entry & pte.U and entry & pte.W]


def test_munmap_gives_back_frames_and_empty_tables(guest: Guest) -> None:
    """If wrong, a long run leaks until the guest is out of memory."""
    before = guest.in_use()
    guest.mmap(3 * 512, prot=7, backing=Backing.INFERRED)
    for kind, page in ((guest.WRITE, 0), (guest.READ, 512), (guest.FETCH, 1024)):
        guest.touch(kind, page)
    assert guest.in_use()[0] == before[0] + 2 + 3
    guest.munmap(1024)
    assert guest.in_use()[0] == before[0] + 2 + 1
    guest.munmap(512, page=1024)
    assert guest.in_use() == before


def test_where_no_table_is_only_its_own_pages_are_skipped(guest: Guest) -> None:
    """If wrong, munmap of a range that begins in an absent table leaves mapped pages behind."""
    before = guest.in_use()
    guest.mmap(600, page=510)
    guest.touch(guest.WRITE, 513, 1024)
    guest.munmap(600, page=510)
    assert guest.in_use() == before


def test_munmap_of_parked_pages_still_flushes_the_way_to_the_table(guest: Guest) -> None:
    """If wrong, the CPU walks a page table that has become something else's frame."""
    guest.mmap(1)
    guest.touch(guest.WRITE, 0)
    guest.mprotect(1, 0)
    guest.vcpu.paths[BASE >> 21] = 0  # as if walked speculatively
    guest.munmap(1)
    assert not guest.vcpu.paths


def test_a_reused_frame_is_cleared(guest: Guest) -> None:
    """If wrong, a process reads what another left behind."""
    guest.mmap(1)
    guest.touch(guest.WRITE, 0)
    guest.munmap(1)
    guest.mmap(1)
    guest.vcpu.log.clear()
    guest.touch(guest.WRITE, 0)
    assert guest.operations("clear_page") == 4  # PDPT, PD, PT and the page
    guest.munmap(1)


def test_mprotect_splits_and_merges_regions(guest: Guest) -> None:
    """If wrong, protections bleed into neighbours, or regions pile up for ever."""
    guest.mmap(9)
    guest.mprotect(3, 1, page=3)
    assert [(r.pages, r.prot) for r in guest.os.current.regions] == [(3, 3), (3, 1), (3, 3)]
    guest.mprotect(3, 3, page=3)
    assert [(r.pages, r.prot) for r in guest.os.current.regions] == [(9, 3)]


def test_files_side_by_side_stay_two(guest: Guest) -> None:
    """If wrong, unmapping two neighbouring files leaks the page cache of one."""
    start = guest.in_use()[1]
    guest.mmap(1, backing=Backing.FILE)
    guest.mmap(1, page=1, backing=Backing.FILE)
    guest.touch(guest.READ, 0, 1)
    guest.munmap(2)
    assert guest.in_use()[1] == start


def test_taking_execute_away_flushes(guest: Guest) -> None:
    """If wrong, code runs from a page that may no longer be executed."""
    guest.mmap(1, prot=5, backing=Backing.FILE)
    guest.touch(guest.FETCH, 0)
    guest.vcpu.log.clear()
    guest.mprotect(1, 1)
    assert guest.operations("invlpg") == 1


def test_mprotect_parks_a_page_and_brings_it_back(guest: Guest) -> None:
    """If wrong, PROT_NONE loses what the page held."""
    guest.mmap(1)
    guest.touch(guest.WRITE, 0)
    written = guest.entry()
    guest.mprotect(1, 0)
    assert guest.entry() == written & ~pte.P
    guest.mprotect(1, 3)
    assert guest.entry() == written
    assert guest.touch(guest.READ, 0) == [1]
    assert guest.os.faults == 1


def test_mprotect_never_makes_a_shared_frame_writable(guest: Guest) -> None:
    """If wrong, a write after mprotect goes to the zero frame, the page cache, or the parent."""
    guest.mmap(1)
    guest.touch(guest.READ, 0)
    guest.mmap(1, page=1, backing=Backing.FILE)
    guest.touch(guest.READ, 1)
    guest.mmap(1, page=2)
    guest.touch(guest.WRITE, 2)
    guest.fork(2)
    for prot in (1, 3):
        guest.mprotect(3, prot)
    assert not any(guest.entry(page) & pte.W for page in range(3))


def test_a_right_added_needs_no_flush(guest: Guest) -> None:
    """If wrong, the guest flushes more than a kernel does."""
    guest.mmap(1)
    guest.touch(guest.WRITE, 0)
    guest.mprotect(1, 1)
    guest.touch(guest.READ, 0)
    guest.vcpu.log.clear()
    guest.mprotect(1, 7)
    assert [name for name, _ in guest.vcpu.log] == ["store"]
    guest.touch(guest.WRITE, 0)
    assert guest.causes() == {"zero": 1, "spurious": 1}


def test_exit_gives_everything_back(guest: Guest) -> None:
    """If wrong, each process that ends leaks its tables or its frames."""
    guest.mmap(4)
    guest.mmap(4, page=100, prot=5, backing=Backing.FILE)
    guest.touch(guest.WRITE, 0, 1)
    guest.touch(guest.READ, 2, 100)
    before = guest.in_use()
    guest.fork(2)
    guest.switch(2)
    guest.touch(guest.WRITE, 0, 1, 2, 3)
    guest.touch(guest.FETCH, 100)
    guest.switch(1)
    guest.os.step(ExitProcess(2))
    # Page 101 was never read: the file's cache has what it had.
    assert guest.in_use() == before
    assert guest.touch(guest.READ, 0, 1, 2) == [1, 2, 0]


def test_the_page_cache_outlives_the_process_that_mapped_it_first(guest: Guest) -> None:
    """If wrong, a child's file pages vanish when its parent exits, or stay when both are gone."""
    start = guest.in_use()[1]
    guest.mmap(2, prot=1, backing=Backing.FILE)
    guest.touch(guest.READ, 0)
    guest.fork(2)
    guest.switch(2)
    guest.os.step(ExitProcess(1))
    guest.touch(guest.READ, 0, 1)
    assert guest.in_use()[1] == start + 2
    guest.munmap(2)
    assert guest.in_use()[1] == start


@pytest.mark.parametrize(
    ("step", "message"),
    [
        (lambda g: g.fork(1), "exists already"),
        (lambda g: g.fork(0), "no pid"),
        (lambda g: g.switch(9), "fork it first"),
        (lambda g: g.os.step(ExitProcess(9)), "fork it first"),
        (lambda g: g.os.step(ExitProcess(1)), "switch first"),
        (lambda g: g.mmap(1, page=1), "mapped already"),
        (lambda g: g.mmap(0, page=9), "at least one page"),
        (lambda g: g.mmap(1 << 35, page=9), "user half"),
        (lambda g: g.mmap(1, prot=8, page=9), "protection 0x8"),
        (lambda g: g.munmap(0), "at least one page"),
        (lambda g: g.mprotect(3, 1, page=1), "0x7f0000002000 is not mapped"),
        (lambda g: g.mprotect(1, 1, page=5), "0x7f0000005000 is not mapped"),
        (lambda g: g.os.step(Mmap(BASE + 8, 1, 3, Backing.ANONYMOUS)), "page-aligned"),
    ],
)
def test_a_step_that_cannot_be_has_no_effect(
    guest: Guest, step: Callable[[Guest], None], message: str
) -> None:
    """If wrong, a bad workload half happens, or ends in a traceback."""
    guest.mmap(2)
    guest.vcpu.log.clear()
    with pytest.raises(InputError, match=message):
        step(guest)
    assert not guest.vcpu.log


def test_ram_is_whole_large_pages() -> None:
    """If wrong, the last part of an odd guest.memory is in no mapping."""
    with pytest.raises(ConfigError, match="multiple of 2M"):
        GuestParams(memory=(16 << 20) + 4096)


def _run(guest: Guest, pages: int = 40) -> tuple[str, str, dict[str, int]]:
    steps: list[Step] = [
        StartMeasuring("measure"),
        Mmap(BASE, pages, 7, Backing.INFERRED),
        Accesses(
            array("Q", [BASE + i * 4096 for i in range(pages)]),
            array("B", [(guest.WRITE, guest.READ, guest.FETCH)[i % 3] for i in range(pages)]),
        ),
    ]
    for step in steps:
        guest.os.step(step)
    guest.fork(7)
    return guest.os.fault_log_sha256, guest.os.page_tables_sha256(), guest.os.counters


def test_the_same_steps_give_the_same_digests(boot: Callable[..., Guest]) -> None:
    """If wrong, runs of one workload on two backends can never be compared."""
    assert _run(boot()) == _run(boot())
    assert _run(boot())[:2] != _run(boot(), 41)[:2]


def test_the_tables_digest_sees_every_bit(guest: Guest) -> None:
    """If wrong, a lost A bit or a second process's tables escape the comparison."""
    guest.mmap(1)
    guest.touch(guest.READ, 0)
    guest.fork(2)
    guest.switch(2)
    child = guest.os.page_tables_sha256()
    guest.touch(guest.READ, 0)  # sets A in the child's entry, no more
    assert guest.os.page_tables_sha256() != child
