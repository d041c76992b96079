"""One vCPU: registers, memory and faults as its guest sees them, over the machine in C.

A fault reaches the guest either straight from hardware or by injection, through the same entry.
"""

import enum
from collections.abc import Iterable
from typing import TYPE_CHECKING, Any, cast

import attrs

from hvmmu._callbacks import Callbacks
from hvmmu._control_registers import flushed, missing_bits
from hvmmu._core.binding import ffi, lib
from hvmmu._core.shadow_mmu import ShadowMmu
from hvmmu._event_stream import EventStream
from hvmmu._hooks import RunHooks
from hvmmu._trace.replay import run_in_c
from hvmmu._world_switch import WorldSwitch
from hvmmu.arch import pfec as pf
from hvmmu.arch.regs import CR4_PKE, CR4_SMAP, CR4_SMEP, CpuFeatures, Regs
from hvmmu.backend import Backend, CrWrite, Intercept, MsrWrite
from hvmmu.engine import NO_TRANSLATION, Engine, Event, HwThread, PromotingEngine
from hvmmu.errors import BackendUnavailableError, InputError, InvariantError
from hvmmu.fault import Cause, FaultOutcome, FaultRecord, PathStep, Route
from hvmmu.flush import Flush
from hvmmu.ledger import Ledger
from hvmmu.memory import Memory, Memslots
from hvmmu.mmu import Mmu
from hvmmu.tlb import Scope
from hvmmu.types import Buffer

if TYPE_CHECKING:
    from collections.abc import Callable

    from hvmmu._trace.span import SpanTail
    from hvmmu.steps import Words

IA32_EFER = 0xC000_0080
_SUPERVISORS_OWN = {CR4_SMEP: "SMEP", CR4_SMAP: "SMAP", CR4_PKE: "PKE"}
"""Bits of CR4 that take a hardware which distinguishes the guest's supervisor from its user."""
MOST_TRIES = 100
"""Stops of one access in a row; a guest and a hypervisor need a handful between them."""
_NAMES = {"cr0": "CR0", "cr3": "CR3", "cr4": "CR4", "efer": "IA32_EFER"}
_INTERCEPTS = {
    "cr0": Intercept.CR0_WRITE,
    "cr3": Intercept.CR3_WRITE,
    "cr4": Intercept.CR4_WRITE,
    "efer": Intercept.EFER_WRITE,
}
_EVENTS = {event: number for number, event in enumerate((None, *Event))}
_ROUTES, _CAUSES = tuple(Route), tuple(Cause)
_BY_NUMBER = {number: event for event, number in _EVENTS.items()}


class Resume(enum.Enum):
    """What a guest's fault handler returns to."""

    RETRY = "retry"
    SKIP = "skip"
    """The next access: the guest moved its instruction pointer on."""


class Vcpu:
    """A vCPU over one engine, one backend and one MMU.

    *simulate* has each exit and entry go through the control structure, one by one, even where the
    backend's switch profile would do. *vcpu_id* counts the vCPUs of a machine from 0 up.
    """

    def __init__(
        self,
        *,
        engine: Engine,
        backend: Backend[Any],
        mmu: Mmu,
        memory: Memory,
        slots: Memslots,
        hooks: RunHooks | None = None,
        simulate: bool = False,
        vcpu_id: int = 0,
    ) -> None:
        self.engine, self.backend, self.mmu = engine, backend, mmu
        self._core = engine.thread
        self.memory, self.slots = memory, slots
        self.ledger = Ledger()
        """Everything that was counted so far."""
        self.regs = Regs()
        """The guest's own view of its registers."""
        self._page_fault: Callable[[int], Resume] = _no_handler
        self._kernel_error: Callable[[], Exception] = RuntimeError
        self.general_protection: Callable[[int], Resume] = _no_canonical
        """The guest's handler for non-canonical addresses: takes the address."""
        self.c = c = ffi.new("hv_vcpu *")
        self._memory = ffi.from_buffer("uint8_t[]", memory.bytes.obj)
        memory.before_close(self._release)
        handle = getattr(engine, "handle", None)
        self._stop = ffi.new("hv_stop *") if handle is None else engine.stop  # type: ignore[attr-defined]
        c.engine, c.stop = ffi.NULL if handle is None else handle, self._stop
        self.events = EventStream(self.ledger)
        """Everything that happens, for readers that subscribe to it."""
        c.events = self.events.handle
        c.ledger, c.memory = self.ledger.handle, self._memory
        c.base, c.ram_size = slots.slots[0].hpa, slots.slots[0].size
        c.ram = c.memory + c.base
        c.most_tries = MOST_TRIES
        self.world_switch = WorldSwitch(c, engine, backend, self.ledger, vcpu_id=vcpu_id)
        c.simulated |= simulate and c.hypervised
        c.invlpg_exits = Intercept.INVLPG in self.world_switch.intercepts
        if isinstance(mmu, ShadowMmu):
            c.mmu = mmu.pointer
            mmu.vm.pointer.pages.events = c.events
        self._callbacks = Callbacks(self, c, hooks or RunHooks())
        self._self = ffi.new_handle(self._callbacks)
        c.self = self._self
        self.guest_cpu = c.guest_cpu = ffi.new("hv_guest_cpu *")
        """This vCPU as the kernel of a guest in C uses it."""
        lib.hv_vcpu_as_guest_cpu(c, self.guest_cpu)

    def _release(self) -> None:
        self.c.engine = ffi.NULL
        ffi.release(self._memory)

    # The hypervisor's side.

    @property
    def core(self) -> HwThread:
        """The hardware thread, as it was when the guest last stopped."""
        core, stop = self._core, self._stop
        core.regs = self.world_switch.regs
        core.cr2 = self.c.cr2
        if self.c.engine != ffi.NULL:
            core.walk_refs = lib.hv_counts_of(self.c.engine).walk_refs
        core.event = _BY_NUMBER.get(stop.event)
        core.gva, core.kind, core.pfec = stop.gva, stop.kind, stop.pfec
        core.level, core.access, core.pa = stop.level, stop.access, stop.pa
        return core

    @property
    def control(self) -> Any:  # noqa: ANN401 - the vendor's own
        """The vendor's control structure; from the first look on it is kept up to date.

        Each later exit and entry of the run goes through it, which takes 100 times as long.
        """
        self._callbacks.record()
        self.c.simulated = self.c.hypervised
        self.world_switch.follow_privilege()
        return self.world_switch.control

    @property
    def user(self) -> bool | None:
        """A deprivileged guest is in its user mode; None for guests that hardware tells apart."""
        return bool(self.c.user) if self.c.deprivileged else None

    @property
    def fault(self) -> FaultRecord:
        """The page fault that a hook is called for, with both walks."""
        f = self.c.fault
        out = f.out
        return FaultRecord(
            gva=f.gva,
            pfec=f.pfec,
            stored=f.operand if f.has_operand else None,
            outcome=FaultOutcome(
                _ROUTES[out.route], _CAUSES[out.cause], out.pfec, out.level, out.gpa, out.walk_refs
            ),
            guest_path=_path(f.guest.path[0 : f.guest.refs]),
            shadow_path=_path(f.shadow[0 : f.shadow_refs]),
        )

    def perform(self, flush: Flush) -> None:
        """Ask for a flush: at once on a bare machine, else by the next entry."""
        self.world_switch.request(flush)

    def enter(self) -> None:
        """Enter the guest, which performs the flush that was asked for."""
        self.c.inject = False
        self.world_switch.enter()

    def fail_mmu(self) -> None:
        """Raise the error that the shadow MMU has returned to C."""
        result = int(self.c.value)
        cast("ShadowMmu", self.mmu).vm.checked(result - (1 << 64))

    def reload(self) -> None:
        """Have hardware walk from the MMU's roots, which may be new."""
        hardware, made = self.mmu.reload()
        self.world_switch.load(hardware, made, self.mmu.user_root)

    # The guest's page-fault handler.

    @property
    def page_fault(self) -> "Callable[[int], Resume]":
        """The guest's page-fault handler: takes the error code, finds the address in cr2."""
        return self._page_fault

    @page_fault.setter
    def page_fault(self, handler: "Callable[[int], Resume]") -> None:
        self._page_fault, self.c.guest = handler, ffi.NULL

    def install_kernel(self, kernel: Any, error: "Callable[[], Exception]") -> None:  # noqa: ANN401 - cffi's
        """Have C's handler, in the struct *kernel*, take page faults from now on.

        Until another handler is set; *error* returns what one ended in.
        """
        self.c.guest, self._kernel_error = kernel, error

    def fail_guest(self) -> None:
        """Raise the error that the guest's kernel ended in."""
        raise self._kernel_error()

    # The guest's view of the machine.

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
        return int(self.c.cr2)

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
        self.ledger.accesses += len(memoryview(gva))
        self.run_all(gva, kind, 0, translated)

    def load(self, gva: int, size: int = 8) -> int:
        """Return *size* bytes (1, 2, 4, 8) at the naturally aligned *gva*, read as a supervisor.

        All ones come from where no memory is, or where the guest's handler skipped the access.
        """
        hpa = self._single(gva, pf.READ, size)
        return (1 << (8 * size)) - 1 if hpa == NO_TRANSLATION else self.memory.load(hpa, size)

    def store(self, gva: int, value: int, size: int = 8) -> None:
        """Write *size* bytes (1, 2, 4, 8) at the naturally aligned *gva* as a supervisor."""
        hpa = self._single(gva, pf.WRITE, size, value)
        if hpa != NO_TRANSLATION:
            self.memory.store(hpa, value, size)

    def clear_page(self, gva: int) -> None:
        """Zero a 4 KiB page as REP STOSQ does: one access where one translation does."""
        self._done(lib.hv_fill_page(self.c, gva, NO_TRANSLATION))

    def copy_page(self, gva: int, source: int) -> None:
        """Copy the 4 KiB page at *source* to *gva* as REP MOVSQ does."""
        hpa = self._single(source, pf.READ, 8)
        if hpa == NO_TRANSLATION:
            raise InvariantError(f"the guest copies a page from {source:#x}, where nothing is")
        self._done(lib.hv_fill_page(self.c, gva, hpa))

    def _single(self, gva: int, kind: int, size: int, value: int = 0) -> int:
        """Make one access; return its hpa, NO_TRANSLATION if it was emulated or skipped."""
        if gva % size:
            raise InputError(f"{size} bytes at {gva:#x} are not aligned; split the access")
        self.ledger.accesses += 1
        hpa = ffi.new("uint64_t *")
        self._done(lib.hv_access_one(self.c, gva, kind, value, size, hpa))
        return int(hpa[0])

    def keep(self, error: BaseException) -> None:
        """Keep an exception until C has returned."""
        self._callbacks.kept(error)

    def check(self, *, went: bool) -> None:
        """Raise the exception that was kept, if there is one."""
        self._done(went)

    def _done(self, went: int) -> None:
        if not went:
            self._fail()
        if isinstance(self.mmu, ShadowMmu):
            self.mmu.vm.checked(0)
        self.events.deliver()

    # Privileged operations.

    def invlpg(self, gva: int) -> None:
        """Drop cached translations of one address."""
        self._done(lib.hv_invlpg(self.c, gva))

    def write_cr0(self, value: int) -> None:
        """Set CR0: PE, WP and PG."""
        self._write("cr0", value)

    def write_cr3(self, value: int) -> None:
        """Set CR3: the guest-physical address of the root table."""
        self._write("cr3", value)
        self.ledger.cr3_loads += 1

    def write_cr4(self, value: int) -> None:
        """Set CR4: the bits that the CPU model offers.

        Raise BackendUnavailableError for bits that a deprivileged guest cannot have.
        """
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
        if self.c.deprivileged and register == "cr4":
            _refuse_supervisors_own(value)
        self._done(lib.hv_set_privilege(self.c, 0))
        exits = _INTERCEPTS[register] in self.world_switch.intercepts
        if exits and register == "efer":
            value = self._leave(MsrWrite(IA32_EFER, value)).value
        elif exits:
            what = self._leave(CrWrite(int(register[2]), value))
            register, value = f"cr{what.cr}", what.value
        scope = flushed(register, getattr(self.regs, register), value)
        self._load_guest(attrs.evolve(self.regs, **{register: value}), scope)
        if exits:
            self.enter()

    def _leave(self, what: Any) -> Any:  # noqa: ANN401 - a VmExit and one of its kind
        """Exit through the control structure, and show the exit to the hooks."""
        return self._callbacks.shown(self.world_switch.leave(what))

    def _load_guest(self, regs: Regs, scope: Scope | None) -> None:
        self.regs = regs
        hardware, flush = self.mmu.load_guest(regs)
        self.world_switch.load(hardware, flush.merge(Flush(scope)), self.mmu.user_root)

    def _fail(self) -> None:
        self._callbacks.raise_kept()

    # Batches, and what a reduced trace keeps of them.

    def run_all(
        self, gva: Buffer, kind: Buffer, start: int, translated: Buffer | None = None
    ) -> None:
        """Run accesses from *start* to the end with all stops, none of them counted."""
        vas, kinds = _buffers(gva, kind)
        out = ffi.NULL
        if translated is not None:
            out = ffi.from_buffer("uint64_t[]", translated, require_writable=True)
        count = len(vas)
        at = lib.hv_vcpu_run(self.c, vas, kinds, start, count, out)
        # A frame of an error must hold no buffer of a memoryview: before 3.12.4, CPython crashes
        # when it collects both in one cycle (gh-77894).
        del vas, kinds, out
        self._done(at == count)

    def run_until_stop(
        self, kept: "Words", slot_gva: "Words", slot_kind: Buffer, start: int
    ) -> int:
        """Run what *kept* lists from *start* to the first stop; return where that is, or the end.

        Each is an index of *slot_gva* and *slot_kind*.
        """
        vas, kinds = _buffers(slot_gva, slot_kind)
        listed = ffi.from_buffer("uint16_t[]", kept)
        at: int = lib.hv_vcpu_to_stop(self.c, listed, vas, kinds, start, len(listed))
        del vas, kinds, listed  # as above
        if at == NO_TRANSLATION:
            self._fail()
        return at

    def run_span_tail(self, tail: "SpanTail") -> bool:
        """Handle the last stop and run the rest of its span; False: the engine is in Python."""
        if self.c.engine == ffi.NULL:
            return False
        self._done(run_in_c(self.c, tail))
        return True

    def handle_stop(self, gva: Buffer, kind: Buffer) -> bool:
        """Promote pages in the TLB, then have the last stop handled; return if it was completed."""
        cast("PromotingEngine", self.engine).promote(gva, kind)
        became = lib.hv_vcpu_handle(self.c)
        if became == lib.HV_FAILED:
            self._fail()
        return bool(became == lib.HV_DONE)

    # Callbacks of C.

    def take_page_fault(self, pfec: int) -> int:
        """Run the guest's page-fault handler; return what became of the access."""
        resume = self.page_fault(pfec)
        return self._resumed(resume)

    def take_general_protection(self, gva: int) -> int:
        """Run the guest's handler of a general-protection fault."""
        resume = self.general_protection(gva)
        return self._resumed(resume)

    def _resumed(self, resume: Resume) -> int:
        self.c.completed = NO_TRANSLATION
        return int(lib.HV_RETRY if resume is Resume.RETRY else lib.HV_DONE)

    def run_engine(
        self,
        gva: Any,  # noqa: ANN401 - cffi's
        kind: Any,  # noqa: ANN401 - cffi's
        at: int,
        count: int,
        translated: Any,  # noqa: ANN401 - cffi's
    ) -> int:
        """Run accesses on an engine in Python; return the index of the one that stopped."""
        core, stop = self._core, self._stop
        core.cr2 = self.c.cr2
        vas = memoryview(ffi.buffer(gva, 8 * count)).cast("B").cast("Q")
        out = None
        if translated != ffi.NULL:
            out = memoryview(ffi.buffer(translated, 8 * count)).cast("B").cast("Q")
        stopped = self.engine.run(vas, memoryview(ffi.buffer(kind, count)), at, out)
        self.c.cr2 = core.cr2
        stop.event = _EVENTS[core.event]
        if core.event is not None:
            stop.gva, stop.kind, stop.pfec = core.gva, core.kind, core.pfec
            stop.level, stop.access, stop.pa = core.level, core.access, core.pa
        return stopped

    def set_engine_root(self, root: int) -> None:
        """Set the root that an engine in Python walks from."""
        self.engine.load_regs(attrs.evolve(self._core.regs, cr3=root))

    def refuse_to_hang(self, tries: int) -> None:
        """Give up on an access that all sides claim to have made possible, and that still stops."""
        gva, event = self._stop.gva, _BY_NUMBER.get(self._stop.event)
        raise InvariantError(f"the access to {gva:#x} stopped {tries} times in a row: {event}")

    def refuse_stop(self) -> None:
        """Give up where the engine stopped for a reason that cannot be."""
        event = self._stop.event
        if event == lib.HV_NOT_PAGING:
            raise InvariantError("an access was run before paging was on")
        gva, event = self._stop.gva, _BY_NUMBER.get(event)
        raise InvariantError(f"the engine stopped at {gva:#x} with {event}")


def _refuse_supervisors_own(cr4: int) -> None:
    wanted = [name for bit, name in _SUPERVISORS_OWN.items() if cr4 & bit]
    if wanted:
        raise BackendUnavailableError(
            f"the guest turned on {' and '.join(wanted)} in CR4, which tell its kernel from its"
            " user mode, and hardware runs both in user mode here; leave them off, or take another"
            " backend"
        )


def _path(steps: Iterable[Any]) -> tuple[PathStep, ...]:
    return tuple(PathStep(step.pa, step.entry, step.access) for step in steps)


def _buffers(gva: Buffer, kind: Buffer) -> tuple[Any, Any]:
    vas, kinds = ffi.from_buffer("uint64_t[]", gva), ffi.from_buffer("uint8_t[]", kind)
    if len(kinds) != len(vas):
        raise ValueError(f"{len(vas)} addresses with {len(kinds)} kinds")
    return vas, kinds


def _no_handler(pfec: int) -> Resume:
    raise InputError(f"the guest took a page fault ({pf.describe(pfec)}) and has no handler for it")


def _no_canonical(gva: int) -> Resume:
    raise InputError(f"an access to {gva:#x}, which is no canonical address: the guest takes #GP")
