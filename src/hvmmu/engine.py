"""What the core asks of hardware, whoever plays it: the Engine protocol and the Core it works on.

An engine takes accesses in arrays and returns where it stopped; why, it leaves in the core.
A vendor is data to it: the 64-entry exit filter over the low six error-code bits.
"""

import enum
from typing import Protocol

import attrs

from hvmmu.arch.regs import CpuFeatures, Regs
from hvmmu.memory import Memory
from hvmmu.tlb import Scope
from hvmmu.types import Buffer

FILTER_BITS = 64
EXIT_NEVER = 0
EXIT_ALWAYS = (1 << FILTER_BITS) - 1

NO_TRANSLATION = (1 << 64) - 1
"""In an array of landings: hardware did not complete this access."""


class Event(enum.Enum):
    """Why an engine stopped before the end; the access has had no effect and may be retried."""

    EXIT = "exit"
    """A page fault that the filter lets out to the hypervisor."""
    DELIVERED = "delivered"
    """A page fault that went straight to the guest; the core's cr2 is loaded."""
    GENERAL_PROTECTION = "general protection"
    """A non-canonical address; goes to the guest."""
    PHYSICAL = "physical"
    """The translation ends where no memory is; physical address in *pa*."""


@attrs.define(eq=False)
class HwThread:
    """One hardware thread as its engine sees it."""

    cpu: CpuFeatures
    regs: Regs = attrs.field(factory=Regs)
    """The registers in force, which under a hypervisor are not the guest's own."""
    exit_filter: int = EXIT_NEVER
    """Bit *pfec* (low six bits) set: that page fault exits."""
    cr2: int = 0
    gprs: list[int] = attrs.field(factory=lambda: [0] * 16)
    """General-purpose registers by their number in an instruction; 0 is RAX."""
    event: Event | None = None
    gva: int = 0
    kind: int = 0
    pfec: int = 0
    level: int = 0
    """Level of the entry that faulted, or of the leaf."""
    access: int = 0
    """What the path allowed up to that entry, in the bits of a kind."""
    pa: int = 0
    walk_refs: int = 0
    """Entries read by page walks, those that faulted included."""


@attrs.frozen(eq=False)
class EngineCaps:
    """What the hardware behind an engine can do, as data."""

    maxphyaddr: tuple[int, int] = (36, 52)
    """Least and most MAXPHYADDR it can have."""
    reserved_patterns: bool = True
    """A present entry with a reserved bit faults with RSVD."""
    nx: bool = True
    smep: bool = True
    smap: bool = True
    la57: bool = True
    gbpages: bool = True
    accessed_on_fault: bool = False
    """A walk that faults may already have set A in upper entries."""
    caches: bool = True
    """Translations go stale until flushed."""
    flushes_one_page: bool = True
    filters_inside: bool = True
    """The exit filter runs without leaving the engine."""
    fast_lane: bool = False
    """It is the compiled engine, which can handle whole faults where nobody watches them."""
    lru_sets: int = 0
    """Sets of a first level over which a granted hit on the most recent 4 KiB page changes nothing.

    The fewer of the instruction and the data level; 0 if there are none such, or nobody knows.
    """
    lru_ways: int = 0
    """Ways of such a set: a granted hit on one of its so many most recent pages only orders them.

    The fewer of the two levels; 0 as above.
    """
    delivers: bool = False
    """The engine itself enters the guest's handler through an IDT."""


@attrs.frozen
class TlbCounts:
    """What the TLB counted; an access that faults and is retried misses once."""

    instruction_misses: int
    data_misses: int
    misses: int
    """Misses of the last level: translations that had to be walked for."""


class Engine(Protocol):
    """Something that runs accesses through x86 paging over host memory.

    Name, summary and capabilities are the class's.
    """

    name: str
    summary: str
    """One line for people."""
    caps: EngineCaps

    def __init__(self, memory: Memory) -> None:
        """Work on *memory*; raise EngineUnavailableError if that cannot be done here."""
        ...

    def load_regs(self, core: HwThread, regs: Regs) -> None:
        """Put *regs* in force; flushes nothing."""
        ...

    def write_pte(self, hpa: int, value: int) -> None:
        """Store a 64-bit entry that hardware may be using; flushes nothing.

        The only way the core changes such an entry: an engine on a real CPU may need more than a
        store.
        """
        ...

    def flush(self, scope: Scope, gva: int = 0) -> None:
        """Drop cached translations; *gva* matters for one page only."""
        ...

    def run(
        self,
        core: HwThread,
        gva: Buffer,
        kind: Buffer,
        start: int,
        translated: Buffer | None = None,
    ) -> int:
        """Run accesses from *start* on; return the index of the one that stopped, or len(gva).

        *gva* holds 64-bit addresses (format Q), *kind* one byte each (format B). The core's event
        then says why; that access has had no effect. *translated* (format Q, as long as *gva*)
        takes the host-physical address of each access that completed.
        """
        ...

    def promote(self, gva: Buffer, kind: Buffer) -> None:
        """Make 4 KiB pages the most recent ones of their sets in a first level, in order.

        Those that are not there stay away: nothing is walked for, checked, or counted. *gva* and
        *kind* are as in `run`. Nobody asks this of an engine whose `lru_sets` is 0.
        """
        ...

    def counts(self) -> TlbCounts:
        """Return the TLB's counters since the start."""
        ...
