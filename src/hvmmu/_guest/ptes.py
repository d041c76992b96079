"""What mprotect makes of page-table entries.

A page whose protection is PROT_NONE is *parked*: its entry keeps the frame and loses only P, as in
Linux; the CPU ignores every other bit of such an entry.
"""

from hvmmu.arch import pte
from hvmmu.steps import PROT_EXEC, PROT_NONE, PROT_WRITE, Backing


def protect(entry: int, prot: int, backing: Backing, *, exclusive: bool, nx: bool) -> int:
    """Return *entry* under the protection *prot*.

    W is given at once only to a frame that nobody shares: any other gets it by copy-on-write.
    A page of an inferred mapping becomes executable only when it is fetched from. *nx* says whether
    EFER.NXE is on (else bit 63 is reserved).
    """
    if prot == PROT_NONE:
        return entry & ~pte.P
    entry = (entry | pte.P) & ~pte.W
    if prot & PROT_WRITE and exclusive:
        entry |= pte.W
    if not nx:
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
