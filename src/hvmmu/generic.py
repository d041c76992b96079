"""Backends in nobody's dialect, for those who only have data to set.

A subclass has a name and a summary, and overrides what differs: which page faults exit, the entries
that map nothing, parameters. What passes between hardware and hypervisor lies in one plain record.
"""

from collections.abc import Mapping
from types import MappingProxyType
from typing import Any, ClassVar, TypeVar, cast

import attrs

from hvmmu.arch import pfec as pf
from hvmmu.arch.regs import CpuFeatures
from hvmmu.backend import (
    API_VERSION,
    PAGE_FAULT_VECTOR,
    Backend,
    Caps,
    CrWrite,
    Intercept,
    Invlpg,
    MsrWrite,
    Paging,
    Registers,
    SwitchProfile,
    VmEntry,
    VmExit,
)
from hvmmu.engine import EXIT_ALWAYS, FILTER_BITS, HwThread
from hvmmu.errors import BackendUnavailableError, InvariantError
from hvmmu.fault import PageFault
from hvmmu.flush import widest
from hvmmu.log import get_logger
from hvmmu.spte import Nonpresent
from hvmmu.tlb import Scope

P = TypeVar("P")


@attrs.frozen(eq=False)
class NoParams:
    """No module parameters."""


def without(
    params: P,
    parameter: str,
    explicit: frozenset[str],
    why: str,
    *,
    backend: str,
    remedy: str = "choose another CPU model (see `hvmmu params cpu`)",
) -> P:
    """Return *params* with a bool parameter off that this CPU model cannot do, and log why.

    *asked* are the names of those that somebody set: raise BackendUnavailableError if this one is
    among them, which says what else than turning it off would do: *remedy*.
    """
    if parameter in explicit:
        raise BackendUnavailableError(f"{backend}.{parameter}=1: {why}; set it to 0, or {remedy}")
    get_logger().warning(f"{parameter}_turned_off", backend=backend, why=why)
    made: P = attrs.evolve(cast("Any", params), **{parameter: False})
    return made


@attrs.define(eq=False)
class Controls:
    """A vCPU's control structure: controls, the last exit, and what the next entry is to do."""

    page_faults: int
    """The exit filter, a bit for each error code."""
    intercepts: Intercept
    root: int = 0
    exit: VmExit | None = None
    event: int | None = None
    """Error code of the page fault to deliver."""
    flush: Scope | None = None
    gva: int = 0
    user: bool = False
    """A deprivileged guest is in user mode."""
    user_root: int = 0
    """Of a deprivileged guest; *root* is then its kernel's."""


def profile_of(backend: Backend[Any]) -> SwitchProfile:
    """Return the switch profile of a backend whose control structure decides nothing.

    Its two halves are run once for each error code and each flush, on a control structure of their
    own.
    """
    control, thread = backend.create_vcpu(0), HwThread(CpuFeatures())

    def reason(what: VmExit) -> str:
        backend.record_exit(control, thread, what)
        return backend.exit_reason(control)

    def flushed(scope: Scope | None) -> Scope | None:
        if scope is not None:
            backend.flush_tlb(control, scope, 0)
        return backend.enter(control, thread).flush

    return SwitchProfile(
        page_faults=tuple(reason(PageFault(0, pfec)) for pfec in range(FILTER_BITS)),
        invlpg=reason(Invlpg(0)),
        flushes={scope: flushed(scope) for scope in (None, *Scope)},
    )


class GenericBackend:
    """Shadow paging on hardware where, unless a subclass says otherwise, every page fault exits."""

    name: ClassVar[str]
    api_version: ClassVar[int] = API_VERSION
    summary: ClassVar[str]
    caps: ClassVar[Caps] = Caps(Paging.SHADOW)
    params: ClassVar[type] = NoParams
    unsupported: ClassVar[Mapping[str, str]] = MappingProxyType({})
    compare_params: ClassVar[tuple[str, ...]] = ()
    reasons: ClassVar[Mapping[type, str]] = MappingProxyType(
        {
            PageFault: "PAGE_FAULT",
            CrWrite: "CR_WRITE",
            MsrWrite: "MSR_WRITE",
            Invlpg: "INVLPG",
        }
    )
    """What an exit is called in results."""

    def __init__(self, params: Any, cpu: CpuFeatures, explicit: frozenset[str]) -> None:  # noqa: ANN401
        """Take the parameters as they are; a subclass may look at the CPU, and raise."""
        del cpu, explicit
        self.effective = params

    def do_without(self, parameter: str, explicit: frozenset[str], why: str) -> None:
        """Turn a bool parameter off that this CPU model cannot do, and log why.

        *asked* are the names of those that somebody set: raise BackendUnavailableError if this one
        is among them.
        """
        self.effective = without(self.effective, parameter, explicit, why, backend=self.name)

    def page_faults(self) -> int:
        """Return which page faults exit: bit *pfec* (low six bits) set means that it does."""
        return EXIT_ALWAYS

    def switch_profile(self, control: Controls) -> SwitchProfile | None:
        """Return the facts, as the two halves give them on a control structure of their own.

        A subclass whose exits or entries depend on what came before returns None.
        """
        del control
        return profile_of(self)

    def nonpresent(self) -> Nonpresent:
        """Return the values of entries that map nothing."""
        return Nonpresent()

    def create_vcpu(self, vcpu_id: int) -> Controls:
        """Return a control structure under which every privileged operation exits."""
        del vcpu_id
        return Controls(self.page_faults(), ~Intercept.NONE)

    # Hardware's half.

    def exit_filter(self, control: Controls) -> int:
        """Return the filter as it stands in the structure."""
        return control.page_faults

    def intercepts(self, control: Controls) -> Intercept:
        """Return which privileged operations exit."""
        return control.intercepts

    def root(self, control: Controls) -> int:
        """Return the host-physical address of the table that hardware walks from."""
        return control.root

    def record_exit(self, control: Controls, registers: Registers, what: VmExit) -> None:
        """Record an exit."""
        del registers
        control.exit = what

    def enter(self, control: Controls, registers: Registers) -> VmEntry:
        """Flush what was asked for, and deliver what was injected, once."""
        del registers
        scope, event = control.flush, control.event
        control.flush = control.event = None
        if event is None:
            return VmEntry(scope, control.gva)
        return VmEntry(scope, control.gva, PAGE_FAULT_VECTOR, event)

    # The hypervisor's half.

    def exit_reason(self, control: Controls) -> str:
        """Return what the exit is called."""
        return self.reasons[type(control.exit)]

    def decode_exit(self, control: Controls, registers: Registers) -> VmExit:
        """Read the exit back."""
        del registers
        if control.exit is None:
            raise InvariantError(f"{self.name} was asked about an exit before there was one")
        return control.exit

    def load_root(self, control: Controls, root: int) -> None:
        """Have hardware walk the table at host-physical *root*."""
        control.root = root

    def inject_page_fault(
        self, control: Controls, registers: Registers, gva: int, pfec: int
    ) -> None:
        """Have the guest take a page fault at its next entry; the entry loads no CR2."""
        registers.cr2 = gva
        control.event = pfec

    def flush_tlb(self, control: Controls, scope: Scope, gva: int) -> None:
        """Have cached translations dropped at the next entry."""
        control.flush, control.gva = widest((control.flush, control.gva), (scope, gva))


class GenericDeprivilegedBackend(GenericBackend):
    """Shadow paging of a guest that hardware runs as user throughout, behind a plain switcher."""

    caps: ClassVar[Caps] = Caps(Paging.SHADOW, deprivileged=True)

    def root(self, control: Controls) -> int:
        """Return the root of the privilege that the guest is at."""
        return control.user_root if control.user else control.root

    def decode_exit(self, control: Controls, registers: Registers) -> VmExit:
        """Read the exit back, a page fault's error code as the guest's privilege has it."""
        what = super().decode_exit(control, registers)
        if not isinstance(what, PageFault):
            return what
        return attrs.evolve(what, pfec=self._of_guest(control, what.pfec))

    def _of_guest(self, control: Controls, pfec: int) -> int:
        return pfec if control.user else pfec & ~pf.U

    def switch_privilege(self, control: Controls, registers: Registers, *, user: bool) -> None:
        """Go from the guest's kernel to its user mode, or back."""
        del registers
        control.user = user

    def deliver_page_fault(
        self, control: Controls, registers: Registers, gva: int, pfec: int
    ) -> int:
        """Enter the guest's kernel with a page fault that does not exit."""
        registers.cr2 = gva
        seen = self._of_guest(control, pfec)
        control.user = False
        return seen

    def load_user_root(self, control: Controls, root: int) -> None:
        """Have hardware walk the table at host-physical *root* while the guest is in user mode."""
        control.user_root = root

    def inject_page_fault(
        self, control: Controls, registers: Registers, gva: int, pfec: int
    ) -> None:
        """Have the guest take a page fault at its next entry, which is into its kernel."""
        super().inject_page_fault(control, registers, gva, pfec)
        control.user = False
