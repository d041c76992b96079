"""What the guest's kernel keeps about its memory, against the memory itself."""

from __future__ import annotations

from collections import Counter
from hashlib import sha256
from typing import TYPE_CHECKING

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from hvmmu._guest.kernel import SegfaultError
from hvmmu._guest.regions import Region
from hvmmu.arch import pte
from hvmmu.errors import GuestMemoryError, InvariantError
from hvmmu.steps import Backing, ExitProcess, Mmap, Munmap, SwitchTo
from hvmmu.types import PAGE_SIZE, Gpa, Gva

if TYPE_CHECKING:
    from collections.abc import Callable

    from conftest import Guest

BASE = 0x7F00_0000_0000


@settings(max_examples=60, deadline=None)
@given(st.lists(st.sampled_from(["table", "data", "share", "drop"]), max_size=80), st.randoms())
def test_frames_go_out_in_order(
    boot: Callable[..., Guest], calls: list[str], random: object
) -> None:
    """If wrong, two runs of one workload get other frames, or two users get one frame."""
    frames = boot().os.frames
    free: dict[str, list[int]] = {"table": [], "data": []}
    fresh = {"table": frames.tables.next, "data": frames.data.next}
    holders: Counter[int] = Counter()
    for call in calls:
        if call in free:
            expected = free[call].pop() if free[call] else fresh[call]
            fresh[call] = max(fresh[call], expected + PAGE_SIZE)
            frame = frames.take_table() if call == "table" else frames.take()
            assert frame == expected
            holders[frame] += call == "data"
        elif +holders:
            frame = Gpa(random.choice(sorted(+holders)))  # type: ignore[attr-defined]
            (frames.share if call == "share" else frames.drop)(frame)
            holders[frame] += 1 if call == "share" else -1
            if not holders[frame]:
                free["data"].append(frame)
        assert {frame: frames.shares(frame) for frame in +holders} == +holders
        assert frames.data.free == free["data"]


def test_a_page_cache_keeps_thousands_of_pages_in_order(guest: Guest) -> None:
    """If wrong, a file's page is read in twice, or its frames go back in another order."""
    guest.mmap(4000, prot=5, backing=Backing.FILE)
    touched = [page * 2654435761 % 4000 for page in range(900)]
    guest.touch(guest.READ, *touched)
    (region,) = guest.os.current.regions
    assert region.cache is not None
    assert list(region.cache.frames) == [BASE + page * PAGE_SIZE for page in touched]
    assert list(region.cache.frames.values()) == [guest.entry(p) & pte.ADDRESS for p in touched]
    guest.fork(2)
    guest.switch(2)
    guest.touch(guest.FETCH, *touched)
    assert guest.causes() == {"file": len(set(touched))}
    guest.check_books()


def test_the_fault_log_has_no_end(guest: Guest) -> None:
    """If wrong, the digest lacks the faults that its buffer had no room for."""
    pages = 5000
    guest.mmap(1)
    guest.touch(guest.WRITE, 0)
    for nth in range(pages):
        guest.vcpu.cr2 = BASE + nth % 2 * 8
        guest.vcpu.page_fault(7)
    log = guest.os.handler.log
    assert log.count == pages + 1
    records = [(BASE, 6), *((BASE + nth % 2 * 8, 7) for nth in range(pages))]
    raw = b"".join(gva.to_bytes(8, "little") + pfec.to_bytes(4, "little") for gva, pfec in records)
    assert log.sha256 == sha256(raw).hexdigest()
    assert guest.os.counters["spurious"] == pages


def test_running_out_of_data_frames_leaves_books_that_are_right(
    boot: Callable[..., Guest],
) -> None:
    """If wrong, what a failed fault had taken is lost, or counted twice."""
    guest = boot(memory=4 << 20)
    start = guest.in_use()
    guest.mmap(600, prot=7, backing=Backing.INFERRED)
    with pytest.raises(GuestMemoryError, match="512 data frames"):
        guest.touch(guest.WRITE, *range(600))
    guest.check_books()
    guest.munmap(1)
    guest.touch(guest.FETCH, 550)  # the last frame goes to the page cache, and none to a copy
    with pytest.raises(GuestMemoryError):
        guest.touch(guest.WRITE, 550)
    guest.check_books()
    guest.munmap(600)
    assert guest.in_use() == start


def test_running_out_of_table_frames(boot: Callable[..., Guest]) -> None:
    """If wrong, a sparse workload ends in a traceback."""
    guest = boot()
    for nth in range(300):
        guest.os.step(Mmap(Gva(nth << 30), 1, 3, Backing.ANONYMOUS))
    with pytest.raises(GuestMemoryError, match=r"511 page-table frames.*raise guest\.memory"):
        guest.touch(guest.WRITE, *[((nth << 30) - BASE) >> 12 for nth in range(300)])
    guest.check_books()
    for nth in range(300):
        guest.os.step(Munmap(Gva(nth << 30), 1))
    guest.check_books()


def test_what_the_guest_itself_must_not_do(guest: Guest) -> None:
    """If wrong, a mistake of ours corrupts the books and shows much later."""
    frames, tables = guest.os.frames, guest.os.tables
    frame = frames.take()
    frames.drop(frame)
    for call in (frames.drop, frames.share):
        for wrong in (frame, Gpa(0), frames.data.end, frames.tables.first):
            with pytest.raises(InvariantError, match=f"{wrong:#x} was dropped or shared"):
                call(wrong)
    table = frames.take_table()
    for refused in (
        lambda: tables.free_root(table),
        lambda: tables.free_root(frames.data.first),
        lambda: tables.adopt_root(frames.data.first),
        lambda: tables.write(table, 0, 1),
    ):
        with pytest.raises(InvariantError, match="no page table whose entries are counted"):
            refused()


def test_a_parked_page_in_a_region_that_allows_access_is_a_bug(guest: Guest) -> None:
    """If wrong, a page comes back without the flush that its return needs."""
    guest.mmap(1)
    guest.touch(guest.WRITE, 0)
    tables = guest.os.tables
    ((gva, at, entry),) = tables.leaves(guest.os.current.root, BASE, BASE + PAGE_SIZE)
    tables.write(at, entry, entry & ~pte.P)
    guest.vcpu.invlpg(gva)
    with pytest.raises(InvariantError, match=f"{BASE:#x} is parked"):
        guest.touch(guest.READ, 0)


def test_a_file_without_a_page_cache_is_a_bug(guest: Guest) -> None:
    """If wrong, a page of nothing is mapped."""
    region = Region(Gva(BASE), Gva(BASE + PAGE_SIZE), 5, Backing.FILE, None)
    guest.os.current.regions.insert(region)
    with pytest.raises(InvariantError, match=f"{BASE:#x} has no file"):
        guest.touch(guest.READ, 0)


@pytest.mark.parametrize("instruction", ["load", "store", "clear_page", "copy_page", "invlpg"])
def test_an_error_in_an_instruction_comes_through(guest: Guest, instruction: str) -> None:
    """If wrong, a machine's own error is another's, or lost, and the guest goes on."""
    guest.mmap(3, prot=7, backing=Backing.INFERRED)
    guest.touch(guest.WRITE, 0)
    guest.munmap(1)
    guest.mmap(1, prot=7, backing=Backing.INFERRED)

    def fails(*_: object) -> None:
        raise KeyError(instruction)

    setattr(guest.vcpu, instruction, fails)

    def run() -> None:
        guest.touch(guest.FETCH, 0)
        guest.touch(guest.WRITE, 0)

    with pytest.raises(KeyError, match=instruction):
        run()
    delattr(guest.vcpu, instruction)
    guest.touch(guest.WRITE, 1)


@pytest.mark.parametrize("what", ["drain", "describe"])
def test_an_error_in_what_c_asks_for_comes_through(guest: Guest, what: str) -> None:
    """If wrong, an interrupt while the log is drained is lost."""
    guest.mmap(1)

    def fails() -> None:
        raise KeyboardInterrupt

    if what == "drain":
        guest.os.kernel.state.log_bytes = 49152
        guest.os.kernel.drain = fails
    else:
        guest.os.current.regions.describe = fails  # type: ignore[method-assign]
    with pytest.raises(KeyboardInterrupt):
        guest.touch(guest.WRITE, 0)


def test_a_fault_is_judged_by_the_process_that_runs(guest: Guest) -> None:
    """If wrong, a process touches what only another has mapped, or cannot touch its own."""
    guest.fork(2)
    guest.mmap(1)
    guest.touch(guest.WRITE, 0)
    guest.os.step(SwitchTo(2))
    with pytest.raises(SegfaultError) as raised:
        guest.touch(guest.READ, 0)
    assert (raised.value.pid, raised.value.gva) == (2, BASE)
    assert guest.os.current.pid == 2
    guest.os.step(SwitchTo(1))
    guest.os.step(ExitProcess(2))
    assert guest.touch(guest.READ, 0) == [1]
