"""One program on two machines in lockstep: the bare one, and one under the backend.

After each operation the guest must have seen the same, the shadow tables must keep the promises
that the audit knows, and the TLB must hold nothing that the tables do not say.
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
from hvmmu.testing.entries import wrong_entry
from hvmmu.testing.program import RAM, Guest, Operation
from hvmmu.testing.stale import stale

if TYPE_CHECKING:
    from hvmmu.arch.regs import CpuFeatures
    from hvmmu.testing.context import Context


class Broken(enum.Enum):
    """Which promise a step broke."""

    SEEN = "the guest sees what it would not see on a bare machine"
    NOTRAP = "a fault is left to the guest that it must not see"
    SHADOW = "the shadow breaks a promise"
    STALE = "the TLB is stale"


@attrs.frozen
class Violation:
    """What went wrong first in a program."""

    broken: Broken
    step: int
    operation: Operation
    values: str

    def __str__(self) -> str:
        """Return it as one line."""
        return f"step {self.step}, {self.operation}: {self.broken.value}: {self.values}"


@attrs.frozen
class Setup:
    """What a program runs on, apart from the backend itself."""

    setting: Any
    cpu: CpuFeatures
    mmu: MmuParams | None = None
    """The shadow MMU's parameters, where the setting does not say them."""
    simulate: bool = True
    """Exits and entries go through the backend's two halves, not by its switch profile."""

    def __str__(self) -> str:
        """Return it as one line."""
        how = "exits simulated" if self.simulate else "exits by the switch profile"
        mmu = "" if self.mmu is None else f" {self.mmu}"
        return f"{self.setting} {self.cpu}{mmu}, {how}"


def differs(context: Context, setup: Setup, program: list[Operation]) -> Violation | None:
    """Run *program* on both machines; return what went wrong first, None if nothing did."""
    with ExitStack() as stack:
        native = NativeBackend(NativeParams(), setup.cpu, frozenset())
        bare = build(native, setup.cpu, MmuParams(), RAM, engine=context.engine)
        stack.callback(bare.memory.close)
        platform = stack.enter_context(
            context.machine(setup.setting, setup.cpu, setup.mmu, simulate=setup.simulate)
        )
        return in_step(bare, platform, program)


def in_step(bare: Platform, platform: Platform, program: list[Operation]) -> Violation | None:
    """Run *program* on two machines with no guest yet; the first is the one that is right."""
    right, guest = Guest(bare), Guest(platform)
    before: tuple[object, ...] = ()
    for step, operation in enumerate(program):
        expected, outcome = right.do(operation), guest.do(operation)
        found = None
        if outcome != expected:
            found = Broken.SEEN, expected.differences(outcome)
        # without an exit and without a change of the guest's tables there is nothing new to see
        now = outcome.tables, platform.vcpu.ledger.exits.total()
        if now != before:
            found = broken(platform) or found
        if found is not None:
            return Violation(found[0], step, operation, found[1])
        before = now
    return None


def broken(platform: Platform) -> tuple[Broken, str] | None:
    """Return which promise about the shadow and the TLB a machine breaks, None if it keeps all."""
    if platform.shadow is not None:
        try:
            audit(platform.shadow, platform.vcpu.slots)
        except InvariantError as error:
            left = left_to_the_guest(platform)
            return (Broken.NOTRAP, left) if left else (Broken.SHADOW, str(error))
    elif found := wrong_entry(platform):
        return (Broken.NOTRAP if found.is_notrap else Broken.SHADOW), found.told
    old = stale(platform)
    return (Broken.STALE, old) if old else None


def left_to_the_guest(platform: Platform) -> str:
    """Say which shadow entry is notrap though the guest's entry is present; nothing if none is."""
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
