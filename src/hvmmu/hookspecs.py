"""Every hook, in the order of a run: what it is for, what it costs, and an example."""

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
    """Return the engine classes that this plugin adds: what can play the hardware.

    One that cannot work here raises EngineUnavailableError when it is made.

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
    """Return the named workloads that this plugin adds, each one with options after a colon.

    Cost: once, when plugins are loaded.

    Example::

        @hookimpl
        def hvmmu_workloads():
            return (MyWorkload(),)
    """


@hookspec
def hvmmu_trace_formats() -> Iterable[TraceFormat]:  # type: ignore[empty-body]
    """Return the formats of trace files that this plugin reads.

    Cost: once, when plugins are loaded. Each is asked once for every file that is opened.

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

    Cost: once, when plugins are loaded, which an unknown command and the list of commands ask for.

    Example::

        @hookimpl
        def hvmmu_commands():
            return (my_command,)
    """


@hookspec
def hvmmu_parameters() -> Mapping[str, type]:  # type: ignore[empty-body]
    """Return this plugin's own sections of the configuration: attrs classes by section.

    The classes are made with `hvmmu.params.param`, as a backend's parameters are.

    Cost: once, when plugins are loaded.

    Example::

        @hookimpl
        def hvmmu_parameters():
            return {"mine": MyParams}
    """


@hookspec
def hvmmu_vm_created(vcpu: Vcpu, settings: Mapping[str, Any]) -> None:
    """Look at a machine that has been put together and has not run yet.

    *settings* are the sections of the configuration, `mmu`, `cpu`, `guest` and the plugins' own.

    Cost: once a run.

    Example::

        @hookimpl
        def hvmmu_vm_created(vcpu, settings):
            self.limits[vcpu] = settings["mine"].limit
    """


@hookspec
def hvmmu_memslot_changed(vcpu: Vcpu, slots: Memslots) -> None:
    """Learn where guest-physical memory lies from now on.

    Cost: once for every change of a memslot; so far that is once a run, as RAM is put in.

    Example::

        @hookimpl
        def hvmmu_memslot_changed(vcpu, slots):
            sizes = [slot.size for slot in slots.slots]
    """


@hookspec(firstresult=True)
def hvmmu_handle_exit(vcpu: Vcpu, what: VmExit) -> VmExit | None:
    """Look at an exit before the core acts on it; return another one to act on in its place.

    What is returned must be of the same type. The first plugin that does not return None decides.

    Cost: once an exit, page faults included.

    Example::

        @hookimpl
        def hvmmu_handle_exit(vcpu, what):
            if isinstance(what, Invlpg):
                return Invlpg(what.gva & ~0xFFF)
    """


@hookspec(firstresult=True)
def hvmmu_handle_fault(vcpu: Vcpu, fault: PageFault) -> tuple[FaultOutcome, Flush] | None:
    """Handle a page fault that exited, in place of the core's MMU, which is last in line.

    Return what became of it and the flush that is owed, or None to leave it to the next. Whoever
    injects answers for the error code: it must be the one the guest's own tables give.

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
    """Observe a page fault after it was routed, one that hardware delivered itself included.

    For the latter the machine has not exited: this is the model speaking, not the hypervisor.

    Cost: once a page fault.

    Example::

        @hookimpl
        def hvmmu_fault_handled(vcpu, fault, handled):
            seen[handled.route] += 1
    """


@hookspec
def hvmmu_report(vcpu: Vcpu, result: RunResult) -> dict[str, int] | None:
    """Add counters of the plugin's own to a run's result, named `PLUGIN.NAME`.

    A name that is there already is an error. Cycles are estimated again with these counters, so
    that a cost model may price them.

    Cost: once a run, at its end.

    Example::

        @hookimpl
        def hvmmu_report(vcpu):
            return {"mine.seen": self.seen[vcpu]}
    """
