"""What a vCPU asks of the MMU that backs it, whichever that is."""

from typing import Protocol

from hvmmu.arch.regs import Regs
from hvmmu.fault import FaultOutcome, PageFault
from hvmmu.flush import Flush


class Mmu(Protocol):
    """An MMU, of hardware alone or kept by a hypervisor."""

    @property
    def user_root(self) -> int | None:
        """Where the root lies that a deprivileged guest's user mode has to itself."""
        ...

    def load_guest(self, regs: Regs) -> tuple[Regs, Flush]:
        """Take over the guest's registers; return hardware's."""
        ...

    def reload(self) -> tuple[Regs, Flush]:
        """Return hardware's registers, after something may have changed its root."""
        ...

    def handle(self, fault: PageFault) -> tuple[FaultOutcome, Flush]:
        """Route a fault that exited."""
        ...

    def invlpg(self, gva: int) -> Flush:
        """Carry out a guest's INVLPG."""
        ...

    def emulate_store(self, gpa: int, value: int, size: int) -> Flush:
        """Complete a guest's store."""
        ...
