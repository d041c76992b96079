"""The VMX backend: the hypervisor is told only of the page faults it must handle.

Hardware filters page faults by error code, and unbuilt shadow entries have reserved bits set. A
not-present fault can then only be the guest's own, and is left to the guest.
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
from hvmmu.engine import FILTER_BITS
from hvmmu.errors import InvariantError
from hvmmu.fault import PageFault
from hvmmu.flush import widest
from hvmmu.generic import without
from hvmmu.params import param
from hvmmu.spte import Nonpresent
from hvmmu.tlb import Scope
from hvmmu_vmx.filter import PAGE_FAULT_BIT, compile_filter
from hvmmu_vmx.vmcs import ExitReason, Field, Vmcs

TRAP = 0xFFFF_FFFF_FFFF_F001
"""Present, all address bits and NX set: some of them reserved unless MAXPHYADDR is 52 with NX."""

INTR_PAGE_FAULT = 0x8000_0B0E
"""Interruption information of #PF: valid, error code valid, hardware exception, vector 14."""

RAX, RCX, RDX = 0, 1, 2
_LOW = 0xFFFF_FFFF


@attrs.frozen
class VmxParams:
    """Module parameters, after kvm_intel's."""

    bypass_guest_pf: bool = param(
        default=True, doc="deliver the guest's own not-present page faults without an exit"
    )
    vpid: bool = param(
        default=True, doc="tag the TLB by vCPU; without it every exit and entry empties the TLB"
    )


@attrs.define
class VmxVcpu:
    """A vCPU's VMCS, and the invalidation its hypervisor has asked for since the last entry."""

    vmcs: Vmcs
    flush: Scope | None = None
    gva: int = 0


class VmxBackend:
    """Intel VMX with shadow paging."""

    name: ClassVar[str] = "vmx"
    api_version: ClassVar[int] = API_VERSION
    summary: ClassVar[str] = "Intel VMX: page faults filtered by error code"
    caps: ClassVar[Caps] = Caps(Paging.SHADOW, filters_page_faults=True)
    params: ClassVar[type] = VmxParams
    unsupported: ClassVar[Mapping[str, str]] = MappingProxyType({})
    compare_params: ClassVar[tuple[str, ...]] = ("bypass_guest_pf",)

    def __init__(self, params: VmxParams, cpu: CpuFeatures, explicit: frozenset[str]) -> None:
        self.effective = params
        if not params.bypass_guest_pf or reserved_pattern_works(TRAP, cpu):
            return
        reason = (
            f"with MAXPHYADDR {cpu.maxphyaddr} and NX no bit of an entry is reserved, so an unbuilt"
            " shadow entry cannot be told from a mapping"
        )
        self.effective = without(
            params,
            "bypass_guest_pf",
            explicit,
            reason,
            backend=self.name,
            remedy="cpu.maxphyaddr below 52",
        )

    def create_vcpu(self, vcpu_id: int) -> VmxVcpu:
        """Return a VMCS whose controls make shadow paging work, and bypass if it is on."""
        vmcs = Vmcs()
        present_only = pf.P if self.effective.bypass_guest_pf else 0
        vmcs.write(Field.VIRTUAL_PROCESSOR_ID, vcpu_id + 1 if self.effective.vpid else 0)
        vmcs.write(Field.EXCEPTION_BITMAP, PAGE_FAULT_BIT)
        vmcs.write(Field.PAGE_FAULT_ERROR_CODE_MASK, present_only)
        vmcs.write(Field.PAGE_FAULT_ERROR_CODE_MATCH, present_only)
        vmcs.write(Field.CR3_TARGET_COUNT, 0)
        return VmxVcpu(vmcs)

    def switch_profile(self, control: VmxVcpu) -> SwitchProfile:
        """Return one reason for every page fault; an entry without VPID flushes everything."""
        tagged = control.vmcs.read(Field.VIRTUAL_PROCESSOR_ID) != 0
        return SwitchProfile(
            page_faults=(ExitReason.EXCEPTION_NMI.name,) * FILTER_BITS,
            invlpg=ExitReason.INVLPG.name,
            flushes=EACH_AS_ASKED if tagged else dict.fromkeys((None, *Scope), Scope.ALL),
        )

    def nonpresent(self) -> Nonpresent:
        """Return trap and notrap, which differ only while bypass is on."""
        return Nonpresent(trap=TRAP, notrap=0) if self.effective.bypass_guest_pf else Nonpresent()

    # Hardware's half.

    def exit_filter(self, control: VmxVcpu) -> int:
        """Compile mask, match and bitmap into the table hardware obeys."""
        read = control.vmcs.read
        return compile_filter(
            read(Field.PAGE_FAULT_ERROR_CODE_MASK),
            read(Field.PAGE_FAULT_ERROR_CODE_MATCH),
            read(Field.EXCEPTION_BITMAP),
        )

    def intercepts(self, control: VmxVcpu) -> Intercept:  # noqa: ARG002 - the same on every vCPU
        """Return what shadow paging must see: every CR write, EFER and INVLPG."""
        return ~Intercept.NONE

    def root(self, control: VmxVcpu) -> int:
        """Return the guest's real CR3."""
        return control.vmcs.read(Field.GUEST_CR3)

    def record_exit(self, control: VmxVcpu, registers: Registers, what: VmExit) -> None:
        """Fill the exit-information fields: SDM "VM-Exit Information Fields"."""
        write = control.vmcs.write
        match what:
            case PageFault():
                write(Field.VM_EXIT_REASON, ExitReason.EXCEPTION_NMI)
                write(Field.VM_EXIT_INTR_INFO, INTR_PAGE_FAULT)
                write(Field.VM_EXIT_INTR_ERROR_CODE, what.pfec)
                write(Field.EXIT_QUALIFICATION, what.gva)
            case CrWrite():
                registers.gprs[RAX] = what.value
                write(Field.VM_EXIT_REASON, ExitReason.CR_ACCESS)
                write(Field.EXIT_QUALIFICATION, what.cr | RAX << 8)
            case MsrWrite():
                registers.gprs[RCX] = what.msr
                registers.gprs[RDX], registers.gprs[RAX] = what.value >> 32, what.value & _LOW
                write(Field.VM_EXIT_REASON, ExitReason.MSR_WRITE)
            case Invlpg():
                write(Field.VM_EXIT_REASON, ExitReason.INVLPG)
                write(Field.EXIT_QUALIFICATION, what.gva)

    def enter(self, control: VmxVcpu, registers: Registers) -> VmEntry:
        """Invalidate what was asked for, everything without VPID, and take the injected event."""
        del registers  # what they hold is in the CPU already
        scope, gva = control.flush, control.gva
        control.flush = None
        if not control.vmcs.read(Field.VIRTUAL_PROCESSOR_ID):
            scope = Scope.ALL
        event = control.vmcs.read(Field.VM_ENTRY_INTR_INFO)
        if not event:
            return VmEntry(scope, gva)
        control.vmcs.write(Field.VM_ENTRY_INTR_INFO, 0)
        code = control.vmcs.read(Field.VM_ENTRY_EXCEPTION_ERROR_CODE)
        return VmEntry(scope, gva, event & 0xFF, code)

    # The hypervisor's half.

    def exit_reason(self, control: VmxVcpu) -> str:
        """Return the name of the basic exit reason."""
        return ExitReason(control.vmcs.read(Field.VM_EXIT_REASON)).name

    def decode_exit(self, control: VmxVcpu, registers: Registers) -> VmExit:
        """Read the exit-information fields."""
        read = control.vmcs.read
        qualification = read(Field.EXIT_QUALIFICATION)
        match read(Field.VM_EXIT_REASON):
            case ExitReason.EXCEPTION_NMI if read(Field.VM_EXIT_INTR_INFO) == INTR_PAGE_FAULT:
                return PageFault(qualification, read(Field.VM_EXIT_INTR_ERROR_CODE))
            case ExitReason.CR_ACCESS:
                return CrWrite(qualification & 0xF, registers.gprs[qualification >> 8 & 0xF])
            case ExitReason.MSR_WRITE:
                value = registers.gprs[RDX] << 32 | registers.gprs[RAX]
                return MsrWrite(registers.gprs[RCX], value)
            case ExitReason.INVLPG:
                return Invlpg(qualification)
            case reason:
                raise InvariantError(f"VM exit with reason {reason}, which nothing here causes")

    def load_root(self, control: VmxVcpu, root: int) -> None:
        """Point the guest's real CR3 at the shadow root."""
        control.vmcs.write(Field.GUEST_CR3, root)

    def inject_page_fault(
        self, control: VmxVcpu, registers: Registers, gva: int, pfec: int
    ) -> None:
        """Inject #PF at the next entry, which loads no CR2: the hypervisor does."""
        registers.cr2 = gva
        control.vmcs.write(Field.VM_ENTRY_INTR_INFO, INTR_PAGE_FAULT)
        control.vmcs.write(Field.VM_ENTRY_EXCEPTION_ERROR_CODE, pfec)

    def flush_tlb(self, control: VmxVcpu, scope: Scope, gva: int) -> None:
        """Invalidate by INVVPID, before the next entry."""
        control.flush, control.gva = widest((control.flush, control.gva), (scope, gva))
