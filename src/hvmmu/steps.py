"""The steps of a workload: a program's accesses, and the system calls between them.

A workload yields steps, the guest OS performs them in order. The first process has pid 1, exists at
boot and maps nothing. Steps are values: two workloads are the same if their steps are equal.
"""

from __future__ import annotations

from enum import StrEnum
from typing import TYPE_CHECKING, Protocol, TypeAlias

from attrs import frozen

if TYPE_CHECKING:
    from array import array
    from collections.abc import Callable, Iterable, Iterator

    from hvmmu.types import Buffer, Gva

    Words: TypeAlias = array[int] | memoryview[int]

PROT_NONE = 0
PROT_READ = 1
PROT_WRITE = 2
PROT_EXEC = 4

FIRST_PID = 1
"""The process that exists at boot."""


class Backing(StrEnum):
    """The source of a mapping's pages."""

    ANONYMOUS = "anonymous"
    """Demand-zero: a page is a fresh frame of zeros at its first touch."""
    FILE = "file"
    """Private and file-backed: page-cache frames, copied at the first write."""
    INFERRED = "inferred"
    """Unknown, as a trace holds accesses and no mappings: the guest infers it page by page."""


@frozen
class Accesses:
    """Run accesses in the current process, in user mode, in order.

    *gva* holds 64-bit addresses (format ``Q``) and *kind* one byte each (format ``B``): the bits W,
    U and I/D of a page-fault error code, as the access itself decides them. Both have one length,
    and no access crosses a 4 KiB page.
    """

    gva: Words
    kind: Words

    def __len__(self) -> int:
        """Count the accesses."""
        return len(self.gva)


class Tail(Protocol):
    """A reduced step after a stop: all accesses up to the end of a span."""

    @property
    def next_kept(self) -> int:
        """The index in `kept` of the first access behind it."""
        ...

    def lru_fixup(self) -> Accesses:
        """Return accesses to promote before the stop is handled: they order the TLB's sets.

        One that is not cached is passed over.
        """
        ...

    def remaining(self) -> Iterable[Accesses]:
        """Return all accesses, the one that stopped first, in pieces."""
        ...


@frozen(eq=False)
class ReducedAccesses:
    """Like `Accesses`, without the accesses that cannot change a TLB.

    *kept* (format ``H``) holds the others, each a page slot: an index of *slot_gva* and
    *slot_kind*, which are as in `Accesses` and have PAGE_SLOTS elements. There are *accesses* in
    all. Each one that was dropped hits one of the *ways* most recent pages of its set, by a kind
    that was granted before, in every LRU TLB of 4 KiB pages with *sets* sets and *ways* ways or
    more in each first level; and whenever a kept access may do more than that, its own set is in
    the order of the whole trace.

    That holds until something stops. *tail* then says what to run: called with the index in *kept*
    of the access that stopped, it returns all accesses from there to the end of a *span*. Which
    accesses may be dropped behind a span depends on nothing before its end.
    """

    kept: Words
    slot_gva: Words
    slot_kind: Buffer
    accesses: int
    sets: int
    ways: int
    tail: Callable[[int], Tail]

    def __len__(self) -> int:
        """Count the accesses, dropped ones included."""
        return self.accesses

    def whole(self) -> Iterator[Accesses]:
        """Yield all accesses in order."""
        at = 0
        while at < len(self.kept):
            tail = self.tail(at)
            yield from tail.remaining()
            at = tail.next_kept


@frozen
class Mmap:
    """Map *pages* pages of 4 KiB from *start*, which is page-aligned, in the current process."""

    start: Gva
    pages: int
    prot: int
    backing: Backing


@frozen
class Munmap:
    """Unmap *pages* pages of 4 KiB from *start*, which is page-aligned."""

    start: Gva
    pages: int


@frozen
class Mprotect:
    """Give *pages* pages of 4 KiB from *start* the protection *prot*."""

    start: Gva
    pages: int
    prot: int


@frozen
class Fork:
    """Copy the current process, copy-on-write, into the new process *child*; the parent goes on."""

    child: int


@frozen
class SwitchTo:
    """Make *pid* the current process: a CR3 load."""

    pid: int


@frozen
class ExitProcess:
    """End process *pid*, which is not the current one, and give back its frames and tables."""

    pid: int


@frozen
class StartMeasuring:
    """Start the ledger again from zero: what came before was warm-up and is not counted."""

    name: str


Step: TypeAlias = (
    Accesses
    | ReducedAccesses
    | Mmap
    | Munmap
    | Mprotect
    | Fork
    | SwitchTo
    | ExitProcess
    | StartMeasuring
)
