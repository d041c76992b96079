"""Level 6: determinism, isolation of machines, errors, and workloads compared with native."""

from __future__ import annotations

import json
from array import array
from contextlib import suppress
from typing import TYPE_CHECKING

from hvmmu._guest.policy import GuestParams
from hvmmu._native import NativeBackend, NativeParams
from hvmmu.arch import pfec as pf
from hvmmu.costs import cost_model
from hvmmu.engine import NO_TRANSLATION, HwThread
from hvmmu.machine import Machine, MachineConfig
from hvmmu.testing import cycles
from hvmmu.testing.check import BOTH, MMU, CheckFailure, Need, check
from hvmmu.testing.differential import Setup, first_violation
from hvmmu.testing.error_text import error_text
from hvmmu.testing.guest_program import Access, Guest, LoadRoot, Operation
from hvmmu.testing.program_generator import ProgramGenerator
from hvmmu.testing.scenarios import demand_paging
from hvmmu.vcpu import Resume
from hvmmu.workloads._synthetic import ContextSwitch, DemandZero, ForkCow, Synthetic

if TYPE_CHECKING:
    from hvmmu.results import RunResult
    from hvmmu.testing.context import Context
    from hvmmu.testing.guest_program import Observation
    from hvmmu.testing.settings import Setting

_COSTS = "nehalem"
_RAM = 16 << 20
_IDS = (0, 1, 2, 7, 63, 255, 256, 1000, 4095)
_MANY = 3000
_SETTINGS = 4  # level 5 tries them all
_WORKLOADS: tuple[Synthetic, ...] = (
    DemandZero(pages=120),
    ForkCow(pages=24, rounds=2),
    ContextSwitch(processes=3, pages=12, rounds=4),
)


def _program(context: Context, nth: int) -> list[Operation]:
    return ProgramGenerator(context.random(f"robustness {nth}"), context.cpu()).program(40)


@check(
    "robustness.machines-share-nothing",
    rule="Two machines share no state.",
    reference="hvmmu.backend: Backend.create_vcpu",
    needs=(Need.HYPERVISOR,),
    of=BOTH,
)
def machines_share_nothing(context: Context) -> None:
    """Run two programs, each alone, then step by step in turns on two machines."""
    setting = context.settings()[0]
    one, other = _program(context, 1), _program(context, 2)
    alone = [_outcomes(context, setting, program) for program in (one, other)]
    with context.machine(setting) as first, context.machine(setting) as second:
        guests = Guest(first), Guest(second)
        for step in range(min(len(one), len(other))):
            for guest, program, expected in zip(guests, (one, other), alone, strict=True):
                seen = guest.do(program[step])
                if seen != expected[step]:
                    raise CheckFailure(
                        f"beside another machine, step {step}, {program[step]}:"
                        f" {expected[step].differences(seen)}"
                    )


def _outcomes(context: Context, setting: Setting, program: list[Operation]) -> list[Observation]:
    with context.machine(setting) as platform:
        guest = Guest(platform)
        return [guest.do(operation) for operation in program]


@check(
    "robustness.vcpus-share-nothing",
    rule="Every vCPU id has its own control structure, with the same controls.",
    reference="hvmmu.backend: Backend.create_vcpu",
    needs=(Need.HYPERVISOR,),
)
def vcpus_share_nothing(context: Context) -> None:
    """Create vCPUs with unusual ids on one backend; run cycles on each in turn."""
    for backend in context.instances():
        made = {}
        for vcpu_id in _IDS:
            try:
                made[vcpu_id] = cycles.Cycles(backend, context.random(str(vcpu_id)), vcpu_id)
            except Exception as error:  # noqa: BLE001 - any error
                raise CheckFailure(f"create_vcpu({vcpu_id}): {error_text(error)}") from None
        for _ in range(20):
            for vcpu_id, driven in made.items():
                for rule, values in driven.run(1):
                    raise CheckFailure(f"vCPU {vcpu_id} among others: {rule}: {values}")


@check(
    "robustness.exits-are-not-guessed",
    rule="Before the first exit decode_exit raises, and returns no exit.",
    reference="hvmmu.backend: Backend.decode_exit",
    needs=(Need.HYPERVISOR,),
)
def exits_are_not_guessed(context: Context) -> None:
    """Read an exit from a control structure that is new."""
    for backend in context.instances():
        try:
            read = backend.decode_exit(backend.create_vcpu(0), HwThread(context.cpu()))
        except Exception:  # noqa: BLE001, S112 - any error will do
            continue
        raise CheckFailure(f"before any exit, decode_exit returned {read}")


@check(
    "robustness.same-every-time",
    rule="The same workload with the same parameters gives the same result, byte for byte.",
    reference="json-schema",
    of=BOTH,
)
def same_every_time(context: Context) -> None:
    """Run a workload twice on each setting, and compare the documents."""
    for setting in context.settings()[:_SETTINGS]:
        one, other = (_written(_run(context, setting, _WORKLOADS[2])) for _ in range(2))
        if one != other:
            at = next(i for i, (a, b) in enumerate(zip(one, other, strict=False)) if a != b)
            raise CheckFailure(
                f"with {setting}: ...{one[max(0, at - 40) : at + 20]}... the first time, and"
                f" ...{other[max(0, at - 40) : at + 20]}... the second"
            )


def _written(result: RunResult) -> str:
    return json.dumps(result.to_json())


def _run(
    context: Context, setting: Setting, workload: Synthetic, *, native: bool = False
) -> RunResult:
    """Run a workload on a whole machine."""
    guest = GuestParams(memory=_RAM)
    bare = MachineConfig(NativeBackend, NativeParams(), guest=guest, engine=context.engine)
    machine = Machine(bare if native else context.config(setting, guest))
    try:
        for step in workload.steps():
            machine.step(step)
        return machine.result(cost_model(_COSTS))
    finally:
        machine.close()


@check(
    "robustness.workloads-as-on-native",
    rule="The guest of a workload takes the same faults and ends with the same page tables as on"
    " native.",
    reference="workloads",
    needs=(Need.HYPERVISOR,),
    of=BOTH,
)
def workloads_as_on_native(context: Context) -> None:
    """Run demand-zero, fork-cow and context-switch on every setting."""
    for workload in _WORKLOADS:
        right = _run(context, None, workload, native=True).guest
        for setting in context.settings()[:_SETTINGS]:
            seen = _run(context, setting, workload).guest
            wrong = [name for name in right if seen[name] != right[name]]
            if wrong:
                name = wrong[0]
                raise CheckFailure(
                    f"{workload.name}: {name} is {seen[name]}, and on native {right[name]};"
                    f" with {setting}"
                )


@check(
    "robustness.faults-are-counted-once",
    rule="Every page fault of the guest is counted once, as injected or as bypassed.",
    reference="glossary",
    needs=(Need.HYPERVISOR,),
    of=BOTH,
)
def faults_are_counted_once(context: Context) -> None:
    """Compare the guest's own count with the ledger's, for a workload with nothing but faults."""
    for setting in context.settings()[:_SETTINGS]:
        counted = _run(context, setting, DemandZero(pages=60)).counters
        if counted["guest_faults"] != 60:
            found = f"{counted['guest_faults']} faults are counted, and the guest took 60"
            raise CheckFailure(f"{found}, with {setting}")


@check(
    "robustness.extreme-addresses",
    rule="The lowest and highest addresses of each half behave as any other: CR2 holds all bits.",
    reference='SDM "Canonical Addressing"',
    needs=(Need.HYPERVISOR,),
    of=BOTH,
)
def extreme_addresses(context: Context) -> None:
    """Access both ends of both halves, mapped and not."""
    low, high = (1 << 47) - 8, ((1 << 17) - 1) << 47
    ends = (0, 0xFFF, low, low - 0x1000, high, high + 0x1000 - 8)
    program: list[Operation] = [Access(gva, kind) for gva in ends for kind in (0, pf.W, pf.U)]
    program += demand_paging()[:12]
    for setting in context.settings()[:_SETTINGS]:
        violation = first_violation(context, Setup(setting, context.cpu()), program)
        if violation is not None:
            raise CheckFailure(f"{violation}; with {setting}")


@check(
    "robustness.thousands-of-faults",
    rule="Thousands of faults in a row are all delivered, each with its address in CR2.",
    reference="how-it-works",
    of=BOTH,
)
def thousands_of_faults(context: Context) -> None:
    """Fault thousands of times in a row on one machine."""
    gva = array("Q", [(nth % 4096) << 12 | nth % 8 << 3 | 1 << 39 for nth in range(_MANY)])
    translated = array("Q", [0]) * _MANY
    for setting in context.settings()[:_SETTINGS]:
        with context.machine(setting) as platform:
            vcpu, seen = Guest(platform).vcpu, array("Q")

            def page_fault(pfec: int) -> Resume:
                del pfec
                seen.append(vcpu.cr2)  # noqa: B023 - called in this turn of the loop only
                return Resume.SKIP

            vcpu.page_fault = page_fault
            vcpu.run(gva, bytes([pf.U | pf.W]) * _MANY, translated)
        if len(seen) != _MANY or set(translated) != {NO_TRANSLATION}:
            raise CheckFailure(f"of {_MANY} faults {len(seen)} were delivered, with {setting}")
        for nth, (cr2, right) in enumerate(zip(seen, gva, strict=True)):
            if cr2 != right:
                where = f"at fault {nth} CR2 is {cr2:#x}, and should be {right:#x}"
                raise CheckFailure(f"{where}, with {setting}")


class _GuestDiedError(Exception):
    """Ends a guest in the middle of a fault."""


@check(
    "robustness.a-failed-machine-leaves-nothing",
    rule="After a machine that ended in the middle of a fault, a new one behaves as the first did.",
    reference="hvmmu.backend: Backend",
    needs=(Need.HYPERVISOR,),
    of=BOTH,
)
def a_failed_machine_leaves_nothing(context: Context) -> None:
    """End a guest by an exception in its fault handler, then run a program on a new machine."""
    setting, program = context.settings()[0], demand_paging()

    def dies(pfec: int) -> Resume:
        raise _GuestDiedError(pf.describe(pfec))

    before = _outcomes(context, setting, program)
    with context.machine(setting) as platform:
        guest = Guest(platform)
        guest.do(LoadRoot(1))
        guest.vcpu.page_fault = dies
        with suppress(_GuestDiedError):
            guest.do(Access(0, pf.U | pf.W))
    after = _outcomes(context, setting, program)
    for step, (one, other) in enumerate(zip(before, after, strict=True)):
        if one != other:
            raise CheckFailure(f"step {step}, {program[step]}: {one.differences(other)}")


@check(
    "robustness.tables-are-counted",
    rule="built and zapped count the tables that were built and given up since the machine was"
    " made: neither falls, and no table is given up that was not built.",
    reference="hvmmu.mmu: Mmu",
    of=(MMU,),
)
def tables_are_counted(context: Context) -> None:
    """Read both counts between the steps of a workload, and those of its result."""
    for setting in context.settings()[:_SETTINGS]:
        machine = Machine(context.config(setting, GuestParams(memory=_RAM)))
        before = (0, 0)
        try:
            for step in _WORKLOADS[2].steps():
                machine.step(step)
                counts = machine.vcpu.mmu.built, machine.vcpu.mmu.zapped
                falls = any(now < was for now, was in zip(counts, before, strict=True))
                if falls or counts[1] > counts[0]:
                    raise CheckFailure(f"built, zapped are {counts} after {before}; with {setting}")
                before = counts
        finally:
            machine.close()
        if not before[0]:
            raise CheckFailure(f"a workload ran, and no table was built; with {setting}")
