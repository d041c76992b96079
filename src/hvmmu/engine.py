"""Hardware as the rest of the machine uses it: the Engine protocol, and the thread that it is.

An engine is one hardware thread: its registers, its TLB and, once it has stopped, the reason. It
takes accesses in arrays and returns the index of the one that stopped. Several engines over one
memory are several threads. A vendor is data to it: the 64-entry exit filter over the low six bits
of an error code.
"""

import enum
from typing import Protocol

import attrs

from hvmmu.arch.regs import CpuFeatures, Regs
from hvmmu.errors import EngineUnavailableError
from hvmmu.memory import Memory
from hvmmu.tlb import Scope
from hvmmu.types import Buffer

FILTER_BITS = 64
EXIT_NEVER = 0
EXIT_ALWAYS = (1 << FILTER_BITS) - 1

NO_TRANSLATION = (1 << 64) - 1
"""In an array of translated addresses: the access did not complete."""


class Event(enum.Enum):
    """Why an engine stopped; the access has had no effect and may be retried.

    A member for each reason. Its docstring says what it means to the thread's fields, of which
    *gva* and *kind* are always the access's. The first four are of accesses. Events of instructions
    (other exceptions, I/O, a halt, an intercepted instruction, the end of a budget) are members to
    come; they go to the end, as the numbers in C follow this order.
    """

    PAGE_FAULT_EXIT = "page-fault exit"
    """A page fault that the filter lets out to the hypervisor: *pfec*, *level*, *access*."""
    PAGE_FAULT = "page fault"
    """A page fault that goes straight to the guest: the same, and *cr2* is loaded."""
    GENERAL_PROTECTION = "general protection"
    """A non-canonical address, or a malformed PAE page-directory pointer; goes to the guest."""
    NO_MEMORY = "no memory"
    """The translation ends where no memory is: *pa* is the physical address."""


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
    """Why the last run stopped, None if it came to its end."""
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
    """What an engine can do, as data; an instance's may depend on its CPU and geometry."""

    maxphyaddr: tuple[int, int] = (36, 52)
    """The least and the most physical-address bits that it can have."""
    fast_path: bool = False
    """Its accesses, and whole faults that nobody listens to, run without a return to Python."""
    lru_sets: int = 0
    """Sets of a first level where a granted hit on the most recent 4 KiB page changes nothing.

    The lesser number of the instruction and the data level; 0 if there are no such sets, or the
    number is unknown.
    """
    lru_ways: int = 0
    """The ways of such a set: a granted hit on one of that many most recent pages only reorders it.

    The lesser number of the two levels; 0 as above.
    """


@attrs.frozen
class TlbCounts:
    """What the TLB counted; an access that faults and is retried misses once."""

    instruction_misses: int
    data_misses: int
    misses: int
    """Misses of the last level: translations that had to be walked for."""


class Engine(Protocol):
    """One hardware thread: runs accesses through x86 paging over host memory.

    Name and summary are the class's. An engine whose `lru_sets` is not 0 is a `PromotingEngine`.
    """

    name: str
    summary: str
    """One line for people."""
    caps: EngineCaps
    thread: HwThread
    """Registers, and why the last run stopped. *exit_filter*, *cr2* and *gprs* may be set."""

    def __init__(self, memory: Memory, cpu: CpuFeatures) -> None:
        """Be a thread of CPU model *cpu* over *memory*.

        Raise EngineUnavailableError if that cannot be done here.
        """
        ...

    def load_regs(self, regs: Regs) -> None:
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

    def run(self, gva: Buffer, kind: Buffer, start: int, translated: Buffer | None = None) -> int:
        """Run accesses from *start* on; return the index of the one that stopped, or len(gva).

        *gva* holds 64-bit addresses (format Q), *kind* one byte each (format B). The thread's event
        then says why; that access has had no effect. *translated* (format Q, as long as *gva*)
        takes the host-physical address of each access that completed.
        """
        ...

    def counts(self) -> TlbCounts:
        """Return the TLB's counters since the start."""
        ...


class PromotingEngine(Engine, Protocol):
    """An engine with the TLB that reduced traces are exact for."""

    def promote(self, gva: Buffer, kind: Buffer) -> None:
        """Make 4 KiB pages the most recent ones of their sets in a first level, in order.

        Those that are not cached stay so: nothing is walked for, checked, or counted. *gva* and
        *kind* are as in `run`.
        """
        ...


def check_cpu(engine: Engine, cpu: CpuFeatures) -> None:
    """Raise EngineUnavailableError if *engine* cannot have the physical addresses of *cpu*."""
    least, most = engine.caps.maxphyaddr
    if not least <= cpu.maxphyaddr <= most:
        able = f"{least}" if least == most else f"{least} to {most}"
        raise EngineUnavailableError(
            f"engine {engine.name}: it has {able} physical-address bits, and the CPU model has"
            f" {cpu.maxphyaddr}; set cpu.maxphyaddr accordingly, or choose another engine"
        )
