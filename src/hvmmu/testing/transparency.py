"""Level 5: the guest cannot distinguish the machine under the backend from a bare one."""

from __future__ import annotations

from typing import TYPE_CHECKING

from hvmmu._mmu_params import MmuParams
from hvmmu.errors import BackendUnavailableError
from hvmmu.testing.check import BOTH, CheckFailure, Need, check
from hvmmu.testing.differential import Setup, first_violation
from hvmmu.testing.program_generator import ProgramGenerator, shortest
from hvmmu.testing.settings import drawn

if TYPE_CHECKING:
    import random

    from hvmmu.testing.context import Context
    from hvmmu.testing.guest_program import Operation


def _setups(context: Context, draw: random.Random) -> list[Setup]:
    """Return the programs' machines: each setting of the backend in turn, the rest drawn."""
    choose, chosen = draw.choice, context.settings()
    made = []
    for nth in range(context.examples):
        cpu = context.cpu(choose((46, 40, 51, 52)), mbz_bit8=choose((False, True)))
        mmu = drawn(MmuParams, draw) if context.mmu is None else None
        simulate = choose((False, True))
        made.append(Setup(chosen[nth % len(chosen)], cpu, mmu, simulate))
    return made


def _run(context: Context, setup: Setup, program: list[Operation]) -> None:
    """Run one program; fail with the shortest that fails as well."""
    if first_violation(context, setup, program) is None:
        return
    short = shortest(program, lambda less: first_violation(context, setup, less) is not None)
    violation = first_violation(context, setup, short) or first_violation(context, setup, program)
    steps = "\n".join(f"  {step}: {operation}" for step, operation in enumerate(short))
    raise CheckFailure(f"{violation}\non {setup}\nthe shortest program that shows it:\n{steps}")


@check(
    "transparency.random-programs",
    rule="Every operation has the same guest-visible effects as on a bare machine: the address that"
    " an access reaches, CR2 and error code of each fault, the tables with their A and D bits.",
    reference="how-it-works: The guest cannot tell",
    needs=(Need.HYPERVISOR,),
    of=BOTH,
)
def random_programs(context: Context) -> None:
    """Run random programs on the bare machine and under every setting of the parameters."""
    draw = context.random("machines")
    for nth, setup in enumerate(_setups(context, draw)):
        program = ProgramGenerator(context.random(f"program {nth}"), setup.cpu).program()
        try:
            _run(context, setup, program)
        except BackendUnavailableError:
            continue  # this CPU model does not support this setting; level 1 checks the error
