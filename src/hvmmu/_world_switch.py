"""The world switch through the control structure: exits, entries and roots, one by one.

C takes page faults out of the guest and back in by the backend's switch profile. Everything else
that exits comes here, and so does each exit of a backend that has no profile, or whose control
structure somebody looks at.
"""

from typing import Any, TypeVar, cast

import attrs

from hvmmu._core.binding import lib
from hvmmu.arch.regs import Regs
from hvmmu.backend import (
    PAGE_FAULT_VECTOR,
    Backend,
    DeprivilegedBackend,
    Invlpg,
    Paging,
    SwitchProfile,
    VmExit,
)
from hvmmu.engine import FILTER_BITS, Engine, HwThread
from hvmmu.errors import InvariantError, PluginError
from hvmmu.fault import PageFault
from hvmmu.flush import Flush
from hvmmu.ledger import Ledger
from hvmmu.tlb import SCOPES

E = TypeVar("E", bound=VmExit)

SCOPE_NUMBER = {scope: number for number, scope in enumerate(SCOPES)}


class WorldSwitch:
    """One vCPU's way between guest and hypervisor, over its control structure."""

    def __init__(
        self,
        vcpu: Any,  # noqa: ANN401 - a struct of cffi's
        thread: HwThread,
        engine: Engine,
        backend: Backend[Any],
        ledger: Ledger,
        *,
        vcpu_id: int,
    ) -> None:
        self._vcpu, self._thread, self._engine = vcpu, thread, engine
        self._backend, self._ledger = backend, ledger
        self.control = backend.create_vcpu(vcpu_id)
        self.intercepts = backend.intercepts(self.control)
        self._user = False
        """The privilege that a deprivileged guest has by the control structure."""
        self._user_root: int | None = None
        self._loaded: Regs | None = None
        thread.exit_filter = backend.exit_filter(self.control)
        vcpu.exit_filter = thread.exit_filter
        vcpu.hypervised = backend.caps.paging is not Paging.BARE
        vcpu.deprivileged = backend.caps.deprivileged
        vcpu.requested.scope = lib.HV_FLUSH_NOTHING
        self._take_profile(backend.switch_profile(self.control))

    def _take_profile(self, profile: SwitchProfile | None) -> None:
        vcpu = self._vcpu
        vcpu.simulated = vcpu.hypervised and profile is None
        if not vcpu.hypervised or profile is None:
            return
        _refuse_malformed(profile, self._backend.name)
        number = self._ledger.exit_number
        vcpu.profile.page_fault = [number(name) for name in profile.page_faults]
        vcpu.profile.invlpg = number(profile.invlpg)
        for asked, flushed in profile.flushes.items():
            vcpu.profile.flushes[SCOPE_NUMBER[asked]] = SCOPE_NUMBER[flushed]

    # Exits.

    def leave(self, what: E) -> E:
        """Exit, and read back why: everything passes through the control structure."""
        self.record(what)
        name = self._backend.exit_reason(self.control)
        self._ledger.count_exit(name)
        self._record_event(self._ledger.exit_number(name), what)
        read = self._backend.decode_exit(self.control, self._thread)
        if type(read) is not type(what):
            raise InvariantError(f"{self._backend.name} recorded {what} and read back {read}")
        return read

    def _record_event(self, name: int, what: VmExit) -> None:
        if isinstance(what, PageFault):
            lib.hv_record_exit(self._vcpu, name, what.gva, 0, what.pfec)
        else:
            operand = what.gva if isinstance(what, Invlpg) else what.value
            lib.hv_record_exit(self._vcpu, name, 0, operand, 0)

    def record(self, what: VmExit) -> None:
        """Have hardware write an exit into the control structure."""
        self.follow_privilege()
        self._thread.cr2 = self._vcpu.cr2
        self._backend.record_exit(self.control, self._thread, what)

    # Entries.

    def enter(self) -> None:
        """Enter the guest, after the flush that the entry performs.

        The vCPU's *inject* then says whether the entry delivered a page fault.
        """
        vcpu, backend, thread = self._vcpu, self._backend, self._thread
        self.follow_privilege()
        thread.cr2 = vcpu.cr2
        if vcpu.inject:
            backend.inject_page_fault(self.control, thread, vcpu.cr2, vcpu.delivered)
        scope = SCOPES[vcpu.requested.scope]
        if scope is not None:
            backend.flush_tlb(self.control, scope, vcpu.requested.gva)
        vcpu.requested.scope = lib.HV_FLUSH_NOTHING
        entry = backend.enter(self.control, thread)
        vcpu.cr2 = thread.cr2
        vcpu.inject = entry.vector == PAGE_FAULT_VECTOR
        vcpu.delivered = entry.error_code
        if vcpu.deprivileged:
            self._user = vcpu.user = self._user and entry.vector is None
            self.follow_root()
        lib.hv_record_entry(vcpu, SCOPE_NUMBER[entry.flush])
        if entry.flush is not None:
            lib.hv_flush_now(vcpu, SCOPE_NUMBER[entry.flush], entry.gva)

    def request(self, flush: Flush) -> None:
        """Ask for a flush: at once on a bare machine, else by the next entry."""
        flush.perform(
            lambda scope, gva: lib.hv_request_flush(self._vcpu, SCOPE_NUMBER[scope], gva) and None
        )

    # Registers and roots.

    def load(self, regs: Regs, flush: Flush, user_root: int | None = None) -> None:
        """Put hardware's registers in force, and ask for the flush that goes with them.

        *user_root* is the root for a deprivileged guest's user mode.
        """
        vcpu = self._vcpu
        if vcpu.hypervised and (regs != self._loaded or user_root != self._user_root):
            self._loaded, self._user_root = regs, user_root
            self.follow_privilege()
            self._backend.load_root(self.control, regs.cr3)
            if user_root is not None:
                self._switcher.load_user_root(self.control, user_root)
            vcpu.roots = [regs.cr3, regs.cr3 if user_root is None else user_root]
            vcpu.roots[vcpu.user] = self._backend.root(self.control)
        if vcpu.hypervised:
            regs = attrs.evolve(regs, cr3=vcpu.roots[vcpu.user])
        self._load_regs(regs)
        self.request(flush)

    def _load_regs(self, regs: Regs) -> None:
        """Load hardware's registers; a deprivileged guest's two roots share a TLB without tags."""
        vcpu, now = self._vcpu, self.regs
        if regs == now:
            return
        self._engine.load_regs(self._thread, regs)
        vcpu.regs = attrs.asdict(regs)
        if vcpu.deprivileged and regs.cr3 != now.cr3:
            lib.hv_flush_now(vcpu, lib.HV_FLUSH_ALL, 0)

    @property
    def regs(self) -> Regs:
        """Return the registers in force in hardware."""
        thread, root = self._thread, self._vcpu.regs.cr3
        if thread.regs.cr3 != root:
            thread.regs = attrs.evolve(thread.regs, cr3=root)
        return thread.regs

    def follow_root(self) -> None:
        """Have hardware walk from the root that the control structure names."""
        root = self._backend.root(self.control)
        self._vcpu.roots[self._vcpu.user] = root
        lib.hv_set_root(self._vcpu, root)

    # A deprivileged guest.

    @property
    def _switcher(self) -> DeprivilegedBackend[Any]:
        return cast("DeprivilegedBackend[Any]", self._backend)

    def follow_privilege(self) -> None:
        """Bring the control structure to the privilege that the guest has."""
        user = bool(self._vcpu.user)
        if self._vcpu.deprivileged and user is not self._user:
            self._user = user
            self._switcher.switch_privilege(self.control, self._thread, user=user)

    def switch_privilege(self) -> None:
        """Have the switcher take the guest to the privilege that the vCPU says."""
        self.follow_privilege()
        self._vcpu.roots[self._vcpu.user] = self._backend.root(self.control)

    def deliver(self, gva: int, pfec: int) -> int:
        """Take a page fault that did not exit to the guest's kernel; return its error code."""
        pfec = self._switcher.deliver_page_fault(self.control, self._thread, gva, pfec)
        self._user = False
        self._vcpu.cr2 = self._thread.cr2
        self._vcpu.roots[0] = self._backend.root(self.control)
        return pfec


def _refuse_malformed(profile: SwitchProfile, backend: str) -> None:
    """Raise PluginError for a profile that C cannot use."""
    names = (*profile.page_faults, profile.invlpg)
    wrong = ""
    if len(profile.page_faults) != FILTER_BITS:
        wrong = (
            f"page_faults has {len(profile.page_faults)} names, not one for each of {FILTER_BITS}"
        )
    elif not all(isinstance(name, str) and name for name in names):
        wrong = "a name of an exit is no text"
    elif set(profile.flushes) != set(SCOPES) or not set(profile.flushes.values()) <= set(SCOPES):
        wrong = "flushes is to give a Scope or None for None and for each Scope"
    if wrong:
        raise PluginError(
            f"backend {backend!r}, switch_profile: {wrong}; return None to have each exit simulated"
        )
