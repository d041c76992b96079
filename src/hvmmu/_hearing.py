"""What plugins hear of faults that the fast lane handles: the same events with the same arguments.

A plugin that changes nothing costs its call. One that answers, or looks at the control structure,
has the readable code finish the stop from where it is; ledger and core are brought up to date when
they are looked at.
"""

from __future__ import annotations

from functools import cache
from typing import TYPE_CHECKING, Any

from hvmmu._attempts import Operand
from hvmmu._core.engine import lib
from hvmmu.backend import Invlpg
from hvmmu.errors import InvariantError
from hvmmu.fault import Cause, FaultOutcome, PageFault, Route
from hvmmu.flush import Flush
from hvmmu.tlb import Scope

if TYPE_CHECKING:
    from collections.abc import Callable

    from hvmmu._hooks import Call, HookCall, RunHooks
    from hvmmu.vcpu import Vcpu

_ROUTES, _CAUSES = list(Route), list(Cause)
_GO_ON: int = lib.HV_GO_ON
_NEW = object.__new__
# The slots' own setters: a frozen class's __init__, which goes by name, takes half as long again.
_GVA, _PFEC = (vars(PageFault)[name].__set__ for name in ("gva", "pfec"))
_HANDLED = ("route", "cause", "pfec", "level", "gpa", "walk_refs")
_ROUTE, _CAUSE, _ERROR, _LEVEL, _GPA, _REFS = (
    vars(FaultOutcome)[name].__set__ for name in _HANDLED
)


def _page_fault(gva: int, pfec: int) -> PageFault:
    made = _NEW(PageFault)
    _GVA(made, gva)
    _PFEC(made, pfec)
    return made


def _handled(row: tuple[Route, Cause, int, int], gpa: int, walk_refs: int) -> FaultOutcome:
    made = _NEW(FaultOutcome)
    route, cause, pfec, level = row
    _ROUTE(made, route)
    _CAUSE(made, cause)
    _ERROR(made, pfec)
    _LEVEL(made, level)
    _GPA(made, gpa)
    _REFS(made, walk_refs)
    return made


@cache
def row_of(key: int) -> tuple[Route, Cause, int, int]:
    """Return what C counts a fault by: route, cause, error code and level."""
    return _ROUTES[key & 0xF], _CAUSES[key >> 4 & 0xF], key >> 8 & 0xFF, key >> 16


class Hearing:
    """The hooks of one machine's lane.

    *told* is what C and Python share, *take* takes over what C has done, *give* gives it what may
    have changed.
    """

    def __init__(
        self,
        vcpu: Vcpu,
        hooks: RunHooks,
        told: Any,  # noqa: ANN401 - a struct of cffi's
        take: Callable[[], None],
        give: Callable[[], None],
    ) -> None:
        self._vcpu, self._switch = vcpu, vcpu.switch
        self._told, self._take, self._give = told, take, give
        self._exit_hook = _call(hooks.handle_exit)
        self._fault_hook = _call(hooks.handle_fault)
        self._handled_hook = _call(hooks.fault_handled)
        self._caught_up = self._recorded = False
        self._exit: PageFault | Invlpg | None = None
        self._known: dict[tuple[int, int], FaultOutcome] = {}
        self.acted_out = False
        """Somebody has looked at the control structure, which is therefore kept up to date."""

    @property
    def hears(self) -> int:
        """What is to be told, in bits."""
        bits = 0
        if self._exit_hook is not None:
            bits |= lib.HV_HEARS_INVLPG | lib.HV_HEARS_EXITS
        if self._fault_hook is not None:
            bits |= lib.HV_HEARS_EXITS
        return bits | (0 if self._handled_hook is None else lib.HV_HEARS_FAULTS)

    # When a plugin looks.

    def catch_up(self) -> None:
        """Bring ledger and core up to date, once for each call from C."""
        if not self._caught_up:
            self._caught_up = True
            self._take()

    def act_out(self) -> None:
        """Bring the control structure up to date too."""
        self.acted_out = True
        self._record()

    def _record(self) -> None:
        self.catch_up()
        if self._exit is not None and not self._recorded:
            self._recorded = True
            self._switch.record(self._exit)

    # When C tells.

    def exited(self, gva: int, pfec: int) -> int:
        """Tell of an exit; return what became of it."""
        fault = self._exit = _page_fault(gva, pfec)
        vcpu, hook = self._vcpu, self._exit_hook
        self._caught_up = self._recorded = False
        vcpu.behind = self
        try:
            if hook is not None:
                what = hook(vcpu, fault)
                if what is not None or self.acted_out:
                    self._stand_aside()
                    seen = fault if what is None else what
                    return self._became(vcpu.exited(seen, self._stored()))
            hook = self._fault_hook
            if hook is not None:
                answer = hook(vcpu, fault)
                if answer is not None or self.acted_out:
                    self._stand_aside()
                    return self._became(vcpu.answered(fault, answer, self._stored()))
        finally:
            vcpu.behind = None
        return self._go_on() if self._caught_up else _GO_ON

    def invlpg_exited(self, gva: int) -> int:
        """Tell of an INVLPG; return what became of it."""
        what = self._exit = Invlpg(gva)
        vcpu, hook = self._vcpu, self._exit_hook
        if hook is None:
            return _GO_ON
        self._caught_up = self._recorded = False
        vcpu.behind = self
        try:
            answer = hook(vcpu, what)
            if answer is not None or self.acted_out:
                self._stand_aside()
                vcpu.switch.perform(vcpu.mmu.invlpg(gva if answer is None else answer.gva))
                vcpu.switch.enter()
                return self._became(None)
        finally:
            vcpu.behind = None
        return self._go_on() if self._caught_up else _GO_ON

    def to_mmu(self, stored: int | None) -> int | None:
        """Take the exit that was told of to the MMU: it is none that C handles."""
        if not isinstance(self._exit, PageFault):
            raise InvariantError("the fast lane tells of an exit that there was not")
        self._record()
        return self._vcpu.answered(self._exit, None, _operand(stored))

    def faulted(self, gva: int, pfec: int, row: int, gpa: int, walk_refs: int) -> int:
        """Tell of a fault that was routed, by the ledger's row; return what became of it."""
        vcpu, hook = self._vcpu, self._handled_hook
        if hook is None:
            return _GO_ON
        handled = self._handled_as(row, gpa, walk_refs)
        delivered, told = handled.route is Route.BYPASS, self._exit
        if delivered or type(told) is not PageFault or told.gva != gva or told.pfec != pfec:
            told = _page_fault(gva, pfec)
            if not delivered:
                self._exit, self._recorded = told, False
        self._caught_up = False
        vcpu.behind = self
        try:
            hook(vcpu, told, handled)
            if self.acted_out and not delivered:
                self._stand_aside()
                owed = Flush(Scope.ALL if self._told.owes_flush else None)
                return self._became(vcpu.settle(told, handled, owed, self._stored()))
        finally:
            vcpu.behind = None
        return self._go_on() if self._caught_up else _GO_ON

    def _handled_as(self, key: int, gpa: int, walk_refs: int) -> FaultOutcome:
        """Return what became of a fault, from C's row of it."""
        if gpa:
            return _handled(row_of(key), gpa, walk_refs)
        known = self._known.get((key, walk_refs))
        if known is None:
            known = self._known[key, walk_refs] = _handled(row_of(key), gpa, walk_refs)
        return known

    def _stored(self) -> Operand | None:
        """Return what the access stores, if that is known."""
        return Operand(self._told.stored, 8) if self._told.has_stored else None

    def _stand_aside(self) -> None:
        """Have all in order for the readable code to go on."""
        self._record()
        self._vcpu.behind = None

    def _became(self, completed: int | None) -> int:
        self._give()
        return int(lib.HV_RETRY if completed is None else lib.HV_DONE)

    def _go_on(self) -> int:
        self._give()
        return _GO_ON


def _call(hook: HookCall | None) -> Call | None:
    return None if hook is None else hook.of


def _operand(stored: int | None) -> Operand | None:
    return None if stored is None else Operand(stored, 8)
