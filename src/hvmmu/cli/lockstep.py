"""Machines in lockstep: one pass over the workload, each step done by each before the next."""

from collections.abc import Sequence
from contextlib import ExitStack

from hvmmu.cli.progress import Progress
from hvmmu.cli.session import Session
from hvmmu.costs import cost_model
from hvmmu.guest.steps import Accesses
from hvmmu.machine import Machine, MachineConfig
from hvmmu.report.document import Document, document
from hvmmu.results import RunResult
from hvmmu.workloads import Workload


def measured(session: Session, workload: Workload, runs: Sequence[MachineConfig]) -> Document:
    """Run *workload* on a machine for each of *runs*; return the result document."""
    model = cost_model(session.config.costs)
    with ExitStack() as stack:
        machines = []
        for run in runs:
            machines.append(Machine(run))
            stack.callback(machines[-1].close)
        progress = stack.enter_context(Progress(f"{workload.name}: references"))
        count = 0
        for step in workload.steps():
            for machine in machines:
                machine.step(step)
            if isinstance(step, Accesses):
                count += len(step)
            progress.at(count)
        results = [machine.result(model) for machine in machines]
    sections = session.config.sections
    return document(
        workload=workload.facts(),
        config={name: sections[name] for name in session.known.core},
        asked=session.asked(),
        runs=_distinct(results),
        model=model,
    )


def _distinct(results: Sequence[RunResult]) -> list[RunResult]:
    """Return the results without twins.

    A backend whose CPU cannot do what is compared turns it off, and both its runs are one.
    """
    kept: list[RunResult] = []
    for result in results:
        if not any((r.backend, r.params) == (result.backend, result.params) for r in kept):
            kept.append(result)
    return kept
