"""One vCPU: what the guest may do, and who must handle each stop.

The guest sees registers, memory and faults, and nothing of the rest. A fault reaches it either
straight from hardware or by injection, through the same entry.
"""

import enum
from array import array
from functools import partial
from typing import TYPE_CHECKING, Any, Protocol

import attrs

from hvmmu._attempts import Attempts, Operand
from hvmmu._control_registers import flushed, missing_bits
from hvmmu._hooks import RunHooks
from hvmmu._stretches import Stretches
from hvmmu._switch import WorldSwitch
from hvmmu.arch import pfec as pf
from hvmmu.arch.regs import CpuFeatures, Regs
from hvmmu.backend import (
    PAGE_FAULT_VECTOR,
    Backend,
    CrWrite,
    Intercept,
    Invlpg,
    MsrWrite,
)
from hvmmu.engine import NO_TRANSLATION, Engine, Event, HwThread
from hvmmu.errors import InputError, InvariantError
from hvmmu.fault import Cause, FaultOutcome, PageFault, Route, guest_fault_cause
from hvmmu.flush import Flush
from hvmmu.ledger import Ledger
from hvmmu.memory import Memory, Memslots
from hvmmu.mmu import Mmu
from hvmmu.tlb import Scope
from hvmmu.types import PAGE_SIZE, Buffer

if TYPE_CHECKING:
    from collections.abc import Callable

IA32_EFER = 0xC000_0080
_NAMES = {"cr0": "CR0", "cr3": "CR3", "cr4": "CR4", "efer": "IA32_EFER"}
_INTERCEPTS = {
    "cr0": Intercept.CR0_WRITE,
    "cr3": Intercept.CR3_WRITE,
    "cr4": Intercept.CR4_WRITE,
    "efer": Intercept.EFER_WRITE,
}


class Resume(enum.Enum):
    """What a guest's fault handler returns to."""

    RETRY = "retry"
    SKIP = "skip"
    """The next access: the guest moved its instruction pointer on."""


class Behind(Protocol):
    """Whoever handles stops elsewhere, and is asked before anybody looks at what that changes."""

    def catch_up(self) -> None:
        """Bring ledger and core up to date."""
        ...

    def act_out(self) -> None:
        """Bring the control structure up to date too."""
        ...


class Vcpu:
    """A vCPU over one engine, one backend and one MMU."""

    def __init__(
        self,
        *,
        core: HwThread,
        engine: Engine,
        backend: Backend[Any],
        mmu: Mmu,
        memory: Memory,
        slots: Memslots,
        hooks: RunHooks | None = None,
    ) -> None:
        self._hooks = hooks or RunHooks()
        self._core, self.engine, self.backend, self.mmu = core, engine, backend, mmu
        self.memory, self.slots = memory, slots
        self._ledger = Ledger()
        self._switch = WorldSwitch(core, engine, backend, self._ledger)
        self.behind: Behind | None = None
        """Who is behind with telling, while a plugin is called in the middle of a stop."""
        if self._hooks.handle_exit is not None:
            self.switch.on_exit = partial(self._hooks.handle_exit, vcpu=self)
        deprivileged = self.switch.user is not None
        runner = Stretches(engine, self.switch) if deprivileged else engine
        self.attempts = Attempts(core, runner, self.stopped)
        self.page_fault: Callable[[int], Resume] = _no_handler
        """The guest's page-fault handler: takes the error code, finds the address in cr2."""
        self.general_protection: Callable[[int], Resume] = _no_canonical
        """The guest's handler for non-canonical addresses: takes the address."""
        self.regs = Regs()
        """The guest's own view of its registers."""

    # What there is of it.

    @property
    def core(self) -> HwThread:
        """The hardware thread."""
        if self.behind is not None:
            self.behind.catch_up()
        return self._core

    @property
    def ledger(self) -> Ledger:
        """What was counted so far."""
        if self.behind is not None:
            self.behind.catch_up()
        return self._ledger

    @property
    def switch(self) -> WorldSwitch:
        """The world switch, with the control structure in it."""
        if self.behind is not None:
            self.behind.act_out()
        return self._switch

    # What the guest sees of itself.

    @property
    def cpu(self) -> CpuFeatures:
        """The CPU model, as CPUID reports it."""
        return self._core.cpu

    @property
    def guest_memory(self) -> int:
        """Bytes of guest RAM, from gpa 0 up."""
        return self.slots.slots[0].size

    @property
    def cr0(self) -> int:
        """CR0 as the guest reads it."""
        return self.regs.cr0

    @property
    def cr2(self) -> int:
        """The linear address of the last page fault the guest took."""
        return self.core.cr2

    @property
    def cr3(self) -> int:
        """CR3 as the guest reads it."""
        return self.regs.cr3

    @property
    def cr4(self) -> int:
        """CR4 as the guest reads it."""
        return self.regs.cr4

    @property
    def efer(self) -> int:
        """IA32_EFER as the guest reads it."""
        return self.regs.efer

    # Memory.

    def boot_store(self, gpa: int, value: int) -> None:
        """Write 8 bytes of guest-physical memory as a boot loader does before paging is on."""
        self.slots.store(gpa, value, 8)

    def boot_fill(self, table: int, entries: Buffer) -> None:
        """Write *entries* (format Q) from the start of *table* on, as a boot loader does."""
        self.slots.fill(table, entries)

    def peek(self, gpa: int) -> int:
        """Return 8 bytes of guest-physical memory with no access made, as a debugger does."""
        return self.slots.load(gpa, 8)

    def run(self, gva: Buffer, kind: Buffer, translated: Buffer | None = None) -> None:
        """Run accesses in order; faults go to their handlers, then the access is tried again.

        *gva* holds 64-bit addresses (format Q), *kind* one byte each (format B), equally many.
        *translated* (format Q) takes the guest-physical address of each access, NO_TRANSLATION for
        those that the guest's handler skipped.
        """
        vas = memoryview(gva)
        hosts = None if translated is None else array("Q", [NO_TRANSLATION]) * len(vas)
        self.ledger.accesses += len(vas)
        finished = self.attempts.run_on(gva, kind, 0, hosts)
        if translated is not None and hosts is not None:
            out = memoryview(translated)
            for i, hpa in enumerate(hosts):
                out[i] = finished[i] if i in finished else self.slots.gpa(hpa)

    def load(self, gva: int, size: int = 8) -> int:
        """Return *size* bytes (1, 2, 4, 8) at the naturally aligned *gva*, read as a supervisor.

        All ones come from where no memory is, or where the guest's handler skipped the access.
        """
        self.ledger.accesses += 1
        hpa = self.attempts.single(gva, pf.READ, size)
        return (1 << (8 * size)) - 1 if hpa == NO_TRANSLATION else self.memory.load(hpa, size)

    def store(self, gva: int, value: int, size: int = 8) -> None:
        """Write *size* bytes (1, 2, 4, 8) at the naturally aligned *gva* as a supervisor."""
        self.ledger.accesses += 1
        hpa = self.attempts.single(gva, pf.WRITE, size, value)
        if hpa != NO_TRANSLATION:
            self.memory.store(hpa, value, size)

    def clear_page(self, gva: int) -> None:
        """Zero a 4 KiB page as REP STOSQ does: one access where one translation does."""
        self._fill_page(gva, None)

    def copy_page(self, gva: int, source: int) -> None:
        """Copy the 4 KiB page at *source* to *gva* as REP MOVSQ does."""
        self.ledger.accesses += 1
        hpa = self.attempts.single(source, pf.READ, 8)
        if hpa == NO_TRANSLATION:
            raise InvariantError(f"the guest copies a page from {source:#x}, where nothing is")
        self._fill_page(gva, hpa)

    def _fill_page(self, gva: int, source: int | None) -> None:
        self.ledger.accesses += 1  # the guest's one, in however many pieces it is carried out
        done = 0
        while done < PAGE_SIZE:
            value = 0 if source is None else self.memory.load(source + done)
            hpa = self.attempts.single(gva + done, pf.WRITE, 8, value)
            if hpa == NO_TRANSLATION:  # this iteration was emulated; the instruction goes on
                done += 8
            elif source is None:
                return self.memory.clear(hpa, PAGE_SIZE - done)
            else:
                return self.memory.copy(hpa, source + done, PAGE_SIZE - done)
        return None

    # Privileged operations.

    def invlpg(self, gva: int) -> None:
        """Drop cached translations of one address."""
        self.ledger.invlpg += 1
        self.switch.be(user=False)
        exits = Intercept.INVLPG in self.switch.intercepts
        if exits:
            gva = self.switch.leave(Invlpg(gva)).gva
        self.switch.perform(self.mmu.invlpg(gva))
        if exits:
            self.switch.enter()

    def write_cr0(self, value: int) -> None:
        """Set CR0: PE, WP and PG."""
        self._write("cr0", value)

    def write_cr3(self, value: int) -> None:
        """Set CR3: the guest-physical address of the root table."""
        self._write("cr3", value)
        self.ledger.cr3_loads += 1

    def write_cr4(self, value: int) -> None:
        """Set CR4: the bits that the CPU model offers."""
        self._write("cr4", value)

    def write_efer(self, value: int) -> None:
        """Set IA32_EFER: LME, LMA and NXE. Flushes nothing: that is left to the guest."""
        self._write("efer", value)

    def write_pkru(self, value: int) -> None:
        """Set PKRU, which no vendor intercepts."""
        self._load_guest(attrs.evolve(self.regs, pkru=value), None)

    def write_rflags_ac(self, value: int) -> None:
        """Set or clear EFLAGS.AC as STAC and CLAC do, which no vendor intercepts."""
        self._load_guest(attrs.evolve(self.regs, rflags_ac=value), None)

    def _write(self, register: str, value: int) -> None:
        """Write a control register or IA32_EFER; raise InputError for bits it does not have."""
        missing = missing_bits(register, value, self.cpu)
        if missing:
            raise InputError(
                f"the guest set bits {missing:#x} of {_NAMES[register]}, which this CPU does not"
                " have: it would take #GP; offer them in the cpu section, or leave them clear"
            )
        self.switch.be(user=False)
        exits = _INTERCEPTS[register] in self.switch.intercepts
        if exits and register == "efer":
            value = self.switch.leave(MsrWrite(IA32_EFER, value)).value
        elif exits:
            what = self.switch.leave(CrWrite(int(register[2]), value))
            register, value = f"cr{what.cr}", what.value
        scope = flushed(register, getattr(self.regs, register), value)
        self._load_guest(attrs.evolve(self.regs, **{register: value}), scope)
        if exits:
            self.switch.enter()

    def _load_guest(self, regs: Regs, scope: Scope | None) -> None:
        self.regs = regs
        hardware, flush = self.mmu.load_guest(regs)
        self.switch.load(hardware, flush.merge(Flush(scope)), self.mmu.user_root)

    # Stops.

    def stopped(self, operand: Operand | None) -> int | None:
        """Take a stop to whoever must handle it; *operand* is what the access stores, if known.

        Return None if the access is to be tried again, its guest-physical address if it was
        completed in software, NO_TRANSLATION if the guest skipped it.
        """
        core = self.core
        match core.event:
            case Event.EXIT:
                return self._page_fault_exit(operand)
            case Event.DELIVERED:
                resume = self._delivered(core)
            case Event.GENERAL_PROTECTION:
                self.switch.be(user=False)
                resume = self.general_protection(core.gva)
            case Event.PHYSICAL if not self.switch.hypervised:
                self.ledger.record(FaultOutcome(Route.MMIO, Cause.NO_MEMORY, 0, core.level))
                return core.pa
            case _:
                raise InvariantError(f"the engine stopped at {core.gva:#x} with {core.event}")
        return None if resume is Resume.RETRY else NO_TRANSLATION

    def _delivered(self, core: HwThread) -> Resume:
        pfec = self.switch.deliver(core.gva, core.pfec)
        kind = core.kind & ~pf.U | pfec & pf.U
        handled = FaultOutcome(
            Route.BYPASS, guest_fault_cause(pfec, core.access, kind, core.regs), pfec, core.level
        )
        self._record(PageFault(core.gva, pfec), handled)
        return self.page_fault(pfec)

    def _page_fault_exit(self, operand: Operand | None) -> int | None:
        return self.exited(self.switch.leave(PageFault(self.core.gva, self.core.pfec)), operand)

    def exited(self, fault: PageFault, operand: Operand | None) -> int | None:
        """Take a page fault that has exited, and that plugins saw as an exit, on from there."""
        return self.answered(fault, self._asked(fault), operand)

    def answered(
        self, fault: PageFault, answer: tuple[FaultOutcome, Flush] | None, operand: Operand | None
    ) -> int | None:
        """Go on once plugins were asked to handle the fault: the MMU is last in line."""
        handled, flush = self.mmu.handle(fault) if answer is None else answer
        self._record(fault, handled)
        return self.settle(fault, handled, flush, operand)

    def settle(
        self, fault: PageFault, handled: FaultOutcome, flush: Flush, operand: Operand | None
    ) -> int | None:
        """Do what became of a fault, once it is recorded, and enter the guest."""
        done = handled.gpa if handled.route in (Route.EMULATE, Route.MMIO) else None
        if handled.route is Route.EMULATE:
            flush = flush.merge(self._emulate(handled.gpa, operand))
        elif handled.route is Route.INJECT:
            self.switch.inject_page_fault(fault.gva, handled.pfec)
        hardware, made = self.mmu.reload()
        self.switch.load(hardware, flush.merge(made), self.mmu.user_root)
        entry = self.switch.enter()
        if entry.vector != PAGE_FAULT_VECTOR:
            return done
        return None if self.page_fault(entry.error_code) is Resume.RETRY else NO_TRANSLATION

    def _asked(self, fault: PageFault) -> tuple[FaultOutcome, Flush] | None:
        """Ask the plugins who listen."""
        if self._hooks.handle_fault is None:
            return None
        answer: tuple[FaultOutcome, Flush] | None = self._hooks.handle_fault(vcpu=self, fault=fault)
        return answer

    def _record(self, fault: PageFault, handled: FaultOutcome) -> None:
        self.ledger.record(handled)
        if self._hooks.fault_handled is not None:
            self._hooks.fault_handled(vcpu=self, fault=fault, handled=handled)

    def _emulate(self, gpa: int, operand: Operand | None) -> Flush:
        """Complete a store; an access with no operand, as a trace has it, writes what was there."""
        if operand is None:
            gpa &= ~7
            operand = Operand(self.slots.load(gpa), 8)
        return self.mmu.emulate_store(gpa, operand.value, operand.size)


def _no_handler(pfec: int) -> Resume:
    raise InputError(f"the guest took a page fault ({pf.describe(pfec)}) and has no handler for it")


def _no_canonical(gva: int) -> Resume:
    raise InputError(f"an access to {gva:#x}, which is no canonical address: the guest takes #GP")
