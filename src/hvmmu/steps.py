"""What a workload asks of the guest: a program's accesses, and the system calls between them.

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

SITES = 1 << 16
"""What an index of 16 bits can tell apart."""

FIRST_PID = 1
"""The process that exists at boot."""


class Backing(StrEnum):
    """What stands behind a mapping's pages."""

    ANONYMOUS = "anonymous"
    """Demand-zero: a page is a fresh frame of zeros at its first touch."""
    FILE = "file"
    """Private and file-backed: page-cache frames, copied at the first write."""
    INFERRED = "inferred"
    """A trace tells of accesses and never of mappings: the guest decides what each page is."""


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


class Rest(Protocol):
    """What is run of a reduced step once something has stopped, up to its next span."""

    @property
    def following(self) -> int:
        """The first kept access of the next span."""
        ...

    def before(self) -> Accesses:
        """Return what the TLB's sets are touched by before the stop is handled, if it is cached.

        That brings them in the order that they would be in.
        """
        ...

    def parts(self) -> Iterable[Accesses | Reduced]:
        """Return the steps that all accesses from the one on come to that stopped."""
        ...


@frozen(eq=False)
class Reduced:
    """Run accesses as `Accesses` does, of which those are left out that cannot change a TLB.

    *kept* holds the others (format ``H``), each the index of its address and kind, which are as in
    `Accesses`; there are SITES of those, most of them of no use perhaps. What is left out, of
    *accesses* in all, hits one of the *ways* most recent pages of its set, by a kind that was
    granted before, in every LRU TLB of 4 KiB pages with *sets* sets and *ways* ways or more in each
    first level; and whenever a kept one may do more than that, its own set is in the order that it
    would be in. But all this only as long as nothing stops.
    """

    kept: Words
    site_gva: Words
    site_kind: Buffer
    accesses: int
    sets: int
    ways: int
    rest: Callable[[int], Rest]
    """Return what is run from kept access *at* to the end of its span.

    What is left out depends on nothing before its span: there everything is as it was again.
    """

    def __len__(self) -> int:
        """Count the accesses, those left out among them."""
        return self.accesses

    def whole(self) -> Iterator[Accesses]:
        """Yield all accesses in order."""
        at = 0
        while at < len(self.kept):
            rest = self.rest(at)
            for part in rest.parts():
                if isinstance(part, Reduced):
                    yield from part.whole()
                else:
                    yield part
            at = rest.following


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
    Accesses | Reduced | Mmap | Munmap | Mprotect | Fork | SwitchTo | ExitProcess | StartMeasuring
)
