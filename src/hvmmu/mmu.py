"""What a vCPU asks of the MMU that backs it: the built-in shadow MMU, or one of a plugin.

An MMU stands between the guest's page tables and the tables that hardware walks, which it owns. It
handles page faults that exited, INVLPG, loads of registers, and stores that it had emulated.
"""

from collections.abc import Mapping
from typing import Any, ClassVar, Protocol

from attrs import frozen

from hvmmu.arch.regs import CpuFeatures, Regs
from hvmmu.engine import Engine
from hvmmu.fault import FaultOutcome, PageFault
from hvmmu.flush import Flush
from hvmmu.memory import FramePool, Memslots
from hvmmu.spte import Nonpresent


@frozen(eq=False)
class MmuHost:
    """The host side of a machine, from which its MMU is made."""

    slots: Memslots
    """Guest-physical memory; `slots.memory` is the host's."""
    frames: FramePool
    """Host frames for the tables that hardware walks."""
    engine: Engine
    """The hardware. An MMU calls its `write_pte` alone: flushes and registers are returned."""
    cpu: CpuFeatures
    """The CPU model of both hardware and guest."""
    nonpresent: Nonpresent
    """The backend's two values of an entry that maps nothing: 64-bit entries."""
    deprivileged: bool
    """Hardware runs the guest's kernel as user: two roots are needed."""
    settings: Mapping[str, Any]
    """The sections of the configuration: `mmu`, `cpu`, `guest`, and those of plugins."""


class Mmu(Protocol):
    """The MMU of one vCPU: name and summary are the class's.

    The guest must not be able to tell it from hardware that walks the guest's own tables. Between
    two entries of the guest, for each address and each kind of access:

    - an entry that maps something lets through only what the guest's tables allow, leads where they
      lead, and lets a write through only if the guest's D is set and any access only if its A is;
    - an entry is *notrap* only while the guest's tables map nothing there; every other entry that
      maps nothing is *trap*;
    - the guest's A and D are set as SDM "Accessed and Dirty Flags" demands: on the whole path of an
      access that the guest's tables allow, and by no other.

    The first two hold as far as the guest has flushed what it changed: an entry may be as stale as
    hardware's TLB could be (SDM "Operations that Invalidate TLBs and Paging-Structure Caches").
    A table entry that hardware may be using is written with `Engine.write_pte`. What such a write
    owes the TLB is returned as a `Flush`, which the next entry of the guest performs.
    """

    name: ClassVar[str]
    summary: ClassVar[str]
    """One line for people."""

    def __init__(self, host: MmuHost) -> None:
        """Make the MMU of a machine whose guest has paging off.

        Parameters of its own are a section of the configuration: its plugin declares them with
        `hvmmu_parameters`, under the MMU's name, and they are read as ``host.settings[name]``.
        Raise BackendUnavailableError if it cannot do what *host* needs, such as two roots.
        """
        ...

    @property
    def user_root(self) -> int | None:
        """The root for a deprivileged guest's user mode: host-physical, in bytes.

        None where there is only one root, and while paging is off.
        """
        ...

    @property
    def built(self) -> int:
        """Tables that were built since the machine was made, roots among them."""
        ...

    @property
    def zapped(self) -> int:
        """Tables that were given up since then."""
        ...

    def load_guest(self, regs: Regs) -> tuple[Regs, Flush]:
        """Take over the guest's registers; return those that hardware runs with, and a flush.

        Called for each write to CR0, CR3, CR4 and EFER, even of the same value, and for PKRU and
        EFLAGS.AC, which no real hypervisor sees change. The flush that the guest's own write is
        comes on top of the one returned. CR3 of the registers returned is the root, for the
        kernel's mode if there are two: host-physical, in bytes, a multiple of 4096. While the guest
        has paging off, its registers are hardware's. Raise BackendUnavailableError for a paging
        mode that the MMU does not have, GuestMemoryError where no frame is left.
        """
        ...

    def reload(self) -> tuple[Regs, Flush]:
        """Return hardware's registers once more: the root may be another.

        Called after `handle`, `emulate_store` and `invlpg`, before the guest is entered.
        """
        ...

    def handle(self, fault: PageFault) -> tuple[FaultOutcome, Flush]:
        """Route one fault that exited.

        The error code is hardware's, with U as the guest's own privilege has it. By the route
        returned the vCPU then

        - injects the fault into the guest, with the error code returned (INJECT);
        - has the guest try the access again (INSTALL, ACCESSED_DIRTY, SPURIOUS);
        - completes the access at the guest-physical address returned (EMULATE, MMIO): of a write
          that is emulated it calls `emulate_store`.

        An access that is tried again must go through after boundedly many faults.
        """
        ...

    def invlpg(self, gva: int) -> Flush:
        """Carry out the guest's INVLPG of the page around *gva*, whatever its size."""
        ...

    def emulate_store(self, gpa: int, value: int, size: int) -> Flush:
        """Complete a store of *size* bytes (1, 2, 4, 8) at *gpa*, which is aligned to it."""
        ...
