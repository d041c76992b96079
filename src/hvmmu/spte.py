"""Shadow entries: the values that stand for "not built", and how a mapping is written.

Presence is never read from the hardware P bit: the trap value has P set.
"""

from typing import NamedTuple

from hvmmu.arch import pfec as pf
from hvmmu.arch import pte
from hvmmu.arch.regs import CR0_WP, CR4_PKE, CR4_SMAP, CR4_SMEP, EFER_NXE, Regs


class Nonpresent(NamedTuple):
    """The two values of an entry that maps nothing; equal where the technique is off."""

    trap: int = 0
    """The hypervisor must see the fault."""
    notrap: int = 0
    """The guest's entry is not present: the fault is the guest's own."""

    def is_present(self, spte: int) -> bool:
        """Say whether *spte* maps something."""
        return spte not in (self.trap, self.notrap)

    @property
    def distinguishable(self) -> bool:
        """Say whether hardware can tell the two apart."""
        return self.trap != self.notrap


LINK = pte.P | pte.W | pte.U | pte.A
"""An entry above the leaf allows everything: what the path allows is in the child's role."""


def make_link(table: int) -> int:
    """Return the entry that points to the shadow table at host-physical *table*."""
    return table | LINK


def make_spte(hpa: int, access: int, *, writable: bool, large: bool, pkey: int) -> int:
    """Return a leaf entry for the frame at *hpa*.

    *access* is what the guest's path allows; *writable* is false where a write must exit all the
    same: the guest's D is clear, or the frame is a shadowed page table. A is left to hardware, so
    that it tells whether the entry was ever used.
    """
    spte = hpa | pte.P | pkey << pte.PKEY_SHIFT
    if access & pf.W and writable:
        spte |= pte.W
    if access & pf.U:
        spte |= pte.U
    if not access & pf.ID:
        spte |= pte.NX
    return spte | (pte.PS if large else 0)


def access_of(spte: int) -> int:
    """Return what a leaf entry allows, in the bits of a kind."""
    return spte & (pte.W | pte.U) | (0 if spte & pte.NX else pf.ID)


def deprivileged_access(access: int, *, user: bool, cr0_wp: bool) -> int:
    """Return *access* as hardware must have it that runs the guest's kernel in user mode as well.

    Either privilege has entries of its own. Those of the guest's user mode allow what its tables
    allow the user; where that is nothing (no U) none may be built. Those of its kernel allow what
    they allow a supervisor, which SMEP, SMAP and protection keys do not restrict here: every page,
    and writes to all of them while the guest's CR0.WP is clear.
    """
    if user:
        return access
    return access | pf.U | (0 if cr0_wp else pf.W)


def wp_override(access: int, kind: int, regs: Regs) -> int:
    """Return *access* as hardware, which runs with CR0.WP set, must have it for this access.

    A supervisor write to a read-only user page is legal while the guest's CR0.WP is clear: the page
    becomes a writable supervisor page, not executable if SMEP would have forbidden the kernel to
    run it. The user's next access faults and takes the page back. Where NX is not to be had the
    access is left as it is, and the write will be emulated. So it is where SMAP or protection keys
    guard user pages: AC and PKRU change unseen, and would guard a supervisor page no longer.
    """
    if regs.cr0 & CR0_WP or kind & (pf.U | pf.ID) or not kind & pf.W or access & pf.W:
        return access
    lifted = access | pf.W
    if access & pf.U:
        if regs.cr4 & (CR4_SMAP | CR4_PKE):
            return access
        lifted &= ~pf.U
        if regs.cr4 & CR4_SMEP:
            if not regs.efer & EFER_NXE:
                return access
            lifted &= ~pf.ID
    return lifted
