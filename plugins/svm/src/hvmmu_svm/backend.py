"""The SVM backend: the fallback, where every page fault exits.

An exception intercept is one bit per vector, so the hypervisor sees all page faults, and hands the
guest's own back to it. Unbuilt entries need no mark: not present is enough.
"""

from collections.abc import Mapping
from types import MappingProxyType
from typing import ClassVar

import attrs

from hvmmu.arch.regs import CpuFeatures
from hvmmu.backend import (
    API_VERSION,
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
from hvmmu.engine import EXIT_ALWAYS, EXIT_NEVER, FILTER_BITS
from hvmmu.errors import InvariantError
from hvmmu.fault import PageFault
from hvmmu.flush import widest
from hvmmu.spte import Nonpresent
from hvmmu.tlb import Scope
from hvmmu_svm.vmcb import ExitCode, Field, Vmcb

PAGE_FAULT_BIT = 1 << 14
"""The page fault's bit among the exception intercepts."""
INVLPG_BIT, MSR_BIT = 1 << 25, 1 << 28
"""Their bits in the first word of miscellaneous intercepts."""
CR_WRITES = 1 << 0 | 1 << 3 | 1 << 4

EVENT_PAGE_FAULT = 0x8000_0B0E
"""Event injection of #PF: valid, error code valid, exception, vector 14; the code goes above."""

FLUSH_NOTHING, FLUSH_GUEST = 0, 3
"""TLB_CONTROL encodings: leave the TLB alone; flush this guest's entries."""

RAX, RCX, RDX = 0, 1, 2
_LOW = 0xFFFF_FFFF
_MOV_CR = 1 << 63  # decode assist: EXITINFO1 of a MOV to CR has bit 63 set and names the register


@attrs.frozen
class SvmParams:
    """Module parameters: none that matters to shadow paging."""


@attrs.define
class SvmVcpu:
    """A vCPU's VMCB, and the address that INVLPGA is to drop before the next entry."""

    vmcb: Vmcb
    flush: Scope | None = None
    gva: int = 0


class SvmBackend:
    """AMD SVM with shadow paging."""

    name: ClassVar[str] = "svm"
    api_version: ClassVar[int] = API_VERSION
    summary: ClassVar[str] = "AMD SVM: no filter by error code, every page fault exits"
    caps: ClassVar[Caps] = Caps(Paging.SHADOW)
    params: ClassVar[type] = SvmParams
    unsupported: ClassVar[Mapping[str, str]] = MappingProxyType(
        {
            "bypass_guest_pf": "AMD SVM cannot select page faults by error code: an exception"
            " intercept is one bit per vector, so every page fault exits; use it with vmx"
        }
    )
    compare_params: ClassVar[tuple[str, ...]] = ()

    def __init__(self, params: SvmParams, cpu: CpuFeatures, explicit: frozenset[str]) -> None:
        del cpu, explicit
        self.effective = params

    def create_vcpu(self, vcpu_id: int) -> SvmVcpu:
        """Return a VMCB whose intercepts make shadow paging work."""
        vmcb = Vmcb()
        vmcb.write(Field.GUEST_ASID, vcpu_id + 1)
        vmcb.write(Field.INTERCEPT_EXCEPTIONS, PAGE_FAULT_BIT)
        vmcb.write(Field.INTERCEPT_CR_WRITE, CR_WRITES)
        vmcb.write(Field.INTERCEPT_MISC1, INVLPG_BIT | MSR_BIT)
        return SvmVcpu(vmcb)

    def switch_profile(self, control: SvmVcpu) -> SwitchProfile:
        """Return one exit code for every page fault; TLB_CONTROL flushes the whole guest."""
        del control
        whole: dict[Scope | None, Scope | None] = dict.fromkeys(
            (Scope.NON_GLOBAL, Scope.ALL), Scope.ALL
        )
        return SwitchProfile(
            page_faults=(ExitCode.VMEXIT_EXCP14.name,) * FILTER_BITS,
            invlpg=ExitCode.VMEXIT_INVLPG.name,
            flushes={None: None, Scope.PAGE: Scope.PAGE, **whole},
        )

    def nonpresent(self) -> Nonpresent:
        """Return one value for both: nothing could tell them apart."""
        return Nonpresent()

    # Hardware's half.

    def exit_filter(self, control: SvmVcpu) -> int:
        """Return all or nothing: the intercept is one bit."""
        on = control.vmcb.read(Field.INTERCEPT_EXCEPTIONS) & PAGE_FAULT_BIT
        return EXIT_ALWAYS if on else EXIT_NEVER

    def intercepts(self, control: SvmVcpu) -> Intercept:
        """Return what shadow paging must see, as the intercept bits have it."""
        misc, writes = (
            control.vmcb.read(field) for field in (Field.INTERCEPT_MISC1, Field.INTERCEPT_CR_WRITE)
        )
        found = Intercept.NONE
        for bits, bit, operation in (
            (writes, 1 << 0, Intercept.CR0_WRITE),
            (writes, 1 << 3, Intercept.CR3_WRITE),
            (writes, 1 << 4, Intercept.CR4_WRITE),
            (misc, MSR_BIT, Intercept.EFER_WRITE),
            (misc, INVLPG_BIT, Intercept.INVLPG),
        ):
            if bits & bit:
                found |= operation
        return found

    def root(self, control: SvmVcpu) -> int:
        """Return the guest's real CR3."""
        return control.vmcb.read(Field.CR3)

    def record_exit(self, control: SvmVcpu, registers: Registers, what: VmExit) -> None:
        """Fill the exit code and EXITINFO, with decode assists, and save RAX and CR2."""
        write = control.vmcb.write
        match what:
            case PageFault():
                write(Field.EXITCODE, ExitCode.VMEXIT_EXCP14)
                write(Field.EXITINFO1, what.pfec)
                write(Field.EXITINFO2, what.gva)
            case CrWrite():
                registers.gprs[RAX] = what.value
                write(Field.EXITCODE, ExitCode.VMEXIT_CR0_WRITE + what.cr)
                write(Field.EXITINFO1, _MOV_CR | RAX)
            case MsrWrite():
                registers.gprs[RCX] = what.msr
                registers.gprs[RDX], registers.gprs[RAX] = what.value >> 32, what.value & _LOW
                write(Field.EXITCODE, ExitCode.VMEXIT_MSR)
                write(Field.EXITINFO1, 1)
            case Invlpg():
                write(Field.EXITCODE, ExitCode.VMEXIT_INVLPG)
                write(Field.EXITINFO1, what.gva)
        write(Field.RAX, registers.gprs[RAX])
        write(Field.CR2, registers.cr2)

    def enter(self, control: SvmVcpu, registers: Registers) -> VmEntry:
        """Load RAX and CR2, flush as TLB_CONTROL says, and take the injected event."""
        vmcb = control.vmcb
        registers.gprs[RAX] = vmcb.read(Field.RAX)
        registers.cr2 = vmcb.read(Field.CR2)
        scope, gva = control.flush, control.gva
        control.flush = None
        if vmcb.read(Field.TLB_CONTROL) == FLUSH_GUEST:
            scope = Scope.ALL
            vmcb.write(Field.TLB_CONTROL, FLUSH_NOTHING)
        event = vmcb.read(Field.EVENTINJ)
        if not event:
            return VmEntry(scope, gva)
        vmcb.write(Field.EVENTINJ, 0)
        return VmEntry(scope, gva, event & 0xFF, event >> 32)

    # The hypervisor's half.

    def exit_reason(self, control: SvmVcpu) -> str:
        """Return the name of the exit code."""
        return ExitCode(control.vmcb.read(Field.EXITCODE)).name

    def decode_exit(self, control: SvmVcpu, registers: Registers) -> VmExit:
        """Read the exit code and EXITINFO."""
        read = control.vmcb.read
        rax, first = read(Field.RAX), read(Field.EXITINFO1)
        match read(Field.EXITCODE):
            case ExitCode.VMEXIT_EXCP14:
                return PageFault(read(Field.EXITINFO2), first)
            case (
                ExitCode.VMEXIT_CR0_WRITE | ExitCode.VMEXIT_CR3_WRITE | ExitCode.VMEXIT_CR4_WRITE
            ) as code:
                register = first & 0xF
                value = rax if register == RAX else registers.gprs[register]
                return CrWrite(code - ExitCode.VMEXIT_CR0_WRITE, value)
            case ExitCode.VMEXIT_MSR:
                return MsrWrite(registers.gprs[RCX], registers.gprs[RDX] << 32 | rax)
            case ExitCode.VMEXIT_INVLPG:
                return Invlpg(first)
            case code:
                raise InvariantError(f"VMEXIT {code:#x}, which nothing here causes")

    def load_root(self, control: SvmVcpu, root: int) -> None:
        """Point the guest's real CR3 at the shadow root."""
        control.vmcb.write(Field.CR3, root)

    def inject_page_fault(
        self, control: SvmVcpu, registers: Registers, gva: int, pfec: int
    ) -> None:
        """Inject #PF at the next entry, which loads CR2 from the VMCB: the hypervisor writes it."""
        del registers  # CR2 is loaded over them
        control.vmcb.write(Field.CR2, gva)
        control.vmcb.write(Field.EVENTINJ, EVENT_PAGE_FAULT | pfec << 32)

    def flush_tlb(self, control: SvmVcpu, scope: Scope, gva: int) -> None:
        """Drop one address by INVLPGA, or the whole guest by TLB_CONTROL at the next entry."""
        control.flush, control.gva = widest((control.flush, control.gva), (scope, gva))
        if control.flush is not Scope.PAGE:
            control.flush = None
            control.vmcb.write(Field.TLB_CONTROL, FLUSH_GUEST)
