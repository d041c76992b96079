"""The vCPU's callbacks from C: steps of a stop that are Python's, and the hooks that see them.

An exception is kept until C has returned, and raised again there.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Protocol

from hvmmu._core.binding import ffi, lib
from hvmmu._world_switch import SCOPE_NUMBER
from hvmmu.backend import Invlpg, VmExit
from hvmmu.errors import InvariantError
from hvmmu.fault import Cause, FaultOutcome, PageFault, Route
from hvmmu.flush import Flush
from hvmmu.ledger import row_of
from hvmmu.tlb import SCOPES

if TYPE_CHECKING:
    from collections.abc import Callable

    from hvmmu._hooks import Call, HookCall, RunHooks
    from hvmmu._world_switch import WorldSwitch
    from hvmmu.engine import Engine
    from hvmmu.ledger import Ledger
    from hvmmu.mmu import Mmu
    from hvmmu.tlb import Scope

_ROUTES, _CAUSES = list(Route), list(Cause)
_ROUTE_NUMBER = {route: at for at, route in enumerate(Route)}
_CAUSE_NUMBER = {cause: at for at, cause in enumerate(Cause)}
_CONTINUE: int = lib.HV_CONTINUE
_NEW = object.__new__
# A frozen class's __init__ goes by name, and takes half as long again as the slots' own setters.
_GVA, _PFEC = (vars(PageFault)[name].__set__ for name in ("gva", "pfec"))
_FIELDS = ("route", "cause", "pfec", "level", "gpa", "walk_refs")
_SETTERS = tuple(vars(FaultOutcome)[name].__set__ for name in _FIELDS)


def _page_fault(gva: int, pfec: int) -> PageFault:
    made = _NEW(PageFault)
    _GVA(made, gva)
    _PFEC(made, pfec)
    return made


def _outcome(*values: Any) -> FaultOutcome:  # noqa: ANN401 - the fields in order
    made = _NEW(FaultOutcome)
    for put, value in zip(_SETTERS, values, strict=True):
        put(made, value)
    return made


class Owner(Protocol):
    """The vCPU as its callbacks use it."""

    world_switch: WorldSwitch
    mmu: Mmu
    engine: Engine
    ledger: Ledger

    def reload(self) -> None:
        """Have hardware walk from the MMU's roots, which may be new."""
        ...

    def fail_mmu(self) -> None:
        """Raise the error that the shadow MMU has returned to C."""
        ...

    def take_page_fault(self, pfec: int) -> int:
        """Run the guest's page-fault handler; return what became of the access."""
        ...

    def take_general_protection(self, gva: int) -> int:
        """Run the guest's handler of a general-protection fault."""
        ...

    def fail_guest(self) -> None:
        """Raise the error that the guest's kernel ended in."""
        ...

    def run_engine(
        self,
        gva: Any,  # noqa: ANN401 - cffi's
        kind: Any,  # noqa: ANN401 - cffi's
        at: int,
        count: int,
        translated: Any,  # noqa: ANN401 - cffi's
    ) -> int:
        """Run accesses on an engine in Python; return the index of the one that stopped."""
        ...

    def set_engine_root(self, root: int) -> None:
        """Set the root that an engine in Python walks from."""
        ...

    def refuse_to_hang(self, tries: int) -> None:
        """Give up on an access that stopped too often."""
        ...

    def refuse_stop(self) -> None:
        """Give up where the engine stopped for a reason that cannot be."""
        ...


class Callbacks:
    """The callbacks of one vCPU, *c* as C has it."""

    def __init__(self, vcpu: Owner, c: Any, hooks: RunHooks) -> None:  # noqa: ANN401 - a struct of cffi's
        self.vcpu, self._c = vcpu, c
        self._exit_hook = _call(hooks.handle_exit)
        self._fault_hook = _call(hooks.handle_fault)
        self._handled_hook = _call(hooks.fault_handled)
        if self._exit_hook is not None or self._fault_hook is not None:
            c.events.hooked |= 1 << lib.HV_EVENT_EXIT
        if self._handled_hook is not None:
            c.events.hooked |= 1 << lib.HV_EVENT_FAULT
        self._error: BaseException | None = None
        self._exit: VmExit | None = None
        """The exit that is handled, where the control structure does not hold it."""
        self._known: dict[tuple[int, int], FaultOutcome] = {}
        self._calls: dict[int, Callable[[], int | None]] = {
            lib.HV_CALL_ROUTE: self._route,
            lib.HV_CALL_STORE: self._store,
            lib.HV_CALL_MMU_FAILED: vcpu.fail_mmu,
            lib.HV_CALL_RELOAD: vcpu.reload,
            lib.HV_CALL_ENTER: vcpu.world_switch.enter,
            lib.HV_CALL_PRIVILEGE: vcpu.world_switch.switch_privilege,
            lib.HV_CALL_DELIVER: self._deliver,
            lib.HV_CALL_INVLPG: self._invlpg,
            lib.HV_CALL_PAGE_FAULT: lambda: vcpu.take_page_fault(c.delivered),
            lib.HV_CALL_GENERAL_PROTECTION: lambda: vcpu.take_general_protection(c.value),
            lib.HV_CALL_COUNT: lambda: vcpu.ledger.record(self._routed()),
            lib.HV_CALL_FLUSH: self._flush,
            lib.HV_CALL_SET_ROOT: lambda: vcpu.set_engine_root(c.value),
            lib.HV_CALL_HANG: lambda: vcpu.refuse_to_hang(c.value),
            lib.HV_CALL_BROKEN: vcpu.refuse_stop,
            lib.HV_CALL_GUEST_FAILED: vcpu.fail_guest,
            lib.HV_CALL_NO_MEMORY: _refuse_memory,
            lib.HV_CALL_NOTHING_THERE: lambda: _refuse_copy(c.value),
        }

    # Exceptions.

    def kept(self, error: BaseException) -> int:
        """Keep an exception until C has returned."""
        self._error = error
        return int(lib.HV_FAILED)

    def raise_kept(self) -> None:
        """Raise the exception that made C give up."""
        error, self._error = self._error, None
        try:
            raise error or InvariantError("the vCPU stopped without a reason")
        finally:
            # Else error and frame hold each other, and with them the callers' memoryviews: before
            # 3.12.4, CPython crashes when it collects a cycle with one of those in it (gh-77894).
            del error

    # Steps of a stop.

    def call(self, what: int) -> int:
        """Take one step; return what became of the access, HV_CONTINUE if that is C's to say."""
        became = self._calls[what]()
        return _CONTINUE if became is None else became

    def exit(self, gva: int, pfec: int) -> int:
        """Have a page fault exit where exits are simulated, and show it to the hooks."""
        vcpu, c = self.vcpu, self._c
        fault = _page_fault(gva, pfec)
        if c.simulated:
            fault = vcpu.world_switch.leave(fault)
        else:
            self._exit = fault
        if self._exit_hook is not None:
            what = self._exit_hook(vcpu, fault)
            fault = fault if what is None else what
        answer = None if self._fault_hook is None else self._fault_hook(vcpu, fault)
        self._exit = None
        c.fault.gva, c.fault.pfec = fault.gva, fault.pfec
        c.fault.handled = answer is not None
        if answer is not None:
            self._answer(*answer)
        return _CONTINUE

    def invlpg_exit(self, gva: int) -> int:
        """Have an INVLPG exit where exits are simulated, and show it to the hooks."""
        what = Invlpg(gva)
        if self._c.simulated:
            what = self.vcpu.world_switch.leave(what)
        else:
            self._exit = what
        self._c.value = self.shown(what).gva
        self._exit = None
        return _CONTINUE

    def shown(self, what: Any) -> Any:  # noqa: ANN401 - a VmExit and another of its kind
        """Show an exit to the hooks; return the exit to be acted on."""
        answer = None if self._exit_hook is None else self._exit_hook(self.vcpu, what)
        return what if answer is None else answer

    def record(self) -> None:
        """Write the exit that is handled into the control structure, if it is not there."""
        if self._exit is not None:
            what, self._exit = self._exit, None
            if isinstance(what, PageFault) and self._c.deprivileged:
                what = _page_fault(what.gva, what.pfec | 4)
            self.vcpu.world_switch.record(what)

    def fault(self, gva: int, pfec: int, key: int, walk_refs: int, gpa: int) -> int:
        """Show a fault that was routed to the hooks."""
        if self._handled_hook is not None:
            fault = _page_fault(gva, pfec)
            made = self._counted(key, walk_refs, gpa) if key != 0xFFFF_FFFF else self._routed()
            if made.route is not Route.BYPASS and not self._c.simulated:
                self._exit = fault
            self._handled_hook(self.vcpu, fault, made)
            self._exit = None
        return _CONTINUE

    def _counted(self, key: int, walk_refs: int, gpa: int) -> FaultOutcome:
        """Return what became of a fault, from the ledger's row of it."""
        if gpa:
            return _outcome(*row_of(key), gpa, walk_refs)
        known = self._known.get((key, walk_refs))
        if known is None:
            known = self._known[key, walk_refs] = _outcome(*row_of(key), 0, walk_refs)
        return known

    def _routed(self) -> FaultOutcome:
        """Return what became of the fault that C has at hand."""
        out = self._c.fault.out
        route, cause = _ROUTES[out.route], _CAUSES[out.cause]
        return FaultOutcome(route, cause, out.pfec, out.level, out.gpa, out.walk_refs)

    def _answer(self, outcome: FaultOutcome, flush: Flush) -> None:
        out = self._c.fault.out
        out.route, out.cause = _ROUTE_NUMBER[outcome.route], _CAUSE_NUMBER[outcome.cause]
        out.pfec, out.level, out.gpa = outcome.pfec, outcome.level, outcome.gpa
        out.walk_refs = outcome.walk_refs
        self._owe(flush)

    def _owe(self, flush: Flush) -> None:
        """Leave a flush to C, which has it done by the entry."""
        owed = self._c.fault.flush

        def put(scope: Scope, gva: int) -> None:
            owed.scope, owed.gva = SCOPE_NUMBER[scope], gva

        owed.scope = lib.HV_FLUSH_NOTHING
        flush.perform(put)

    def _route(self) -> None:
        f = self._c.fault
        self._answer(*self.vcpu.mmu.handle(PageFault(f.gva, f.pfec)))

    def _store(self) -> None:
        f = self._c.fault
        gpa, value, size = f.out.gpa, f.operand, f.size
        owed = Flush(SCOPES[f.flush.scope], f.flush.gva)
        self._owe(owed.merge(self.vcpu.mmu.emulate_store(gpa, value, size)))

    def _deliver(self) -> None:
        f = self._c.fault
        f.pfec = self.vcpu.world_switch.deliver(f.gva, f.pfec)

    def _invlpg(self) -> None:
        vcpu = self.vcpu
        vcpu.world_switch.request(vcpu.mmu.invlpg(self._c.value))
        vcpu.reload()

    def _flush(self) -> None:
        scope = SCOPES[self._c.scope]
        if scope is not None:
            self.vcpu.engine.flush(scope, self._c.value)


def _call(hook: HookCall | None) -> Call | None:
    return None if hook is None else hook.of


def _refuse_memory() -> None:
    raise MemoryError("no host memory is left for a batch of accesses")


def _refuse_copy(source: int) -> None:
    raise InvariantError(f"the guest copies a page from {source:#x}, where nothing is")


def _kept(handle: Any, call: Callable[[Callbacks], int]) -> int:  # noqa: ANN401 - cffi's
    callbacks: Callbacks = ffi.from_handle(handle)
    try:
        return call(callbacks)
    except BaseException as error:  # noqa: BLE001 - raised again when C is out of the way
        return callbacks.kept(error)


@ffi.def_extern()  # type: ignore[untyped-decorator]  # cffi's
def hv_call(handle: Any, what: int) -> int:  # noqa: ANN401 - cffi's
    """Take one step of a stop."""
    return _kept(handle, lambda callbacks: callbacks.call(what))


@ffi.def_extern()  # type: ignore[untyped-decorator]  # cffi's
def hv_call_exit(handle: Any, gva: int, pfec: int) -> int:  # noqa: ANN401 - cffi's
    """Have a page fault exit."""
    callbacks: Callbacks = ffi.from_handle(handle)
    try:
        return callbacks.exit(gva, pfec)
    except BaseException as error:  # noqa: BLE001 - as in _kept
        return callbacks.kept(error)


@ffi.def_extern()  # type: ignore[untyped-decorator]  # cffi's
def hv_call_invlpg_exit(handle: Any, gva: int) -> int:  # noqa: ANN401 - cffi's
    """Have an INVLPG exit."""
    return _kept(handle, lambda callbacks: callbacks.invlpg_exit(gva))


@ffi.def_extern()  # type: ignore[untyped-decorator]  # cffi's
def hv_call_fault(  # noqa: PLR0917 - as C has it
    handle: Any,  # noqa: ANN401 - cffi's
    gva: int,
    pfec: int,
    key: int,
    walk_refs: int,
    gpa: int,
) -> int:
    """Show a routed fault to the hooks."""
    callbacks: Callbacks = ffi.from_handle(handle)
    try:
        return callbacks.fault(gva, pfec, key, walk_refs, gpa)
    except BaseException as error:  # noqa: BLE001 - as in _kept
        return callbacks.kept(error)


@ffi.def_extern()  # type: ignore[untyped-decorator]  # cffi's
def hv_call_engine(  # noqa: PLR0917 - as C has it
    handle: Any,  # noqa: ANN401 - cffi's
    gva: Any,  # noqa: ANN401 - cffi's
    kind: Any,  # noqa: ANN401 - cffi's
    at: int,
    count: int,
    translated: Any,  # noqa: ANN401 - cffi's
) -> int:
    """Run accesses on an engine in Python."""
    callbacks: Callbacks = ffi.from_handle(handle)
    try:
        return callbacks.vcpu.run_engine(gva, kind, at, count, translated)
    except BaseException as error:  # noqa: BLE001 - as in _kept
        callbacks.kept(error)
        return (1 << 64) - 1
