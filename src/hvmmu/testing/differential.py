"""Run one program on two machines: a bare one, and one under the backend.

After each operation the guest-visible state must be the same, the shadow tables must pass the
audit, and the TLB must agree with the shadow tables.
"""

from __future__ import annotations

import enum
from contextlib import ExitStack
from typing import TYPE_CHECKING, Any

import attrs

from hvmmu._mmu_params import MmuParams
from hvmmu._native import NativeBackend, NativeParams
from hvmmu.errors import InvariantError
from hvmmu.machine import Platform, build
from hvmmu.spec.audit import audit
from hvmmu.testing.guest_program import RAM, Guest, Operation
from hvmmu.testing.table_audit import wrong_entry
from hvmmu.testing.tlb_audit import stale_entry

if TYPE_CHECKING:
    from hvmmu.arch.regs import CpuFeatures
    from hvmmu.testing.context import Context


class BrokenRule(enum.Enum):
    """The rule that a step broke."""

    SEEN = "the guest sees a difference from a bare machine"
    NOTRAP = "a fault of the hypervisor's is left to the guest"
    SHADOW = "the shadow tables fail the audit"
    STALE = "the TLB is stale"


@attrs.frozen
class Violation:
    """The first broken rule of a program."""

    rule: BrokenRule
    step: int
    operation: Operation
    values: str

    def __str__(self) -> str:
        """Return it as one line."""
        return f"step {self.step}, {self.operation}: {self.rule.value}: {self.values}"


@attrs.frozen
class Setup:
    """The machine of a program, apart from the backend itself."""

    setting: Any
    cpu: CpuFeatures
    mmu: MmuParams | None = None
    """The shadow MMU's parameters, where the setting does not say them."""
    simulate: bool = True
    """Exits and entries go through the backend's control structure, not its switch profile."""

    def __str__(self) -> str:
        """Return it as one line."""
        how = "exits simulated" if self.simulate else "exits by the switch profile"
        mmu = "" if self.mmu is None else f" {self.mmu}"
        return f"{self.setting} {self.cpu}{mmu}, {how}"


def first_violation(context: Context, setup: Setup, program: list[Operation]) -> Violation | None:
    """Run *program* on both machines; return the first violation, None if there is none."""
    with ExitStack() as stack:
        native = NativeBackend(NativeParams(), setup.cpu, frozenset())
        bare = build(native, setup.cpu, MmuParams(), RAM, engine=context.engine)
        stack.callback(bare.memory.close)
        platform = stack.enter_context(
            context.machine(setup.setting, setup.cpu, setup.mmu, simulate=setup.simulate)
        )
        return compare_machines(bare, platform, program)


def compare_machines(
    bare: Platform, platform: Platform, program: list[Operation]
) -> Violation | None:
    """Run *program* on two machines without a guest yet; the bare one gives the right results."""
    right, guest = Guest(bare), Guest(platform)
    before: tuple[object, ...] = ()
    for step, operation in enumerate(program):
        expected, outcome = right.do(operation), guest.do(operation)
        found = None
        if outcome != expected:
            found = BrokenRule.SEEN, expected.differences(outcome)
        # only an exit or a change of the guest's tables can break the rules about the shadow
        now = outcome.tables, platform.vcpu.ledger.exits.total()
        if now != before:
            found = broken_rule(platform) or found
        if found is not None:
            return Violation(found[0], step, operation, found[1])
        before = now
    return None


def broken_rule(platform: Platform) -> tuple[BrokenRule, str] | None:
    """Return the rule about shadow tables or TLB that a machine breaks, with values, or None."""
    if platform.shadow is not None:
        try:
            audit(platform.shadow, platform.vcpu.slots)
        except InvariantError as error:
            wrong = wrong_notrap(platform)
            return (BrokenRule.NOTRAP, wrong) if wrong else (BrokenRule.SHADOW, str(error))
    elif found := wrong_entry(platform):
        return (BrokenRule.NOTRAP if found.is_notrap else BrokenRule.SHADOW), found.text
    old = stale_entry(platform)
    return (BrokenRule.STALE, old) if old else None


def wrong_notrap(platform: Platform) -> str:
    """Return a shadow entry that is notrap although the guest's is present; empty if none is."""
    if platform.shadow is None or not platform.shadow.pages.nonpresent.distinguishable:
        return ""
    pages = platform.shadow.pages
    notrap = pages.nonpresent.notrap
    for page in pages:
        if page.role.direct:
            continue
        gptes = platform.vcpu.slots.table(page.gfn)
        for at, (spte, gpte) in enumerate(zip(pages.entries(page), gptes, strict=True)):
            if spte == notrap and gpte & 1:
                where = f"entry {at} of the guest's table at gfn {page.gfn:#x}"
                return f"{where} is {gpte:#x}, present, and its shadow entry is notrap, {spte:#x}"
    return ""
