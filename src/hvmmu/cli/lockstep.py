"""Machines in lockstep: one pass over the workload, each step done by each before the next."""

from collections.abc import Callable, Sequence
from contextlib import ExitStack
from typing import TypeVar

import attrs
import structlog

from hvmmu.cli.progress import Progress
from hvmmu.cli.session import Session
from hvmmu.errors import PluginError
from hvmmu.guest.steps import Accesses
from hvmmu.machine import Machine, MachineConfig
from hvmmu.params import declared
from hvmmu.report.document import Document, document
from hvmmu.report.reading import names
from hvmmu.results import Failure, RunResult
from hvmmu.workloads import Workload

T = TypeVar("T")
Outcome = TypeVar("Outcome", RunResult, Failure)


def measured(session: Session, workload: Workload, runs: Sequence[MachineConfig]) -> Document:
    """Run *workload* on a machine for each of *runs*; return the result document.

    A run that a plugin's exception ends is told there, and the others go on. Raise PluginError if
    none is left.
    """
    model = session.registry.cost_models[session.config.costs]
    with ExitStack() as stack:
        group = _Group()
        stack.callback(group.close)
        group.start(runs)
        progress = stack.enter_context(Progress(f"{workload.name}: references"))
        count = 0
        for step in workload.steps():
            group.each(lambda machine: machine.step(step))  # noqa: B023 - called at once
            if not group.machines:
                break
            if isinstance(step, Accesses):
                count += len(step)
            progress.at(count)
        results = group.each(lambda machine: machine.result(model))
    failures = _distinct(group.failures)
    if not results:
        raise _all_failed(failures)
    return document(
        workload=workload.facts(),
        config=session.told(),
        asked=session.asked(),
        runs=_distinct(results),
        model=model,
        failures=failures,
    )


@attrs.define
class _Group:
    """The machines that still run, and why the others do not."""

    machines: list[Machine] = attrs.field(factory=list)
    failures: list[Failure] = attrs.field(factory=list)

    def start(self, runs: Sequence[MachineConfig]) -> None:
        for run in runs:
            try:
                self.machines.append(Machine(run))
            except PluginError as error:
                made = run.backend_params
                params = {param.name: getattr(made, param.name) for param in declared(type(made))}
                self._failed(run.backend.name, params, error)

    def each(self, act: Callable[[Machine], T]) -> list[T]:
        """Have each machine do something; one that a plugin fails is dropped and closed."""
        results, running = [], []
        for machine in self.machines:
            try:
                results.append(act(machine))
                running.append(machine)
            except PluginError as error:
                self._failed(machine.vcpu.backend.name, machine.params, error)
                machine.close()
        self.machines = running
        return results

    def _failed(
        self, backend: str, params: dict[str, bool | int | str], error: PluginError
    ) -> None:
        structlog.get_logger().debug("run_failed", backend=backend, cause=str(error))
        self.failures.append(Failure(backend, params, error.plugin, error.hook, str(error)))

    def close(self) -> None:
        for machine in self.machines:
            machine.close()


def _all_failed(failures: Sequence[Failure]) -> PluginError:
    """Return what to raise where no run is left: a line for each."""
    if len(failures) == 1:
        (only,) = failures
        return PluginError(only.error, plugin=only.plugin, hook=only.hook)
    named = zip(names([failure.to_json() for failure in failures]), failures, strict=True)
    return PluginError("\n".join(f"{name}: {failure.error}" for name, failure in named))


def _distinct(outcomes: Sequence[Outcome]) -> list[Outcome]:
    """Return the outcomes without twins.

    A backend whose CPU cannot do what is compared turns it off, and both its runs are one.
    """
    kept: list[Outcome] = []
    for one in outcomes:
        if not any((r.backend, r.params) == (one.backend, one.params) for r in kept):
            kept.append(one)
    return kept
