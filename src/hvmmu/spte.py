"""Shadow entries: the values that stand for "not built", and what an entry allows.

Presence is never read from the hardware P bit: the trap value has P set.
"""

from typing import NamedTuple

from hvmmu.arch import pfec as pf
from hvmmu.arch import pte


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


def access_of(spte: int) -> int:
    """Return what an entry allows, in the bits of a kind."""
    return spte & (pte.W | pte.U) | (0 if spte & pte.NX else pf.ID)
