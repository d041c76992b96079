"""PVM's structures: what guest, switcher and hypervisor know of a vCPU, and where they keep it.

Names and numbers are those of the PVM specification (`pvm-spec.rst`) and of the patched kernel's
headers `asm/switcher.h`, `asm/pvm_para.h` and `pvm_trace.h` (github.com/virt-pvm/linux).
"""

import enum

import attrs

from hvmmu.arch import pfec as pf
from hvmmu.backend import Registers
from hvmmu.tlb import Scope

PF_VECTOR, GP_VECTOR = 14, 13
SYSCALL_VECTOR = 1024
"""SWITCH_EXIT_REASONS_SYSCALL: a SYSCALL that the switcher took to the hypervisor."""

EVENT_VECTOR_STD = 1 << 8
"""In PVCS::event_vector: an event is being delivered, its vector in the low bits."""

LOAD_PGTBL_FLAGS_TLB = 1 << 0
"""Of LOAD_PGTBL: flush what the TLB holds of the tables loaded."""


RAX, RBX, R10 = 0, 3, 10
"""A hypercall's number, and its two arguments."""


class SwitchFlags(enum.IntFlag):
    """What the switcher goes by: which mode the guest is in, and what it may do by itself."""

    SMOD = 1 << 0
    """The guest's supervisor mode."""
    UMOD = 1 << 1
    """The guest's user mode; exactly one of the two is set."""
    DS_GUEST_PF = 1 << 63
    """Not in PVM: page faults on entries that the guest left absent are switched directly."""


MOD_TOGGLE = SwitchFlags.SMOD | SwitchFlags.UMOD


class Hypercall(enum.IntEnum):
    """Hypercalls in use, by their number in RAX."""

    LOAD_PGTBL = 0x1708_8200
    TLB_INVLPG = 0x1708_8205
    WRMSR = 0x1708_8208


class ExitReason(enum.IntEnum):
    """Exits as PVM reports them to tracing: an exception by its vector, a hypercall by itself."""

    GP_VECTOR = GP_VECTOR
    """A privileged instruction, which the hypervisor emulates."""
    PF_VECTOR = PF_VECTOR
    HC_LOAD_PGTBL = (2 << 16) + 3
    HC_TLB_INVLPG = (2 << 16) + 6
    HC_WRMSR = (2 << 16) + 9


HYPERCALL_REASONS = {
    Hypercall.LOAD_PGTBL: ExitReason.HC_LOAD_PGTBL,
    Hypercall.TLB_INVLPG: ExitReason.HC_TLB_INVLPG,
    Hypercall.WRMSR: ExitReason.HC_WRMSR,
}


@attrs.define
class Pvcs:
    """The page that the guest shares with switcher and hypervisor: struct pvm_vcpu_struct."""

    event_vector: int = 0
    event_errcode: int = 0
    cr2: int = 0

    def put_page_fault(self, gva: int, pfec: int) -> None:
        """Leave a page fault for the guest's kernel."""
        self.event_vector, self.event_errcode = EVENT_VECTOR_STD | PF_VECTOR, pfec
        self.cr2 = gva

    def take_event(self) -> tuple[int, int]:
        """Do as the guest's kernel does at its entry: return vector and error code, and clear."""
        vector, self.event_vector = self.event_vector & 0xFF, 0
        return vector, self.event_errcode


@attrs.define
class TssExtra:
    """What the switcher finds beside the CPU's TSS: struct tss_extra."""

    switch_flags: SwitchFlags
    smod_cr3: int = 0
    """The root that hardware walks while the guest is in its kernel."""
    umod_cr3: int = 0
    """The root that hardware walks while the guest is in user mode."""

    @property
    def is_smod(self) -> bool:
        """Say whether the guest is in its kernel."""
        return bool(self.switch_flags & SwitchFlags.SMOD)

    def toggle_mod(self) -> None:
        """Change the mode."""
        self.switch_flags ^= MOD_TOGGLE


@attrs.define
class PvmVcpu:
    """A vCPU: what is shared with guest and switcher, the last exit, and the flush asked for."""

    tss: TssExtra
    pvcs: Pvcs = attrs.field(factory=Pvcs)
    exit_vector: int = 0
    exit_error_code: int = 0
    exit_cr2: int = 0
    emulated_cr: int = 0
    """The control register that the instruction at RIP writes, which the hypervisor decodes."""
    pt_regs: list[int] = attrs.field(factory=lambda: [0] * 16)
    """The guest's registers, which the switcher saved for the hypervisor."""
    flush: Scope | None = None
    gva: int = 0

    @property
    def reason(self) -> ExitReason:
        """The last exit's reason; hypercalls are told apart by their number."""
        if self.exit_vector == SYSCALL_VECTOR:
            return HYPERCALL_REASONS[Hypercall(self.pt_regs[RAX])]
        return ExitReason(self.exit_vector)

    def as_guest_sees(self, pfec: int) -> int:
        """Return hardware's error code, where U is always set, as the guest's mode has it."""
        return pfec & ~pf.U if self.tss.is_smod else pfec

    def put_page_fault(self, gva: int, pfec: int) -> None:
        """Leave a page fault in PVCS, and the guest in its kernel."""
        self.pvcs.put_page_fault(gva, pfec)
        if not self.tss.is_smod:
            self.tss.toggle_mod()

    def take_event(self, registers: Registers) -> tuple[int, int]:
        """Have the guest's kernel read the event; its address is PVCS::cr2, whatever CR2 holds."""
        registers.cr2 = self.pvcs.cr2
        return self.pvcs.take_event()
