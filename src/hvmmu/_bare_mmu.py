"""The MMU of a bare machine: hardware walks the guest's own tables, so there is nothing to do."""

from typing import ClassVar

from hvmmu.arch.regs import Regs
from hvmmu.errors import InvariantError
from hvmmu.fault import FaultOutcome, PageFault
from hvmmu.flush import Flush
from hvmmu.mmu import MmuHost
from hvmmu.tlb import Scope


class BareMmu:
    """Passes the guest's registers through."""

    name: ClassVar[str] = "bare"
    summary: ClassVar[str] = "hardware walks the guest's own tables"
    user_root: int | None = None
    """There is no root but the guest's."""
    built = zapped = 0

    def __init__(self, host: MmuHost | None = None) -> None:
        del host
        self._regs = Regs()

    def load_guest(self, regs: Regs) -> tuple[Regs, Flush]:
        """Return the guest's registers as those of hardware."""
        self._regs = regs
        return self.reload()

    def reload(self) -> tuple[Regs, Flush]:
        """Return them once more."""
        return self._regs, Flush.nothing()

    def handle(self, fault: PageFault) -> tuple[FaultOutcome, Flush]:
        """Refuse: no fault comes here."""
        raise InvariantError(f"a fault at {fault.gva:#x} left the bare machine")

    def invlpg(self, gva: int) -> Flush:
        """Return the flush that INVLPG is."""
        return Flush(Scope.PAGE, gva)

    def emulate_store(self, gpa: int, value: int, size: int) -> Flush:
        """Refuse: nothing is emulated."""
        raise InvariantError(f"a store of {size} bytes ({value:#x}) at {gpa:#x} was to be emulated")
