"""The world switch: out of the guest and back in, with all that happens on the way.

On a bare machine nothing is ever left, and what is asked of hardware is done at once. Where the
guest is deprivileged, its own way between user mode and kernel leads through here too.
"""

from typing import TYPE_CHECKING, Any, TypeVar, cast

import attrs

from hvmmu.arch.regs import Regs
from hvmmu.backend import Backend, DeprivilegedBackend, Paging, VmEntry, VmExit
from hvmmu.engine import Engine, HwThread
from hvmmu.errors import InvariantError
from hvmmu.flush import Flush
from hvmmu.ledger import Ledger
from hvmmu.tlb import Scope

if TYPE_CHECKING:
    from collections.abc import Callable

E = TypeVar("E", bound=VmExit)


class WorldSwitch:
    """One vCPU's way between guest and hypervisor, over its control structure."""

    def __init__(
        self, core: HwThread, engine: Engine, backend: Backend[Any], ledger: Ledger
    ) -> None:
        self._core, self._engine, self._backend, self._ledger = core, engine, backend, ledger
        self.hypervised = backend.caps.paging is not Paging.BARE
        self.control = backend.create_vcpu(0)
        self.intercepts = backend.intercepts(self.control)
        core.exit_filter = backend.exit_filter(self.control)
        self.user: bool | None = False if backend.caps.deprivileged else None
        """The guest is in user mode; None where hardware itself tells user from kernel."""
        self._user_root: int | None = None
        self.on_exit: Callable[..., Any] | None = None
        """Sees each exit first (argument *what*), and may return another one of its kind."""

    def leave(self, what: E) -> E:
        """Exit, and read back why: all that passes is in the control structure."""
        self.record(what)
        self._ledger.exits[self._backend.exit_reason(self.control)] += 1
        read = self._backend.decode_exit(self.control, self._core)
        if type(read) is not type(what):
            raise InvariantError(f"{self._backend.name} recorded {what} and read back {read}")
        if self.on_exit is None:
            return read
        answer: E | None = self.on_exit(what=read)
        return read if answer is None else answer

    def record(self, what: VmExit) -> None:
        """Have hardware write an exit into the control structure."""
        self._backend.record_exit(self.control, self._core, what)

    def enter(self) -> VmEntry:
        """Enter the guest; return what hardware did, after the flush in it is done."""
        entry = self._backend.enter(self.control, self._core)
        if self.user is not None:
            self.user = self.user and entry.vector is None
            self._follow_root()
        if entry.flush is not None:
            self._flush(entry.flush, entry.gva)
        return entry

    def load(self, regs: Regs, flush: Flush, user_root: int | None = None) -> None:
        """Put hardware's registers in force, and ask for the flush that goes with them.

        *user_root* is the root for the guest's user mode, where that has one of its own.
        """
        if self.hypervised and (regs != self._core.regs or user_root != self._user_root):
            self._backend.load_root(self.control, regs.cr3)
            if user_root is not None:
                self._switcher.load_user_root(self.control, user_root)
            self._user_root = user_root
            regs = attrs.evolve(regs, cr3=self._backend.root(self.control))
        if regs != self._core.regs:
            self._load_regs(regs)
        self.perform(flush)

    # A deprivileged guest.

    @property
    def _switcher(self) -> DeprivilegedBackend[Any]:
        return cast("DeprivilegedBackend[Any]", self._backend)

    def be(self, *, user: bool) -> None:
        """Have a deprivileged guest run at this privilege from now on."""
        if self.user in (None, user):
            return
        self.user = user
        self._ledger.direct_switches += 1
        self._switcher.switch_privilege(self.control, self._core, user=user)
        self._follow_root()

    def deliver(self, gva: int, pfec: int) -> int:
        """Take a page fault that did not exit to the guest; return the error code it gets."""
        if self.user is None:
            return pfec
        self.user = False
        self._ledger.direct_switches += 1
        pfec = self._switcher.deliver_page_fault(self.control, self._core, gva, pfec)
        self._follow_root()
        return pfec

    def _follow_root(self) -> None:
        root = self._backend.root(self.control)
        if root != self._core.regs.cr3:
            self._load_regs(attrs.evolve(self._core.regs, cr3=root))

    def _load_regs(self, regs: Regs) -> None:
        """Load hardware's registers; the two roots of a guest share a TLB that has no tags."""
        other_root = regs.cr3 != self._core.regs.cr3
        self._engine.load_regs(self._core, regs)
        if other_root and self.user is not None:
            self._flush(Scope.ALL, 0)

    def inject_page_fault(self, gva: int, pfec: int) -> None:
        """Have the guest take a page fault when it is next entered."""
        self._backend.inject_page_fault(self.control, self._core, gva, pfec)

    def perform(self, flush: Flush) -> None:
        """Ask for a flush: done before the guest runs on."""
        flush.perform(self._request if self.hypervised else self._flush)

    def _request(self, scope: Scope, gva: int) -> None:
        self._backend.flush_tlb(self.control, scope, gva)

    def _flush(self, scope: Scope, gva: int) -> None:
        self._ledger.tlb_flushes += 1
        self._engine.flush(scope, gva)
