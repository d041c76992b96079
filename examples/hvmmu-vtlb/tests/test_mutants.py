"""Virtual TLBs with one mistake each: the conformance suite finds every one, and names the rule."""

import attrs
import pytest

import hvmmu_vtlb
from hvmmu.arch import pte
from hvmmu.arch.regs import Regs
from hvmmu.fault import FaultOutcome, PageFault, Route
from hvmmu.flush import Flush
from hvmmu.mmu import Mmu
from hvmmu.spec.walk import Walk
from hvmmu.testing import check_mmu
from hvmmu.tlb import Scope
from hvmmu_vtlb.mmu import FRACTURED, VtlbMmu


class ForgetsInvlpg(VtlbMmu):
    """Flushes hardware's TLB, and keeps its own entry."""

    def invlpg(self, gva: int) -> Flush:
        """Drop nothing here."""
        return Flush(Scope.PAGE, gva)


class DropsOnePiece(VtlbMmu):
    """Drops one entry of a page of the guest that it maps in pieces."""

    def _put(self, at: int, entry: int, level: object, gva: int) -> Flush:
        return super()._put(at, entry & ~FRACTURED, level, gva)  # type: ignore[arg-type]


class KeepsItsEntries(VtlbMmu):
    """Keeps all entries when CR3 alone changes."""

    def load_guest(self, regs: Regs) -> tuple[Regs, Flush]:
        """Do nothing for a load of CR3."""
        if not self._tables or attrs.evolve(self._regs, cr3=regs.cr3) != regs:
            return super().load_guest(regs)
        self._regs = regs
        return self._hardware, Flush.nothing()


class LetsWritesThrough(VtlbMmu):
    """Makes an entry writable at the first read, with the guest's D clear."""

    def _fill(self, gva: int, kind: int, found: Walk, hpa: int) -> tuple[bool, Flush]:
        return super()._fill(gva, kind, attrs.evolve(found, dirty=True), hpa)


class LeavesNotrap(VtlbMmu):
    """Leaves faults to the guest where it has filled nothing."""

    def _new_table(self) -> int:
        self._tables.append(self._frames.take(self._nonpresent.notrap))
        self.built += 1
        return self._tables[-1]


class InjectsHardwaresCode(VtlbMmu):
    """Injects the error code of the exit, not of the guest's walk."""

    def handle(self, fault: PageFault) -> tuple[FaultOutcome, Flush]:
        """Return hardware's error code."""
        outcome, flush = super().handle(fault)
        if outcome.route is Route.INJECT:
            outcome = attrs.evolve(outcome, pfec=fault.pfec)
        return outcome, flush


class MarksTooMuch(VtlbMmu):
    """Sets D in the guest's leaf for every access that it allows."""

    def _fill(self, gva: int, kind: int, found: Walk, hpa: int) -> tuple[bool, Flush]:
        leaf = found.path[-1]
        self._slots.store(leaf.pa, self._slots.load(leaf.pa) | pte.D)
        return super()._fill(gva, kind, found, hpa)


class ForgoesFlushes(VtlbMmu):
    """Leaves in hardware's TLB what INVLPG has dropped here."""

    def invlpg(self, gva: int) -> Flush:
        """Drop it here alone."""
        super().invlpg(gva).forgo("it will be all right")
        return Flush.nothing()


class DropsFlushes(VtlbMmu):
    """Returns another flush than it was given."""

    def _put(self, at: int, entry: int, level: object, gva: int) -> Flush:
        super()._put(at, entry, level, gva)  # type: ignore[arg-type]
        return Flush.nothing()


class SharesItsRoots(VtlbMmu):
    """Maps the user's pages from the root of the kernel too."""

    @property
    def user_root(self) -> int | None:
        """Return the kernel's."""
        return self._tables[0] if self._two_roots and self._tables else None


MISTAKES = {
    ForgetsInvlpg: ("shadow.invlpg-takes-effect", 3),
    DropsOnePiece: ("shadow.invlpg-takes-effect", 3),
    KeepsItsEntries: ("shadow.cr3-loads-switch", 3),
    LetsWritesThrough: ("shadow.allows-no-more", 3),
    LeavesNotrap: ("architecture.access-rights", 2),
    InjectsHardwaresCode: ("architecture.error-codes", 2),
    MarksTooMuch: ("architecture.dirty-bits", 2),
    ForgoesFlushes: ("shadow.flushes-are-performed", 3),
    DropsFlushes: ("shadow.flushes-are-not-dropped", 3),
    SharesItsRoots: ("architecture.access-rights", 2),
}


@pytest.mark.parametrize("mistaken", MISTAKES, ids=lambda mistaken: mistaken.__name__)
def test_mistakes(mistaken: type[Mmu]) -> None:
    """A virtual TLB with this mistake is called right, or its rule is not named."""
    rule, level = MISTAKES[mistaken]
    report = check_mmu(mistaken, level=level, plugin=hvmmu_vtlb)
    assert rule in [failure.id for failure in report.failures], str(report)
