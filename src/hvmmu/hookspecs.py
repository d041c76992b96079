"""The hooks in the order of a run, each with its purpose, its cost and an example."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import pluggy

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping

    import click

    from hvmmu.backend import Backend, VmExit
    from hvmmu.costs import CostModel
    from hvmmu.engine import Engine
    from hvmmu.fault import FaultOutcome, PageFault
    from hvmmu.flush import Flush
    from hvmmu.memory import Memslots
    from hvmmu.mmu import Mmu
    from hvmmu.results import RunResult
    from hvmmu.vcpu import Vcpu
    from hvmmu.workloads import TraceFormat, WorkloadKind

PROJECT = "hvmmu"

hookspec = pluggy.HookspecMarker(PROJECT)
hookimpl = pluggy.HookimplMarker(PROJECT)
"""Marks a plugin's implementation of a hook below."""


@hookspec
def hvmmu_backends() -> Iterable[type[Backend[Any]]]:  # type: ignore[empty-body]
    """Return the backend classes that this plugin adds.

    Cost: once, when plugins are loaded.

    Example::

        @hookimpl
        def hvmmu_backends():
            return (MyBackend,)
    """


@hookspec
def hvmmu_engines() -> Iterable[type[Engine]]:  # type: ignore[empty-body]
    """Return the engine classes that this plugin adds: models of an MMU.

    An engine that cannot work on this host raises EngineUnavailableError from `__init__`.

    Cost: once, when plugins are loaded.

    Example::

        @hookimpl
        def hvmmu_engines():
            return (MyEngine,)
    """


@hookspec
def hvmmu_mmus() -> Iterable[type[Mmu]]:  # type: ignore[empty-body]
    """Return the MMU classes that this plugin adds: `mmu.type` selects one by its name.

    Cost: once, when plugins are loaded. A run with an MMU in Python calls it for every page fault
    that exits.

    Example::

        @hookimpl
        def hvmmu_mmus():
            return (MyMmu,)
    """


@hookspec
def hvmmu_workloads() -> Iterable[WorkloadKind]:  # type: ignore[empty-body]
    """Return the named workloads that this plugin adds; options follow a name after a colon.

    Cost: once, when plugins are loaded.

    Example::

        @hookimpl
        def hvmmu_workloads():
            return (MyWorkload(),)
    """


@hookspec
def hvmmu_trace_formats() -> Iterable[TraceFormat]:  # type: ignore[empty-body]
    """Return the formats of trace files that this plugin reads.

    Cost: once, when plugins are loaded; `recognises` is called once for every file that is opened.

    Example::

        @hookimpl
        def hvmmu_trace_formats():
            return (MyFormat(),)
    """


@hookspec
def hvmmu_cost_models() -> Iterable[CostModel]:  # type: ignore[empty-body]
    """Return the cost models that this plugin adds, every cost with its source.

    Cost: once, when plugins are loaded.

    Example::

        @hookimpl
        def hvmmu_cost_models():
            exits = Cost("exits", 1500, "measured on my desk")
            return (CostModel("mine", "My machine", (exits,)),)
    """


@hookspec
def hvmmu_commands() -> Iterable[click.Command]:  # type: ignore[empty-body]
    """Return the commands that this plugin adds to `hvmmu`.

    Cost: once, when plugins are loaded: for an unknown command, and for the list of commands.

    Example::

        @hookimpl
        def hvmmu_commands():
            return (my_command,)
    """


@hookspec
def hvmmu_parameters() -> Mapping[str, type]:  # type: ignore[empty-body]
    """Return this plugin's own sections of the configuration: attrs classes by section.

    Their fields are declared with `hvmmu.params.param`, like a backend's parameters.

    Cost: once, when plugins are loaded.

    Example::

        @hookimpl
        def hvmmu_parameters():
            return {"mine": MyParams}
    """


@hookspec
def hvmmu_vm_created(vcpu: Vcpu, settings: Mapping[str, Any]) -> None:
    """Inspect a machine that is complete and has not run yet.

    *settings* are the sections of the configuration, `mmu`, `cpu`, `guest` and the plugins' own.

    Cost: once a run.

    Example::

        @hookimpl
        def hvmmu_vm_created(vcpu, settings):
            self.limits[vcpu] = settings["mine"].limit
    """


@hookspec
def hvmmu_memslot_changed(vcpu: Vcpu, slots: Memslots) -> None:
    """Receive the new memslots: the host addresses of guest-physical memory.

    Cost: once for every change of a memslot; so far once a run, when RAM is added.

    Example::

        @hookimpl
        def hvmmu_memslot_changed(vcpu, slots):
            sizes = [slot.size for slot in slots.slots]
    """


@hookspec(firstresult=True)
def hvmmu_handle_exit(vcpu: Vcpu, what: VmExit) -> VmExit | None:
    """Inspect an exit before the core handles it; return another exit to handle in its place.

    It must be of the same type. The first plugin that does not return None decides.

    Cost: once an exit, page faults included.

    Example::

        @hookimpl
        def hvmmu_handle_exit(vcpu, what):
            if isinstance(what, Invlpg):
                return Invlpg(what.gva & ~0xFFF)
    """


@hookspec(firstresult=True)
def hvmmu_handle_fault(vcpu: Vcpu, fault: PageFault) -> tuple[FaultOutcome, Flush] | None:
    """Handle a page fault that exited, in place of the core's MMU, which comes last.

    Return the outcome and the required flush, or None to leave the fault to the next. A plugin that
    injects is responsible for the error code: it must follow from the guest's own tables.

    Cost: once a page fault that exits.

    Example::

        @hookimpl
        def hvmmu_handle_fault(vcpu, fault):
            if is_mine(fault):
                handled = FaultOutcome(Route.INJECT, Cause.NOT_PRESENT, fault.kind, level=1)
                return handled, Flush.nothing()
    """


@hookspec
def hvmmu_fault_handled(vcpu: Vcpu, fault: PageFault, handled: FaultOutcome) -> None:
    """Observe the outcome of a page fault, including one that hardware delivered itself.

    The latter has not exited: a real hypervisor could not observe it.

    Cost: once a page fault.

    Example::

        @hookimpl
        def hvmmu_fault_handled(vcpu, fault, handled):
            seen[handled.route] += 1
    """


@hookspec
def hvmmu_report(vcpu: Vcpu, result: RunResult) -> dict[str, int] | None:
    """Add the plugin's own counters to a run's result, named `PLUGIN.NAME`.

    A name that exists already is an error. Cycles are estimated again with these counters, so that
    a cost model may price them.

    Cost: once a run, at its end.

    Example::

        @hookimpl
        def hvmmu_report(vcpu):
            return {"mine.seen": self.seen[vcpu]}
    """
