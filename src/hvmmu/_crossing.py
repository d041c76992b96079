"""The world switch as data: what an exit is called, and what an entry does.

A backend whose caps say *plain_switch* promises that these few facts are all there is to it, so
that a page fault's way out and in need not be acted out each time.
"""

from typing import Any, NamedTuple

from hvmmu.backend import PAGE_FAULT_VECTOR, Backend, Intercept, Invlpg, VmEntry, VmExit
from hvmmu.engine import HwThread
from hvmmu.fault import PageFault
from hvmmu.tlb import SCOPES, Scope

_SWITCH = frozenset(
    ("record_exit", "exit_reason", "decode_exit", "inject_page_fault", "flush_tlb", "enter")
)
"""What is not called where the facts are known."""
_GVA, _PFEC = 0x7FFF_1234_5000, 7


class Crossing(NamedTuple):
    """The facts of one backend with one setting of its parameters."""

    page_fault: str
    """What it calls the exit of a page fault."""
    invlpg: str
    flushes: tuple[Scope | None, ...]
    """What an entry flushes, by the scope in SCOPES that was asked for."""


def crossing_of(backend: Backend[Any], core: HwThread) -> Crossing | None:
    """Return the facts, found out on a control structure of their own; None if there are none.

    *core* is one that nothing else uses.
    """
    if not _promises(type(backend)):
        return None
    control = backend.create_vcpu(0)
    names: list[str] = []
    flushes: list[Scope | None] = []
    for what in (PageFault(_GVA, _PFEC), Invlpg(_GVA)):
        names.append(_left(backend, control, core, what))
        flushes = [_flushed(backend, control, core, scope) for scope in SCOPES]
    plain = Intercept.INVLPG in backend.intercepts(control) and _injects(backend, control, core)
    return Crossing(names[0], names[1], tuple(flushes)) if plain and all(names) else None


def _promises(kind: type[Backend[Any]]) -> bool:
    """Return whether a class promises it of its own switch, and not a base class of another."""
    if not kind.caps.plain_switch:
        return False
    for made in kind.__mro__:
        if "caps" in made.__dict__:
            return True
        if not _SWITCH.isdisjoint(made.__dict__):
            return False
    return True


def _left(backend: Backend[Any], control: Any, core: HwThread, what: VmExit) -> str:  # noqa: ANN401
    """Exit; return what the exit is called, or nothing if it is not read back as it was."""
    backend.record_exit(control, core, what)
    name = backend.exit_reason(control)
    return name if backend.decode_exit(control, core) == what else ""


def _flushed(
    backend: Backend[Any],
    control: Any,  # noqa: ANN401
    core: HwThread,
    scope: Scope | None,
) -> Scope | None:
    if scope is not None:
        backend.flush_tlb(control, scope, _GVA)
    return backend.enter(control, core).flush


def _injects(backend: Backend[Any], control: Any, core: HwThread) -> bool:  # noqa: ANN401
    """Say whether a page fault that is injected arrives, and loads CR2."""
    backend.inject_page_fault(control, core, _GVA, _PFEC)
    entry = backend.enter(control, core)
    arrived = VmEntry(entry.flush, entry.gva, PAGE_FAULT_VECTOR, _PFEC)
    return entry == arrived and core.cr2 == _GVA
