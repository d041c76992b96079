"""The PVM backend: no help from hardware, and a switcher that saves most of the way.

Hardware runs the guest as user throughout. Whatever traps ends in the switcher, which either goes
between the guest's user mode and its kernel by itself, a direct switch, or over to the hypervisor.
"""

from collections.abc import Mapping
from types import MappingProxyType
from typing import ClassVar

import attrs

from hvmmu.arch import pfec as pf
from hvmmu.arch.paging import reserved_pattern_works
from hvmmu.arch.regs import CpuFeatures
from hvmmu.backend import (
    API_VERSION,
    EACH_AS_ASKED,
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
from hvmmu.engine import EXIT_ALWAYS, FILTER_BITS
from hvmmu.errors import InvariantError
from hvmmu.fault import PageFault
from hvmmu.flush import widest
from hvmmu.generic import without
from hvmmu.params import param
from hvmmu.spte import Nonpresent
from hvmmu.tlb import Scope
from hvmmu_pvm.structures import (
    GP_VECTOR,
    LOAD_PGTBL_FLAGS_TLB,
    PF_VECTOR,
    R10,
    RAX,
    RBX,
    SYSCALL_VECTOR,
    ExitReason,
    Hypercall,
    PvmVcpu,
    SwitchFlags,
    TssExtra,
)

TRAP = 0xFFFF_FFFF_FFFF_F001
"""Present, all address bits and NX set: some of them reserved unless MAXPHYADDR is 52 with NX."""

PRESENT = sum(1 << pfec for pfec in range(FILTER_BITS) if pfec & pf.P)
"""The page faults that the filter takes to the hypervisor: those on a present entry."""


@attrs.frozen
class PvmParams:
    """Module parameters; PVM as published has neither."""

    switcher_filter: bool = param(
        default=False,
        doc="have the switcher hand the guest's own not-present page faults straight to its kernel",
    )


class PvmBackend:
    """A guest in user mode, its kernel too, with a shadow root for each of its modes."""

    name: ClassVar[str] = "pvm"
    api_version: ClassVar[int] = API_VERSION
    summary: ClassVar[str] = "PVM: the guest's kernel in user mode, behind a switcher"
    caps: ClassVar[Caps] = Caps(Paging.SHADOW, filters_page_faults=True, deprivileged=True)
    params: ClassVar[type] = PvmParams
    unsupported: ClassVar[Mapping[str, str]] = MappingProxyType(
        {
            "bypass_guest_pf": "PVM has no hardware that filters page faults; its switcher may:"
            " set pvm.switcher_filter"
        }
    )
    compare_params: ClassVar[tuple[str, ...]] = ("switcher_filter",)

    def __init__(self, params: PvmParams, cpu: CpuFeatures, explicit: frozenset[str]) -> None:
        self.effective = params
        if not params.switcher_filter or reserved_pattern_works(TRAP, cpu):
            return
        reason = (
            f"with MAXPHYADDR {cpu.maxphyaddr} and NX no bit of an entry is reserved, so an unbuilt"
            " shadow entry cannot be told from a mapping"
        )
        self.effective = without(
            params,
            "switcher_filter",
            explicit,
            reason,
            backend=self.name,
            remedy="cpu.maxphyaddr below 52",
        )

    def create_vcpu(self, vcpu_id: int) -> PvmVcpu:
        """Return a vCPU that starts in its kernel."""
        del vcpu_id
        flags = SwitchFlags.SMOD
        if self.effective.switcher_filter:
            flags |= SwitchFlags.DS_GUEST_PF
        return PvmVcpu(TssExtra(flags))

    def switch_profile(self, control: PvmVcpu) -> SwitchProfile:
        """Return the vector of every page fault, and the hypercall that INVLPG is."""
        del control
        return SwitchProfile(
            page_faults=(ExitReason.PF_VECTOR.name,) * FILTER_BITS,
            invlpg=ExitReason.HC_TLB_INVLPG.name,
            flushes=EACH_AS_ASKED,
        )

    def nonpresent(self) -> Nonpresent:
        """Return trap and notrap, which differ only while the switcher can make use of it."""
        return Nonpresent(trap=TRAP) if self.effective.switcher_filter else Nonpresent()

    # Hardware's half: the switcher.

    def exit_filter(self, control: PvmVcpu) -> int:
        """Return which page faults the switcher takes to the hypervisor: all, or those with P."""
        filters = control.tss.switch_flags & SwitchFlags.DS_GUEST_PF
        return PRESENT if filters else EXIT_ALWAYS

    def intercepts(self, control: PvmVcpu) -> Intercept:
        """Return all of them: nothing privileged can be done in user mode."""
        del control
        return ~Intercept.NONE

    def root(self, control: PvmVcpu) -> int:
        """Return the root of the mode that the guest is in."""
        return control.tss.smod_cr3 if control.tss.is_smod else control.tss.umod_cr3

    def record_exit(self, control: PvmVcpu, registers: Registers, what: VmExit) -> None:
        """Go to the hypervisor with the exception, or with the kernel's hypercall."""
        gprs = registers.gprs
        match what:
            case PageFault():
                control.exit_vector, control.exit_error_code = PF_VECTOR, what.pfec
                control.exit_cr2 = what.gva
            case CrWrite(cr=3):
                gprs[RAX], gprs[RBX] = Hypercall.LOAD_PGTBL, LOAD_PGTBL_FLAGS_TLB
                control.exit_vector, gprs[R10] = SYSCALL_VECTOR, what.value
            case CrWrite():
                control.exit_vector, control.exit_error_code = GP_VECTOR, 0
                control.emulated_cr, gprs[RAX] = what.cr, what.value
            case MsrWrite():
                gprs[RAX], gprs[RBX], gprs[R10] = Hypercall.WRMSR, what.msr, what.value
                control.exit_vector = SYSCALL_VECTOR
            case Invlpg():
                gprs[RAX], gprs[RBX] = Hypercall.TLB_INVLPG, what.gva
                control.exit_vector = SYSCALL_VECTOR
        control.pt_regs[:] = gprs

    def enter(self, control: PvmVcpu, registers: Registers) -> VmEntry:
        """Enter the guest, with the event that PVCS holds, if any."""
        scope, gva = control.flush, control.gva
        control.flush = None
        if not control.pvcs.event_vector:
            return VmEntry(scope, gva)
        vector, code = control.take_event(registers)
        return VmEntry(scope, gva, vector, code)

    def switch_privilege(self, control: PvmVcpu, registers: Registers, *, user: bool) -> None:
        """Switch directly, as for SYSCALL in user mode and EVENT_RETURN_USER in the kernel."""
        del registers
        if user is not control.tss.is_smod:
            raise InvariantError("the guest was to be switched to the mode that it is in")
        control.tss.toggle_mod()

    def deliver_page_fault(
        self, control: PvmVcpu, registers: Registers, gva: int, pfec: int
    ) -> int:
        """Switch directly to the guest's kernel with its own page fault."""
        control.put_page_fault(gva, control.as_guest_sees(pfec))
        return control.take_event(registers)[1]

    # The hypervisor's half.

    def exit_reason(self, control: PvmVcpu) -> str:
        """Return what PVM calls the exit."""
        return control.reason.name

    def decode_exit(self, control: PvmVcpu, registers: Registers) -> VmExit:
        """Read exception or hypercall, a page fault's error code as the guest's mode has it."""
        del registers  # the switcher has saved them
        regs = control.pt_regs
        match control.reason:
            case ExitReason.PF_VECTOR:
                return PageFault(control.exit_cr2, control.as_guest_sees(control.exit_error_code))
            case ExitReason.GP_VECTOR:
                return CrWrite(control.emulated_cr, regs[RAX])
            case ExitReason.HC_LOAD_PGTBL:
                return CrWrite(3, regs[R10])
            case ExitReason.HC_WRMSR:
                return MsrWrite(regs[RBX], regs[R10])
            case ExitReason.HC_TLB_INVLPG:
                return Invlpg(regs[RBX])

    def load_root(self, control: PvmVcpu, root: int) -> None:
        """Set the root of the guest's kernel."""
        control.tss.smod_cr3 = root

    def load_user_root(self, control: PvmVcpu, root: int) -> None:
        """Set the root of the guest's user mode."""
        control.tss.umod_cr3 = root

    def inject_page_fault(
        self, control: PvmVcpu, registers: Registers, gva: int, pfec: int
    ) -> None:
        """Leave the event in PVCS, and the guest in its kernel, for the next entry."""
        del registers  # CR2 stays the host's: the guest reads PVCS
        control.put_page_fault(gva, pfec)

    def flush_tlb(self, control: PvmVcpu, scope: Scope, gva: int) -> None:
        """Flush before the next entry."""
        control.flush, control.gva = widest((control.flush, control.gva), (scope, gva))
