"""The page-table entries this kernel writes, and what its mprotect makes of them.

A page whose protection is PROT_NONE is *parked*: its entry keeps the frame and loses only P, as in
Linux; the CPU ignores every other bit of such an entry.
"""

from typing import NamedTuple

from hvmmu.arch import pte
from hvmmu.steps import PROT_EXEC, PROT_NONE, PROT_WRITE, Backing


class PteMaker(NamedTuple):
    """Make entries; *nx* says whether EFER.NXE is on (else bit 63 is reserved)."""

    nx: bool
    set_accessed_dirty: bool

    def link(self, table: int) -> int:
        """Return an entry that leads to *table* and leaves every permission to the leaf."""
        accessed = pte.A if self.set_accessed_dirty else 0
        return table | pte.P | pte.W | pte.U | accessed

    def leaf(self, frame: int, *, write: bool, no_execute: bool) -> int:
        """Return a user leaf for *frame*; writable ones are made for a write, hence dirty."""
        bits = pte.P | pte.U | (pte.W if write else 0)
        if self.set_accessed_dirty:
            bits |= pte.A | (pte.D if write else 0)
        return frame | bits | (pte.NX if self.nx and no_execute else 0)

    def touched(self, entry: int, *, write: bool) -> int:
        """Return *entry* marked as used by the access that faulted on it."""
        if not self.set_accessed_dirty:
            return entry
        return entry | pte.A | (pte.D if write else 0)

    def protect(self, entry: int, prot: int, backing: Backing, *, exclusive: bool) -> int:
        """Return *entry* under the protection *prot*.

        W is given at once only to a frame that nobody shares: any other gets it by copy-on-write.
        A page of an inferred mapping becomes executable only when it is fetched from.
        """
        if prot == PROT_NONE:
            return entry & ~pte.P
        entry = (entry | pte.P) & ~pte.W
        if prot & PROT_WRITE and exclusive:
            entry |= pte.W
        if not self.nx:
            return entry
        if not prot & PROT_EXEC:
            return entry | pte.NX
        return entry if backing is Backing.INFERRED else entry & ~pte.NX


def is_downgrade(old: int, new: int) -> bool:
    """Say whether a TLB that still held *old* would allow what *new* forbids.

    SDM "Recommended Invalidation": a permission added, like a page made present, needs no flush,
    for the worst it can cause is one spurious fault.
    """
    if not old & pte.P:
        return False
    return bool(old & ~new & (pte.P | pte.W) or new & ~old & pte.NX)
