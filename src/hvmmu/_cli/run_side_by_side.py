"""Run machines side by side: one pass over the workload, each step run by all before the next."""

from collections.abc import Callable, Sequence
from contextlib import ExitStack
from typing import Any, TypeVar

from hvmmu._cli.progress import Counter
from hvmmu._cli.session import Session
from hvmmu._hooks import told
from hvmmu._mmus import MMUS
from hvmmu._plugins import Registry
from hvmmu._report.conclusions import names
from hvmmu._report.document import Document, document
from hvmmu.backend import Paging
from hvmmu.errors import HvmmuError, PluginError
from hvmmu.log import get_logger
from hvmmu.machine import Machine, MachineConfig
from hvmmu.params import values
from hvmmu.results import RunFailure, RunResult
from hvmmu.steps import Accesses, ReducedAccesses
from hvmmu.workloads import Workload

T = TypeVar("T")
Params = dict[str, bool | int | str]
RunOrFailure = TypeVar("RunOrFailure", RunResult, RunFailure)


def run_machines(session: Session, workload: Workload, runs: Sequence[MachineConfig]) -> Document:
    """Run *workload* on a machine for each of *runs*; return the result document.

    A run that a plugin's exception ends is one of its failures, and the others go on. Raise
    PluginError if none is left.
    """
    model = session.registry.cost_models[session.config.costs]
    with ExitStack() as stack:
        group = _MachineGroup(session.registry)
        stack.callback(group.close)
        group.start(runs)
        progress = stack.enter_context(Counter(f"{workload.name}: references"))
        count = 0
        for step in workload.steps():
            group.each(lambda machine: machine.step(step))  # noqa: B023 - called immediately
            if not group.machines:
                break
            if isinstance(step, Accesses | ReducedAccesses):
                count += len(step)
            progress.update(count)
        results = group.each(lambda machine: machine.result(model))
    failures = _distinct(group.failures)
    if not results:
        raise _all_failed(failures)
    return document(
        workload=workload.facts(),
        config=session.reported_sections(),
        overrides=session.overrides(),
        runs=_distinct(results),
        model=model,
        failures=failures,
    )


class _MachineGroup:
    """The machines that still run, and the causes of the others' failures."""

    def __init__(self, registry: Registry) -> None:
        self.registry = registry
        self.machines: list[tuple[MachineConfig, Machine]] = []
        self.failures: list[RunFailure] = []

    def start(self, runs: Sequence[MachineConfig]) -> None:
        for run in runs:
            try:
                self.machines.append((run, Machine(run)))
            except Exception as error:  # noqa: BLE001 - raised again unless a plugin failed
                self._failed(run, values(run.backend_params), error)

    def each(self, act: Callable[[Machine], T]) -> list[T]:
        """Call *act* on each machine; drop and close one in which a plugin fails."""
        results, running = [], []
        for run, machine in self.machines:
            try:
                results.append(act(machine))
                running.append((run, machine))
            except Exception as error:  # noqa: BLE001 - raised again unless a plugin failed
                self._failed(run, machine.params, error)
                machine.close()
        self.machines = running
        return results

    def _failed(self, run: MachineConfig, params: Params, error: Exception) -> None:
        """Keep the cause of a failed run; raise the error again if no plugin failed."""
        where = _places(error.__cause__ or error)
        if not isinstance(error, PluginError):
            error = self._named_after_plugin(run, error)
        get_logger().debug("run_failed", backend=run.backend.name, where=where[-1])
        self.failures.append(
            RunFailure(run.backend.name, params, error.plugin, error.hook, str(error), _mmu(run))
        )

    def _named_after_plugin(self, run: MachineConfig, error: Exception) -> PluginError:
        """Return the error of the plugin whose part of the machine the exception came through."""
        if not isinstance(error, HvmmuError):
            parts = ("backend", run.backend), ("engine", run.engine), ("MMU", run.mmu_type)
            for word, made in parts:
                plugin = self.registry.plugin(word, made.name)
                packages = {_package(place) for place in _places(error)}
                if plugin is not None and _package(made.__module__) in packages:
                    what = f"plugin {plugin.name!r}, in {word} {made.name!r}: {told(error)}"
                    return PluginError(what, plugin=plugin.name)
        raise error

    def close(self) -> None:
        for _, machine in self.machines:
            machine.close()


def _mmu(run: MachineConfig) -> str:
    """Return the name of a machine's MMU, as its result has it."""
    bare = run.backend.caps.paging is Paging.BARE
    return "" if bare or run.mmu_type in MMUS else run.mmu_type.name


def _package(module: str) -> str:
    return module.partition(".")[0]


def _places(error: BaseException) -> list[str]:
    """Return the places an exception came through, `module.function:line`, the innermost last."""
    found, trace = [], error.__traceback__
    while trace is not None:
        frame = trace.tb_frame
        module = frame.f_globals.get("__name__", "")
        found.append(f"{module}.{frame.f_code.co_name}:{trace.tb_lineno}")
        trace = trace.tb_next
    return found or [""]


def _all_failed(failures: Sequence[RunFailure]) -> PluginError:
    """Return the error to raise if no run is left: a line for each."""
    if len(failures) == 1:
        (only,) = failures
        return PluginError(only.error, plugin=only.plugin, hook=only.hook)
    named = zip(names([failure.to_json() for failure in failures]), failures, strict=True)
    return PluginError("\n".join(f"{name}: {failure.error}" for name, failure in named))


def _distinct(outcomes: Sequence[RunOrFailure]) -> list[RunOrFailure]:
    """Return the outcomes without duplicates.

    A backend turns a parameter off that its CPU does not support; both its runs are the same then.
    """
    kept: list[RunOrFailure] = []
    for one in outcomes:
        if not any(_identity(other) == _identity(one) for other in kept):
            kept.append(one)
    return kept


def _identity(one: RunResult | RunFailure) -> tuple[Any, ...]:
    return one.backend, one.mmu, one.params
