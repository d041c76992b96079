"""The guest operating system: performs a workload's steps, and handles the faults they cause."""

from __future__ import annotations

from typing import TYPE_CHECKING

from hvmmu._guest.boot import boot
from hvmmu._guest.digest import page_tables_sha256
from hvmmu._guest.faults import PageFaultHandler
from hvmmu._guest.frames import Frames
from hvmmu._guest.kernel import Kernel
from hvmmu._guest.policy import GuestParams
from hvmmu._guest.process import Process
from hvmmu._guest.syscalls import Syscalls
from hvmmu._guest.tables import Tables
from hvmmu._trace.replay import Runner, run_reduced
from hvmmu.errors import InputError
from hvmmu.steps import (
    FIRST_PID,
    Accesses,
    ExitProcess,
    Fork,
    Mmap,
    Mprotect,
    Munmap,
    ReducedAccesses,
    StartMeasuring,
    Step,
    SwitchTo,
)
from hvmmu.vcpu import Resume

if TYPE_CHECKING:
    from collections.abc import Callable

    from hvmmu.types import Buffer
    from hvmmu.vcpu import Vcpu


class GuestOs:
    """Boot on *vcpu*, which must be fresh from reset, and then perform one step at a time.

    Everything it does to memory it does through the vCPU, and it cannot tell what the vCPU makes of
    it. The same steps give the same frames, tables and faults, whatever machine runs them.
    """

    def __init__(self, vcpu: Vcpu, params: GuestParams | None = None) -> None:
        self._vcpu = vcpu
        self.kernel = Kernel(vcpu, params or GuestParams())
        self.frames, self.tables = Frames(self.kernel), Tables(self.kernel)
        self.handler = PageFaultHandler(self.kernel)
        self.kernel.run(Process(FIRST_PID, boot(vcpu, self.frames)))
        self.tables.adopt_root(self.current.root)
        # The kernel's own share keeps the zero frame from ever looking exclusive, or being freed.
        self.kernel.state.zero_frame = self.frames.take()
        self._syscalls = Syscalls(vcpu, self.frames, self.tables)
        self.processes = {FIRST_PID: self.current}
        """Those that exist, by pid."""
        vcpu.page_fault = self.page_fault
        vcpu.install_kernel(self.kernel.state, self.kernel.error)
        self.run: Callable[[Buffer, Buffer], None] = vcpu.run
        """Runs a program's accesses."""
        self.runner: Runner = vcpu
        """Runs them stop by stop."""

    @property
    def current(self) -> Process:
        """The process that runs."""
        return self.kernel.process

    @property
    def faults(self) -> int:
        """Count the page faults that reached the handler since boot."""
        return self.handler.log.count

    @property
    def fault_log_sha256(self) -> str:
        """Return a digest of every fault's address and error code, in order, since boot."""
        return self.handler.log.sha256

    @property
    def counters(self) -> dict[str, int]:
        """Return the handled faults by cause, since boot."""
        return self.handler.counters

    def page_tables_sha256(self) -> str:
        """Return a digest of all processes' page tables as they are in memory, A and D included."""
        processes = [self.processes[pid] for pid in sorted(self.processes)]
        return page_tables_sha256(processes, self._vcpu.slots.table)

    def step(self, step: Step) -> None:
        """Perform one step.

        Raise InputError if the step asks for what cannot be (no such process, nothing mapped, an
        access that the mapping forbids), GuestMemoryError if guest RAM is used up.
        """
        self.handler.forget_last()
        match step:
            case Accesses():
                self.run(step.gva, step.kind)
            case ReducedAccesses():  # exact, as every mapping of a process is of 4 KiB pages
                self._vcpu.ledger.accesses += step.accesses
                run_reduced(self.runner, step, self._vcpu.engine.caps)
            case Mmap():
                self._syscalls.mmap(self.current, step)
            case Munmap():
                self._syscalls.munmap(self.current, step.start, step.pages, loaded=True)
            case Mprotect():
                self._syscalls.mprotect(
                    self.current, step.start, step.pages, step.prot, loaded=True
                )
            case Fork():
                self._fork(step.child)
            case SwitchTo():
                self.kernel.run(self._process(step.pid, "switch to"))
                self._vcpu.write_cr3(self.current.root)
            case ExitProcess():
                self._exit(step.pid)
            case StartMeasuring():
                pass  # the ledger's business

    def _fork(self, child: int) -> None:
        if child in self.processes:
            raise InputError(f"fork: process {child} exists already; choose another pid")
        if child < FIRST_PID:
            raise InputError(f"fork: {child} is no pid; choose one from {FIRST_PID} up")
        self.processes[child] = self._syscalls.fork(self.current, child, loaded=True)

    def _exit(self, pid: int) -> None:
        """Refuse the current process: its tables are in CR3 until a switch loads others."""
        process = self._process(pid, "exit of")
        if process is self.current:
            raise InputError(f"exit of process {pid}: it is the current one; switch first")
        self._syscalls.exit(process)
        del self.processes[pid]

    def _process(self, pid: int, what: str) -> Process:
        process = self.processes.get(pid)
        if process is None:
            raise InputError(f"{what} process {pid}: there is none; fork it first")
        return process

    def page_fault(self, pfec: int) -> Resume:
        """Handle the page fault whose address CR2 holds."""
        self.handler.handle(self._vcpu.cr2, pfec)
        return Resume.RETRY
