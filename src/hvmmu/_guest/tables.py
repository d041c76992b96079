"""The guest's page tables: read and written only through the vCPU and the direct map.

Nothing here knows who else watches a table. Each table's entries in use are counted beside it, as a
kernel keeps such a count in the frame's own record, so an empty table is seen without a scan.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from hvmmu._core.binding import ffi, lib
from hvmmu.types import PAGE_SHIFT, Gpa, Gva

if TYPE_CHECKING:
    from collections.abc import Iterator

    from hvmmu._guest.kernel import Kernel


class Tables:
    """Walk, build and prune 4-level tables; a root is named by its guest-physical address."""

    def __init__(self, kernel: Kernel) -> None:
        self._kernel, self._out = kernel, ffi.new("uint64_t *")

    @property
    def used(self) -> dict[Gpa, int]:
        """Entries in use, by table; of a root those of its user half."""
        state = self._kernel.state
        counts = ffi.unpack(state.used, state.tables.next >> PAGE_SHIFT)
        return {Gpa(nth << PAGE_SHIFT): count - 1 for nth, count in enumerate(counts) if count}

    def adopt_root(self, root: Gpa) -> None:
        """Count the entries of a root from now on; what it holds already is the kernel's."""
        self._kernel.call(lib.hv_adopt_root, root)

    def new_root(self, like: Gpa) -> Gpa:
        """Return a new root with an empty user half and the kernel half of *like*."""
        self._kernel.call(lib.hv_new_root, self._kernel.cpu, like, self._out)
        return Gpa(self._out[0])

    def free_root(self, root: Gpa) -> None:
        """Free a root whose user half is empty and which CR3 does not hold."""
        self._kernel.call(lib.hv_free_root, root)

    def write(self, at: Gpa, old: int, new: int) -> None:
        """Store *new* over the entry *old* at *at*; what the TLB may then owe is the caller's."""
        self._kernel.call(lib.hv_write_entry, self._kernel.cpu, at, old, new)

    def leaf_slot(self, root: Gpa, gva: int) -> Gpa:
        """Return where the level-1 entry for *gva* is, building the tables above it."""
        self._kernel.call(lib.hv_leaf_slot, self._kernel.cpu, root, gva, self._out)
        return Gpa(self._out[0])

    def leaves(self, root: Gpa, start: int, end: int) -> Iterator[tuple[Gva, Gpa, int]]:
        """Yield (gva, where, entry) of the leaves in use from *start* up to *end*, in order."""
        walk = ffi.new("hv_leaf_walk *")
        lib.hv_begin_leaves(walk, root, start, end)
        while True:
            self._kernel.call(lib.hv_next_leaf, self._kernel.cpu, walk)
            if not walk.entry:
                return
            yield Gva(walk.page), Gpa(walk.at), walk.entry

    def prune(self, root: Gpa, start: int, end: int) -> int:
        """Unlink the empty tables between *start* and *end*; return how many.

        They are freed by `free_unlinked`, after a flush: paging-structure caches may still lead to
        them.
        """
        self._kernel.call(lib.hv_prune, self._kernel.cpu, root, start, end)
        return int(self._kernel.state.unlinked_count)

    def free_unlinked(self) -> None:
        """Free the tables that were unlinked."""
        lib.hv_free_unlinked(self._kernel.state)
