"""The second dimension's tables as data, which one walker reads; `ept.py` and `npt.py` make it.

A guest-physical address is *used* in one of seven ways. Formats say by use what entries must grant,
and what hardware reports if they do not.
"""

import enum

import attrs

from hvmmu.arch import pfec as pf
from hvmmu.arch import pte
from hvmmu.arch.paging import LONG4, LONG5, PagingMode


class Use(enum.IntEnum):
    """What a guest-physical address is accessed for."""

    TABLE = 0
    """An entry of the guest's tables is read."""
    POINTER = 1
    """The same for a PAE page-directory pointer, which hardware loads with CR3."""
    MARK = 2
    """Accessed or dirty is set in such an entry."""
    READ = 3
    WRITE = 4
    FETCH = 5
    """The guest's own access, at the address that its tables lead to."""
    FETCH_USER = 6
    """A fetch from a page that is the user's in the guest's tables."""


def use_of(kind: int, access: int) -> Use:
    """Return what an access of *kind* makes of the page that the guest's path gives *access* to."""
    if kind & pf.ID:
        return Use.FETCH_USER if access & pf.U else Use.FETCH
    return Use.WRITE if kind & pf.W else Use.READ


class Cause(enum.IntEnum):
    """Why the second dimension stopped a walk."""

    NOT_PRESENT = 0
    RESERVED = 1
    """A present entry is not well-formed: EPT calls it a misconfiguration."""
    DENIED = 2
    """The path does not allow this use."""


@attrs.frozen
class Need:
    """What one use asks of a path, and its part in the code that hardware reports."""

    bits: int
    """All of them must be set in every entry, after the inverted ones are turned over."""
    code: int
    dirties: bool = False
    """It is a write to the page: D is set."""


@attrs.frozen
class TdpFormats:
    """What the walk must know of the second dimension's entries; large and reserved by level."""

    mode: PagingMode
    present: int
    """An entry with none of these bits maps nothing."""
    inverted: int
    """Bits that forbid when they are set."""
    large: tuple[bool, ...]
    reserved: tuple[int, ...]
    reserved_large: tuple[int, ...]
    without_read: int
    """Bits that must not be set while bit 0 is clear."""
    memory_types: int
    """Bit *n* set: a leaf may have *n* in its bits 5:3."""
    accessed: int
    """The bit to set in entries used, 0 if there is none."""
    dirty: int
    """The bit to set in the leaf of a write, 0 if there is none."""
    needs: tuple[Need, ...]
    """By use."""
    codes: tuple[int, ...]
    """By cause: its part in the code."""
    reserved_tells: bool
    """A reserved bit is reported with a code; else with none."""
    shown: tuple[tuple[int, int], ...] = ()
    """Bits that all entries of the path have, and the bits of the code that tell of them."""
    guest_shown: tuple[tuple[int, int], ...] = ()
    """Bits of the guest's access, and the bits of the code that they turn over."""

    def is_leaf(self, entry: int, level: int) -> bool:
        """Say whether a present entry maps a page."""
        return level == 1 or bool(entry & pte.PS and self.large[level])

    def is_reserved(self, entry: int, level: int) -> bool:
        """Say whether a present entry is not well-formed."""
        leaf = self.is_leaf(entry, level)
        if entry & (self.reserved_large if leaf else self.reserved)[level]:
            return True
        if entry & self.without_read and not entry & 1:
            return True
        return leaf and not self.memory_types >> (entry >> 3 & 7) & 1

    def allows(self, path: int, use: Use) -> bool:
        """Say whether entries that agree on the bits *path* grant a use."""
        return not self.needs[use].bits & ~path

    def code(self, cause: Cause, use: Use, path: int, access: int) -> int:
        """Return what hardware reports: an exit qualification, or an error code.

        *path* are the bits that all entries met have, *access* is what the guest's own path allows
        if its walk came to an end.
        """
        if cause is Cause.RESERVED and not self.reserved_tells:
            return 0
        code = self.codes[cause] | self.needs[use].code
        code |= sum(told for bit, told in self.shown if path & bit)
        if use >= Use.READ:
            for bit, turned in self.guest_shown:
                code ^= turned if access & bit else 0
        return code


def host_mode(levels: int) -> PagingMode:
    """Return 4 or 5 levels over guest-physical addresses, which know no sign."""
    modes = {4: LONG4, 5: LONG5}
    return attrs.evolve(modes[levels], name=f"tdp{levels}", sign_extended=False)
