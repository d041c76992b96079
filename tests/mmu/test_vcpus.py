"""Two vCPUs of one virtual machine: shadow pages are shared, roots and flushes are each one's."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

from hvmmu._core.shadow_mmu import ShadowMmu
from hvmmu.arch import pfec as pf
from hvmmu.arch import pte
from hvmmu.errors import GuestMemoryError
from hvmmu.fault import PageFault, Route
from hvmmu.tlb import Scope

if TYPE_CHECKING:
    from collections.abc import Callable

    from conftest import Bench

VA = 0x7F00_0000_1000
FRAME, OTHER = 0x10_0000, 0x10_1000
RW = pte.P | pte.W | pte.U | pte.A | pte.D
ELSEWHERE = 0x8_0000


class Vcpu:
    """One more vCPU of a bench's virtual machine."""

    def __init__(self, bench: Bench, cr3: int) -> None:
        self.bench = bench
        self.mmu = ShadowMmu(bench.mmu.vm, bench.core.cpu)
        self.load(cr3)

    def load(self, cr3: int) -> None:
        """Load the bench's registers, but for CR3."""
        regs = self.bench.mmu.guest_regs
        self.regs, flush = self.mmu.load_guest(type(regs)(regs.cr0, cr3, regs.cr4, regs.efer))
        flush.forgo("the TLB of this vCPU is not looked at")

    def reload(self) -> Scope | None:
        """Make new roots where they were zapped; return the scope of the flush that is owed."""
        self.regs, flush = self.mmu.reload()
        flush.forgo("the TLB of this vCPU is not looked at")
        return flush.scope

    def fault(self, kind: int, va: int = VA) -> tuple[Route, Scope | None]:
        """Have a fault handled; return its route, and the scope of the flush that is owed."""
        handled, flush = self.mmu.handle(PageFault(va, kind))
        flush.forgo("the TLB of this vCPU is not looked at")
        return handled.route, flush.scope


@pytest.fixture
def vcpu(bench: Bench) -> Vcpu:
    """Return a second vCPU, which runs in the same address space as the bench's own."""
    bench.map(VA, FRAME | RW)
    bench.map(VA, OTHER | RW, root=ELSEWHERE)
    bench.load()
    return Vcpu(bench, bench.ROOT)


def test_the_same_cr3_is_the_same_root(bench: Bench, vcpu: Vcpu) -> None:
    """If wrong, each vCPU shadows the guest's tables again."""
    assert vcpu.mmu.root is bench.mmu.root
    assert vcpu.regs == bench.core.regs
    bench.access(VA, bench.WRITE)
    built = len(bench.pages)
    assert vcpu.fault(pf.U | pf.W) == (Route.SPURIOUS, None)
    assert len(bench.pages) == built


def test_registers_are_each_ones_own(bench: Bench, vcpu: Vcpu) -> None:
    """If wrong, a vCPU faults by the tables that another has loaded."""
    vcpu.load(ELSEWHERE)
    assert vcpu.mmu.root is not bench.mmu.root
    assert vcpu.fault(pf.U)[0] is Route.INSTALL
    assert bench.access(VA, bench.READ).gpa == FRAME
    handled, flush = vcpu.mmu.handle(PageFault(VA, pf.U))
    flush.forgo("the TLB of this vCPU is not looked at")
    assert (handled.route, handled.gpa) == (Route.SPURIOUS, OTHER)
    assert bench.mmu.guest_regs.cr3 == bench.ROOT


def test_a_root_that_another_vcpu_zapped(bench: Bench, vcpu: Vcpu) -> None:
    """If wrong, a vCPU goes on in a frame that is another shadow page's by now."""
    old = vcpu.mmu.root
    for nth in range(3):  # a flood: the root goes
        bench.store(bench.ROOT + 8 * nth, 0)
    assert bench.pages.zapped == 1
    assert bench.mmu.root is not old
    assert vcpu.reload() is Scope.ALL
    assert vcpu.mmu.root is bench.mmu.root
    assert vcpu.regs == bench.core.regs
    assert vcpu.reload() is None


def test_each_vcpu_owes_its_flush(bench: Bench, vcpu: Vcpu) -> None:
    """If wrong, a vCPU keeps a translation that another has taken away."""
    bench.access(VA, bench.WRITE)
    assert vcpu.reload() is None  # what was built took nothing away
    del bench.flushes[:]
    bench.rewrite(VA, OTHER | RW)
    assert bench.flushes[0] is Scope.ALL
    assert vcpu.reload() is Scope.ALL
    assert vcpu.reload() is None
    vcpu.mmu.emulate_store(bench.slot(VA), FRAME | RW, 8).forgo("not looked at")
    _, flush = bench.mmu.reload()
    assert flush.scope is Scope.ALL
    bench.perform(flush)


def test_a_fault_pays_for_others_too(bench: Bench, vcpu: Vcpu) -> None:
    """If wrong, a flush that a vCPU owes is lost when it faults first."""
    bench.access(VA, bench.WRITE)
    bench.rewrite(VA, OTHER | RW)
    assert vcpu.fault(pf.U) == (Route.SPURIOUS, Scope.ALL)
    assert vcpu.fault(pf.U) == (Route.SPURIOUS, None)


def test_no_vcpus_root_makes_room(build: Callable[..., Bench]) -> None:
    """If wrong, a vCPU that stands still loses its root each time that another needs a page."""
    bench = build(shadow_pages=8)
    vas = [VA - (nth << 39) for nth in range(12)]
    for va in vas:
        bench.map(va, FRAME | RW)
    bench.load()
    still = Vcpu(bench, ELSEWHERE)
    root = still.mmu.root
    for va in vas:
        assert bench.access(va, bench.READ).gpa == FRAME
    assert bench.pages.zapped
    assert still.mmu.root is root
    assert root in bench.pages


def test_more_roots_than_pages(build: Callable[..., Bench]) -> None:
    """If wrong, the process ends, or hangs, when all shadow pages are roots."""
    bench = build(shadow_pages=8)
    bench.map(VA, FRAME | RW)
    bench.load()
    vcpus = [Vcpu(bench, ELSEWHERE + (nth << 12)) for nth in range(7)]
    with pytest.raises(GuestMemoryError, match=r"in use as roots; raise mmu\.shadow_pages"):
        Vcpu(bench, ELSEWHERE - 0x1000)
    with pytest.raises(GuestMemoryError, match="in use as roots"):
        bench.access(VA, bench.READ)
    bench.audit()
    for vcpu in vcpus[1:]:
        vcpu.load(ELSEWHERE)  # which leaves room again
    assert bench.access(VA, bench.READ).gpa == FRAME
