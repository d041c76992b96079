"""Every hook, in the order of a run: what it is for, what it costs, and an example."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import pluggy

if TYPE_CHECKING:
    from collections.abc import Iterable

    from hvmmu.backend import Backend, Exit
    from hvmmu.memory import Memslots
    from hvmmu.mmu.fault import Handled, PageFault
    from hvmmu.mmu.flush import Flush
    from hvmmu.results import RunResult
    from hvmmu.vcpu import Vcpu

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
def hvmmu_vm_created(vcpu: Vcpu) -> None:
    """Look at a machine that has been put together and has not run yet.

    Cost: once a run.

    Example::

        @hookimpl
        def hvmmu_vm_created(vcpu):
            print(vcpu.backend.name, vcpu.guest_memory)
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
def hvmmu_handle_exit(vcpu: Vcpu, what: Exit) -> Exit | None:
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
def hvmmu_handle_fault(vcpu: Vcpu, fault: PageFault) -> tuple[Handled, Flush] | None:
    """Handle a page fault that exited, in place of the core's MMU, which is last in line.

    Return what became of it and the flush that is owed, or None to leave it to the next. Whoever
    injects answers for the error code: it must be the one the guest's own tables give.

    Cost: once a page fault that exits.

    Example::

        @hookimpl
        def hvmmu_handle_fault(vcpu, fault):
            if is_mine(fault):
                handled = Handled(Route.INJECT, Cause.NOT_PRESENT, fault.kind, level=1)
                return handled, Flush.nothing()
    """


@hookspec
def hvmmu_fault_handled(vcpu: Vcpu, fault: PageFault, handled: Handled) -> None:
    """Observe a page fault after it was routed, one that hardware delivered itself included.

    For the latter the machine has not exited: this is the model speaking, not the hypervisor.

    Cost: once a page fault.

    Example::

        @hookimpl
        def hvmmu_fault_handled(vcpu, fault, handled):
            seen[handled.route] += 1
    """


@hookspec
def hvmmu_report(result: RunResult) -> dict[str, int] | None:
    """Add counters of the plugin's own to a run's result, names prefixed with the plugin's.

    A name that is there already is an error.

    Cost: once a run, at its end.

    Example::

        @hookimpl
        def hvmmu_report(result):
            return {"mine.seen": 12}
    """
