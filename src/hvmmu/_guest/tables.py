"""The guest's page tables: read and written only through the vCPU and the direct map.

Nothing here knows who else watches a table. Each table's entries in use are counted beside it, as a
kernel keeps such a count in the frame's own record, so an empty table is seen without a scan.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from hvmmu._guest.layout import KERNEL_BASE, ROOT_LEVEL, kernel_gva, shift, slot
from hvmmu.arch import pte
from hvmmu.types import PAGE_SIZE, Gpa, Gva

if TYPE_CHECKING:
    from collections.abc import Iterator

    from hvmmu._guest.frames import Frames
    from hvmmu._guest.ptes import PteMaker
    from hvmmu.vcpu import Vcpu


class Tables:
    """Walk, build and prune 4-level tables; a root is named by its guest-physical address."""

    def __init__(self, vcpu: Vcpu, frames: Frames, entries: PteMaker) -> None:
        self._vcpu, self._frames, self._entries = vcpu, frames, entries
        self.used: dict[Gpa, int] = {}
        """Entries in use, by table; of a root those of its user half."""

    def adopt_root(self, root: Gpa) -> None:
        """Count the entries of a root from now on; what it holds already is the kernel's."""
        self.used[root] = 0

    def new_root(self, like: Gpa) -> Gpa:
        """Return a new root with an empty user half and the kernel half of *like*."""
        root = self._frames.take_table()
        kernel = slot(like, KERNEL_BASE, ROOT_LEVEL)
        self._vcpu.store(kernel_gva(root + kernel - like), self.read(kernel))
        self.adopt_root(root)
        return root

    def free_root(self, root: Gpa) -> None:
        """Free a root whose user half is empty and which CR3 does not hold."""
        del self.used[root]
        self._frames.give_table(root)

    def read(self, at: Gpa) -> int:
        """Return the entry at *at*."""
        return self._vcpu.load(kernel_gva(at))

    def write(self, at: Gpa, old: int, new: int) -> None:
        """Store *new* over the entry *old* at *at*; what the TLB may then owe is the caller's."""
        self._vcpu.store(kernel_gva(at), new)
        self.used[Gpa(at & -PAGE_SIZE)] += bool(new) - bool(old)

    def leaf_slot(self, root: Gpa, gva: int) -> Gpa:
        """Return where the level-1 entry for *gva* is, building the tables above it."""
        table = root
        for level in range(ROOT_LEVEL, 1, -1):
            at = slot(table, gva, level)
            entry = self.read(at)
            if not entry:
                entry = self._entries.link(self._new_table())
                self.write(at, 0, entry)
            table = Gpa(entry & pte.ADDRESS)
        return slot(table, gva, 1)

    def leaves(self, root: Gpa, start: int, end: int) -> Iterator[tuple[Gva, Gpa, int]]:
        """Yield (gva, where, entry) of the leaves in use from *start* up to *end*, in order."""
        for table, low, high in self._leaf_tables(root, ROOT_LEVEL, start, end):
            for gva in range(low, high, PAGE_SIZE):
                at = slot(table, gva, 1)
                entry = self.read(at)
                if entry:
                    yield Gva(gva), at, entry

    def prune(self, root: Gpa, start: int, end: int) -> list[Gpa]:
        """Unlink the empty tables between *start* and *end*; return them.

        They must not be freed before a flush: paging-structure caches may still lead to them.
        """
        unlinked: list[Gpa] = []
        self._prune(root, ROOT_LEVEL, start, end, unlinked)
        return unlinked

    def _prune(self, table: Gpa, level: int, start: int, end: int, unlinked: list[Gpa]) -> None:
        for at, entry, low, high in self._children(table, level, start, end):
            child = Gpa(entry & pte.ADDRESS)
            if level - 1 > 1:
                self._prune(child, level - 1, low, high, unlinked)
            if not self.used[child]:
                self.write(at, entry, 0)
                del self.used[child]
                unlinked.append(child)

    def _leaf_tables(
        self, table: Gpa, level: int, start: int, end: int
    ) -> Iterator[tuple[Gpa, int, int]]:
        for _, entry, low, high in self._children(table, level, start, end):
            child = Gpa(entry & pte.ADDRESS)
            if level - 1 == 1:
                yield child, low, high
            else:
                yield from self._leaf_tables(child, level - 1, low, high)

    def _children(
        self, table: Gpa, level: int, start: int, end: int
    ) -> Iterator[tuple[Gpa, int, int, int]]:
        """Yield (where, entry, first gva, end gva) of the links in use that meet the range."""
        span = 1 << shift(level)
        for low in range(start & -span, end, span):
            at = slot(table, low, level)
            entry = self.read(at)
            if entry:
                yield at, entry, max(low, start), min(low + span, end)

    def _new_table(self) -> Gpa:
        table = self._frames.take_table()
        self.used[table] = 0
        return table
