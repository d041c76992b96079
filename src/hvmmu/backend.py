"""What a vendor backend is to the core: data, and two halves that meet in its control structure.

Hardware's half writes an exit as silicon would and obeys the controls; the hypervisor's half reads
that exit and writes the controls. Only what stands in the control structure, or in the registers
that the vendor leaves in the CPU, gets from one half to the other.
"""

import enum
from collections.abc import Mapping
from types import MappingProxyType
from typing import Any, ClassVar, Generic, Protocol, TypeVar

from attrs import frozen

from hvmmu.arch.regs import CpuFeatures
from hvmmu.fault import PageFault
from hvmmu.spte import Nonpresent
from hvmmu.tlb import Scope

API_VERSION = 1
"""The version of this interface; a backend says which one it was written for."""

PAGE_FAULT_VECTOR = 14


@frozen
class CrWrite:
    """A MOV to a control register."""

    cr: int
    value: int


@frozen
class MsrWrite:
    """A WRMSR."""

    msr: int
    value: int


@frozen
class Invlpg:
    """An INVLPG of one linear address."""

    gva: int


VmExit = PageFault | CrWrite | MsrWrite | Invlpg
"""Why the guest stopped, in nobody's dialect."""


class Intercept(enum.Flag):
    """Privileged operations that exit."""

    NONE = 0
    CR0_WRITE = enum.auto()
    CR3_WRITE = enum.auto()
    CR4_WRITE = enum.auto()
    EFER_WRITE = enum.auto()
    INVLPG = enum.auto()


class Paging(enum.Enum):
    """What stands between the guest's tables and hardware."""

    BARE = "none"
    """Nothing: hardware walks the guest's tables."""
    SHADOW = "shadow"
    """Tables that the hypervisor derives from the guest's."""


@frozen(eq=False)
class Caps:
    """What a backend can do, as data."""

    paging: Paging
    filters_page_faults: bool = False
    """Hardware can choose by error code which page faults exit."""
    deprivileged: bool = False
    """The guest's kernel runs in user mode like its programs: each has a shadow root of its own."""


@frozen
class SwitchProfile:
    """The facts of a world switch where no state of the control structure plays a part.

    A page fault's exit and entry then need not go through the control structure one by one: C takes
    them by these facts. A backend whose exits or entries depend on more has no profile.
    """

    page_faults: tuple[str, ...]
    """The exit reason of a page fault, by the low six bits of hardware's error code: 64 names."""
    invlpg: str
    """The exit reason of INVLPG."""
    flushes: Mapping[Scope | None, Scope | None]
    """The scope that an entry flushes, by the widest scope that was asked for since the exit."""


EACH_AS_ASKED: Mapping[Scope | None, Scope | None] = MappingProxyType(
    {None: None, **{scope: scope for scope in Scope}}
)
"""An entry flushes exactly what was asked for."""


@frozen
class VmEntry:
    """What hardware does on entering the guest."""

    flush: Scope | None = None
    gva: int = 0
    """The address to flush, for one page."""
    vector: int | None = None
    """The exception that the hypervisor asked to be delivered."""
    error_code: int = 0


class Registers(Protocol):
    """Guest registers that may still be in the CPU when the hypervisor runs."""

    cr2: int
    gprs: list[int]


C = TypeVar("C")


class Backend(Protocol, Generic[C]):
    """One vendor; *C* is its control structure with whatever else its hypervisor keeps per vCPU.

    A backend is made from its module parameters, the CPU model, and the names of the parameters
    that somebody set. Where the CPU cannot do what a parameter asks, the constructor raises
    BackendUnavailableError if it was set, and otherwise turns it off and logs why.
    """

    name: ClassVar[str]
    api_version: ClassVar[int]
    summary: ClassVar[str]
    """One line for people."""
    caps: ClassVar[Caps]
    params: ClassVar[type]
    """The attrs class of its module parameters."""
    unsupported: ClassVar[Mapping[str, str]]
    """Parameters that users will look for and this vendor cannot have, with the reason."""
    compare_params: ClassVar[tuple[str, ...]]
    """Boolean parameters that a comparison shows off and on."""

    effective: Any
    """The parameters as they are in force, an instance of *params*."""

    def __init__(self, params: Any, cpu: CpuFeatures, explicit: frozenset[str]) -> None: ...  # noqa: ANN401

    def create_vcpu(self, vcpu_id: int) -> C:
        """Return the control structure of vCPU *vcpu_id*, from 0 up, with its controls written.

        Called once for each vCPU, before anything else is asked about it.
        """
        ...

    def switch_profile(self, control: C) -> SwitchProfile | None:
        """Return the facts of a page fault's exit and entry, or None if *control* decides them.

        Called once for each vCPU. The conformance kit holds the profile against `record_exit`,
        `exit_reason`, `inject_page_fault`, `flush_tlb` and `enter` at random.
        """
        ...

    def nonpresent(self) -> Nonpresent:
        """Return the two values of shadow entries that map nothing, as 64-bit entries.

        Called once for each machine. Trap must fault whatever the access; where a not-present fault
        does not exit, trap must fault with P in the error code.
        """
        ...

    # Hardware's half: what silicon does with the control structure.

    def exit_filter(self, control: C) -> int:
        """Return which page faults exit, as the controls say it: a 64-bit number.

        Bit *pfec* (an error code's low six bits) set means that this page fault exits; another one
        goes straight to the guest. Called once for each vCPU: the controls it reads stay as they
        were created.
        """
        ...

    def intercepts(self, control: C) -> Intercept:
        """Return which privileged operations exit, as the controls say it; called like the filter.

        Shadow paging must see every one of them.
        """
        ...

    def root(self, control: C) -> int:
        """Return the host-physical address (in bytes) of the table that hardware walks from.

        Called after each `load_root`.
        """
        ...

    def record_exit(self, control: C, registers: Registers, what: VmExit) -> None:
        """Record an exit as silicon does, in the control structure and nowhere else.

        General-purpose registers that the exit's reader will look into are set in *registers*, as
        the guest's instruction would have left them.
        """
        ...

    def enter(self, control: C, registers: Registers) -> VmEntry:
        """Enter the guest: load what the structure holds, and say what else happens on the way.

        Flush and injected event are the structure's, and are used up by this.
        """
        ...

    # The hypervisor's half: what its code reads and writes.

    def exit_reason(self, control: C) -> str:
        """Return the vendor's own name for why the guest exited: the name exits are counted by."""
        ...

    def decode_exit(self, control: C, registers: Registers) -> VmExit:
        """Read the last exit back, equal to what was recorded.

        Raise InvariantError for an exit that the hypervisor does not expect.
        """
        ...

    def load_root(self, control: C, root: int) -> None:
        """Have hardware walk the table at host-physical *root* (in bytes, a multiple of 4096)."""
        ...

    def inject_page_fault(self, control: C, registers: Registers, gva: int, pfec: int) -> None:
        """Have the guest take a page fault, once, at its next entry.

        *gva* must be in CR2 when the guest's handler runs: injection by itself loads no CR2.
        *pfec* is the guest's error code, which goes to it unchanged.
        """
        ...

    def flush_tlb(self, control: C, scope: Scope, gva: int) -> None:
        """Have cached translations dropped by the next entry, besides those already asked for.

        *gva* is read for one page only.
        """
        ...


class DeprivilegedBackend(Backend[C], Protocol):
    """A backend whose caps say *deprivileged*: hardware runs all of the guest as user.

    A switcher, which belongs to hardware's half here, takes the guest from one privilege to the
    other. `root` returns the root of the privilege that the control structure says, which at first
    is the kernel's; `load_root` sets the kernel's. Hardware's error codes always have U set:
    `decode_exit` and `deliver_page_fault` put the guest's own privilege back. A page fault that is
    injected leaves the guest in its kernel.
    """

    # The switcher: what happens without an exit.

    def switch_privilege(self, control: C, registers: Registers, *, user: bool) -> None:
        """Go from the guest's kernel to its user mode, or back, as for a system call."""
        ...

    def deliver_page_fault(self, control: C, registers: Registers, gva: int, pfec: int) -> int:
        """Enter the guest's kernel with a page fault that does not exit.

        *pfec* is hardware's error code. Return the guest's, with the address in CR2.
        """
        ...

    # The hypervisor's half.

    def load_user_root(self, control: C, root: int) -> None:
        """Have hardware walk the table at host-physical *root* while the guest is in user mode."""
        ...
