"""The virtual TLB: when entries are filled and dropped, and its effect on whole workloads."""

import json
import subprocess
import sys
from collections.abc import Callable, Iterator
from typing import Any

import attrs
import pytest

from hvmmu.arch import pfec as pf
from hvmmu.arch import pte
from hvmmu.arch.regs import CR0_PE, CR0_PG, CR0_WP, CR4_PAE, EFER_LMA, EFER_LME, CpuFeatures, Regs
from hvmmu.errors import BackendUnavailableError, GuestMemoryError, InvariantError
from hvmmu.fault import Cause, PageFault, Route
from hvmmu.flush import Flush
from hvmmu.memory import FramePool, Memory, Memslot, Memslots
from hvmmu.mmu import MmuHost
from hvmmu.spec.engine import ReferenceEngine
from hvmmu.spte import Nonpresent
from hvmmu.tlb import Scope
from hvmmu_vtlb.mmu import VtlbMmu, VtlbParams

BASE, RAM = 4 << 20, (4 << 20) + 0x3000
"""Guest memory, which ends in the middle of a 2 MiB page."""
FRAMES = 64
ROOT, PDPT, PD, PT = 0x1000, 0x2000, 0x3000, 0x4000
LINK = pte.P | pte.W | pte.U
RW = LINK | pte.A | pte.D
TRAP = 0xFFFF_FFFF_FFFF_F001
READ, WRITE = pf.U, pf.U | pf.W
LARGE, HUGE = 1 << 21, 1 << 30


class Bench:
    """A guest's tables, and a virtual TLB over them."""

    def __init__(
        self, tables: int = 1024, frames: int = FRAMES, *, two_roots: bool = False
    ) -> None:
        self.memory = Memory(BASE + RAM)
        self.slots = Memslots(self.memory, (Memslot(0, RAM, BASE),))
        host = MmuHost(
            slots=self.slots,
            frames=FramePool(self.memory, 1, frames),
            engine=ReferenceEngine(self.memory, CpuFeatures()),
            cpu=CpuFeatures(),
            nonpresent=Nonpresent(TRAP, 0),
            deprivileged=two_roots,
            settings={"vtlb": VtlbParams(tables=tables)},
        )
        self.mmu = VtlbMmu(host)
        for table, entry in ((ROOT, PDPT), (PDPT, PD), (PD, PT)):
            self.store(table, entry | LINK)
        self.regs = Regs(CR0_PE | CR0_WP | CR0_PG, ROOT, CR4_PAE, EFER_LME | EFER_LMA)

    def store(self, gpa: int, entry: int) -> None:
        """Write an entry of the guest's."""
        self.slots.store(gpa, entry)

    def load(self, **changed: int) -> Scope | None:
        """Load the guest's registers, some of them changed; return the scope of the flush."""
        self.regs = attrs.evolve(self.regs, **changed)
        self.hardware, flush = self.mmu.load_guest(self.regs)
        return scope_of(flush)

    def fault(self, gva: int, kind: int = READ) -> tuple[Route, Cause, Scope | None]:
        """Have a fault handled."""
        outcome, flush = self.mmu.handle(PageFault(gva, kind))
        return outcome.route, outcome.cause, scope_of(flush)

    def entry(self, gva: int, root: int | None = None) -> tuple[int, int]:
        """Return level and value of the entry that hardware ends at."""
        table = self.hardware.cr3 if root is None else root
        for level in (4, 3, 2, 1):
            entry = self.memory.load(table + 8 * (gva >> 12 + 9 * (level - 1) & 511))
            if level == 1 or entry & pte.PS or entry in (TRAP, 0):
                return level, entry
            table = entry & pte.ADDRESS
        raise AssertionError


def scope_of(flush: Flush) -> Scope | None:
    """Return a flush's scope; the flush counts as done."""
    flush.forgo("the TLB of hardware is not looked at")
    return flush.scope


@pytest.fixture
def bench() -> Iterator[Callable[..., Bench]]:
    """Return a function that makes a bench with paging on."""
    made: list[Bench] = []

    def make(**given: Any) -> Bench:  # noqa: ANN401 - as the class takes it
        made.append(Bench(**given))
        made[-1].load()
        return made[-1]

    yield make
    for one in made:
        one.memory.close()


def test_an_entry_is_filled_on_demand(bench: Callable[..., Bench]) -> None:
    """If wrong, a page is mapped before its guest has used it, or with more than it allows."""
    vtlb = bench()
    vtlb.store(PT, 0x8000 | pte.P | pte.U)
    assert vtlb.entry(0)[1] == TRAP
    assert vtlb.fault(0) == (Route.INSTALL, Cause.UNBUILT, None)
    level, entry = vtlb.entry(0)
    assert (level, entry & pte.ADDRESS) == (1, BASE + 0x8000)
    assert not entry & pte.W
    assert vtlb.slots.load(PT) & pte.A


def test_a_first_write_sets_d(bench: Callable[..., Bench]) -> None:
    """If wrong, the guest's D stays clear while it writes, or is set by a read."""
    vtlb = bench()
    vtlb.store(PT, 0x8000 | LINK)
    vtlb.fault(0)
    assert not vtlb.slots.load(PT) & pte.D
    assert vtlb.fault(0, WRITE) == (Route.ACCESSED_DIRTY, Cause.DIRTY, Scope.PAGE)
    assert vtlb.slots.load(PT) & pte.D
    assert vtlb.entry(0)[1] & pte.W


def test_the_guests_own_fault_is_injected(bench: Callable[..., Bench]) -> None:
    """If wrong, a fault of the guest's is resolved, or leaves something filled."""
    vtlb = bench()
    assert vtlb.fault(0)[:2] == (Route.INJECT, Cause.NOT_PRESENT)
    vtlb.store(PT, 0x8000 | pte.P | pte.U)
    assert vtlb.fault(0, WRITE)[:2] == (Route.INJECT, Cause.READ_ONLY)
    assert vtlb.entry(0)[1] == TRAP


def test_memory_that_is_not_there(bench: Callable[..., Bench]) -> None:
    """If wrong, an access beyond the guest's memory reaches the host's."""
    vtlb = bench()
    vtlb.store(PT, RAM | RW)
    assert vtlb.fault(0)[:2] == (Route.MMIO, Cause.NO_MEMORY)


def test_invlpg_drops_one_entry(bench: Callable[..., Bench]) -> None:
    """If wrong, INVLPG drops other pages, or leaves its own."""
    vtlb = bench()
    for index in (0, 1):
        vtlb.store(PT + 8 * index, 0x8000 + (index << 12) | RW)
        vtlb.fault(index << 12)
    assert scope_of(vtlb.mmu.invlpg(0x123)) is Scope.PAGE
    assert vtlb.entry(0)[1] == TRAP
    assert vtlb.entry(0x1000)[1] != TRAP
    assert scope_of(vtlb.mmu.invlpg(5 << 39)) is Scope.PAGE


@pytest.mark.parametrize(
    ("gva", "level"),
    [
        pytest.param(0x5000, 2, id="whole in memory"),
        pytest.param(2 * LARGE + 0x1000, 1, id="across its end"),
    ],
)
def test_a_large_page_is_dropped_whole(bench: Callable[..., Bench], gva: int, level: int) -> None:
    """If wrong, pieces of a page outlive its INVLPG, which the guest makes once for all of them."""
    vtlb = bench()
    vtlb.store(PD + 8 * (gva >> 21), gva & -LARGE | RW | pte.PS)
    beside = gva ^ 0x3000
    vtlb.fault(gva, WRITE)
    vtlb.fault(beside, WRITE)
    assert vtlb.entry(gva)[0] == vtlb.entry(beside)[0] == level
    assert scope_of(vtlb.mmu.invlpg(beside)) is Scope.ALL
    assert vtlb.entry(gva)[1] == TRAP


def test_a_huge_page_in_pieces(bench: Callable[..., Bench]) -> None:
    """If wrong, a page of 1 GiB maps more than the guest has, or one INVLPG leaves a part of it."""
    vtlb = bench()
    vtlb.store(PDPT, RW | pte.PS)
    vtlb.fault(0, WRITE)
    vtlb.fault(2 * LARGE, WRITE)
    assert [vtlb.entry(gva)[0] for gva in (0, 2 * LARGE)] == [2, 1]
    scope_of(vtlb.mmu.invlpg(LARGE))
    assert [vtlb.entry(gva)[1] for gva in (0, 2 * LARGE)] == [TRAP, TRAP]


def test_a_page_that_changes_its_size(bench: Callable[..., Bench]) -> None:
    """If wrong, hardware follows a link to a page, or takes a table for one."""
    vtlb = bench()
    vtlb.store(PT, 0x8000 | RW)
    vtlb.fault(0)
    vtlb.store(PD, LARGE | RW | pte.PS)
    assert vtlb.fault(0)[2] is Scope.ALL
    assert vtlb.entry(0) == (2, BASE + LARGE | RW | pte.PS)
    vtlb.store(PD, PT | LINK)
    assert vtlb.fault(0)[2] is Scope.ALL
    assert vtlb.entry(0)[0] == 1


@pytest.mark.parametrize(
    "changed", [{"cr3": ROOT}, {"cr0": CR0_PE | CR0_PG}, {"efer": EFER_LME | EFER_LMA | 1 << 11}]
)
def test_registers_that_empty_it(bench: Callable[..., Bench], changed: dict[str, int]) -> None:
    """If wrong, an entry stays for which the registers no longer speak."""
    vtlb = bench()
    vtlb.store(PT, 0x8000 | RW)
    vtlb.fault(0)
    before = vtlb.mmu.zapped
    assert vtlb.load(**changed) is Scope.ALL
    assert vtlb.entry(0)[1] == TRAP
    assert vtlb.mmu.zapped == before + 4


@pytest.mark.parametrize("changed", [{"pkru": 5}, {"rflags_ac": 1}])
def test_registers_that_change_unseen(bench: Callable[..., Bench], changed: dict[str, int]) -> None:
    """If wrong, it reacts to an instruction that makes no exit."""
    vtlb = bench()
    vtlb.store(PT, 0x8000 | RW)
    vtlb.fault(0)
    assert vtlb.load(**changed) is None
    assert vtlb.entry(0)[1] != TRAP
    assert all(getattr(vtlb.hardware, name) == value for name, value in changed.items())


def test_it_keeps_to_its_limit(bench: Callable[..., Bench]) -> None:
    """If wrong, tables fill the host's memory, or room is made without a flush."""
    vtlb = bench(tables=8)
    for index in range(6):
        vtlb.store(PDPT + 8 * index, PD | LINK)
    vtlb.store(PT, 0x8000 | RW)
    scopes = [vtlb.fault(index * HUGE)[2] for index in range(6)]
    assert scopes[:2] == [None, None]
    assert Scope.ALL in scopes
    assert vtlb.mmu.built - vtlb.mmu.zapped <= 8


def test_no_frame_is_left(bench: Callable[..., Bench]) -> None:
    """If wrong, running out of host frames ends in an exception that tells nothing."""
    vtlb = bench(frames=3)
    vtlb.store(PT, 0x8000 | RW)
    with pytest.raises(GuestMemoryError, match="no host frame is left"):
        vtlb.fault(0)


def test_two_roots(bench: Callable[..., Bench]) -> None:
    """If wrong, a deprivileged guest's user mode reaches what its kernel does."""
    vtlb = bench(two_roots=True)
    vtlb.store(PT, 0x8000 | pte.P | pte.A | pte.D)
    vtlb.load(cr0=CR0_PE | CR0_PG)
    assert vtlb.mmu.user_root not in (None, vtlb.hardware.cr3)
    assert vtlb.fault(0, pf.W)[0] is Route.INSTALL
    assert vtlb.entry(0)[1] & (pte.U | pte.W) == pte.U | pte.W
    assert vtlb.entry(0, vtlb.mmu.user_root)[1] == TRAP
    assert vtlb.fault(0, READ)[:2] == (Route.INJECT, Cause.SUPERVISOR_PAGE)
    scope_of(vtlb.mmu.invlpg(0))
    assert vtlb.entry(0)[1] == TRAP


def test_a_write_that_only_wp_0_allows(bench: Callable[..., Bench]) -> None:
    """If wrong, the user may write what only the kernel may, while CR0.WP is clear."""
    vtlb = bench()
    vtlb.store(PT, 0x8000 | pte.P | pte.U)
    vtlb.load(cr0=CR0_PE | CR0_PG)
    assert vtlb.fault(0, pf.W)[:2] == (Route.EMULATE, Cause.WRITE_PROTECT_OFF)
    assert vtlb.entry(0)[1] == TRAP
    vtlb.mmu.emulate_store(0x8000, 7, 8).forgo("nothing was mapped")
    assert vtlb.slots.load(0x8000) == 7


def test_paging_off_and_other_modes(bench: Callable[..., Bench]) -> None:
    """If wrong, a guest is walked by the rules of another mode, or before it has tables."""
    vtlb = bench()
    assert vtlb.load(cr0=CR0_PE) is None
    assert vtlb.hardware == vtlb.regs
    with pytest.raises(InvariantError, match="before the guest turned paging on"):
        vtlb.fault(0)
    with pytest.raises(BackendUnavailableError, match="other than long4"):
        vtlb.load(cr0=CR0_PE | CR0_PG, efer=0)


def test_a_fault_at_no_address(bench: Callable[..., Bench]) -> None:
    """If wrong, an exit that cannot be goes unnoticed."""
    with pytest.raises(InvariantError, match="not canonical"):
        bench().fault(1 << 60)


@pytest.mark.parametrize("workload", ["fork-cow:pages=24", "context-switch:pages=12", "file"])
def test_the_guest_cannot_tell(workload: str) -> None:
    """If wrong, a guest on some installed backend sees other faults or tables than natively."""
    chosen = ["--limit", "60000"] if workload == "file" else [workload]
    command = [sys.executable, "-m", "hvmmu", "compare", "--json", "--mmu", "vtlb", *chosen]
    ended = subprocess.run(command, capture_output=True, text=True, timeout=240, check=True)
    native, *others = json.loads(ended.stdout)["runs"]
    assert native["backend"] == "native"
    assert "mmu" not in native
    for run in others:
        assert run["mmu"] == "vtlb"
        assert run["guest"] == native["guest"]
        assert run["counters"]["pt_writes_emulated"] == 0
