"""The second dimension's tables as data: what EPT and nested paging make of an entry.

One walker reads both. A guest-physical address is *used* in one of seven ways, and each format says
by use what its entries must grant and what hardware reports if they do not.
"""

import enum

import attrs

from hvmmu.arch import pfec as pf
from hvmmu.arch import pte
from hvmmu.arch.paging import LONG4, LONG5, PagingMode, formats
from hvmmu.arch.regs import EFER_LMA, EFER_NXE, CpuFeatures, Regs


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


EPT_R = 1 << 0
EPT_W = 1 << 1
EPT_X = 1 << 2
"""Fetches are allowed; with mode-based execute control only those from supervisor pages."""
EPT_A = 1 << 8
EPT_D = 1 << 9
EPT_XU = 1 << 10
"""With mode-based execute control: fetches from user pages are allowed."""
EPT_MEMORY_TYPE = 7 << 3
_EPT_MEMORY_TYPES = 0b0111_0011  # 2, 3 and 7 are reserved

# The exit qualification, SDM "VM-Exit Information Fields", beside bits 2:0, which are R, W and X.
_LINEAR = 1 << 7
"""The guest-linear address is valid."""
_FINAL = 1 << 8
_USER_PAGE, _WRITABLE_PAGE, _NX_PAGE = 1 << 9, 1 << 10, 1 << 11

NPF_FINAL = 1 << 32
"""In a nested page fault's error code: it arose at the address that the guest's tables lead to."""
NPF_TABLE = 1 << 33
"""It arose at an entry of the guest's tables."""


def _host_mode(levels: int) -> PagingMode:
    """Return 4 or 5 levels over guest-physical addresses, which know no sign."""
    modes = {4: LONG4, 5: LONG5}
    return attrs.evolve(modes[levels], name=f"tdp{levels}", sign_extended=False)


def ept(
    cpu: CpuFeatures,
    levels: int = 4,
    *,
    accessed_dirty: bool = False,
    mode_based: bool = False,
    execute_only: bool = True,
    advanced: bool = False,
) -> TdpFormats:
    """Return EPT's entries with 4 or 5 *levels*: SDM "EPT Translation Mechanism".

    *accessed_dirty* is bit 6 of the EPTP, with which reads of the guest's tables count as writes:
    SDM "Accessed and Dirty Flags for EPT". *mode_based* is mode-based execute control;
    *execute_only* says whether X without R is well-formed: SDM "EPT Misconfigurations". *advanced*
    is advanced exit information: bits 11:9 of the qualification tell of the guest's page.
    """
    mode = _host_mode(levels)
    user = EPT_XU if mode_based else 0
    fetch_user = user or EPT_X
    end = _LINEAR | _FINAL | (_NX_PAGE if advanced else 0)
    table = Need(EPT_R, EPT_R | _LINEAR)
    if accessed_dirty:  # both bits are reported then: SDM "EPT Violations"
        table = Need(EPT_R | EPT_W, EPT_R | EPT_W | _LINEAR, dirties=True)
    needs = (
        table,
        Need(EPT_R, EPT_R),  # a load of PDPTEs is a read in any case, and has no linear address
        Need(EPT_W, EPT_W | _LINEAR, dirties=True),
        Need(EPT_R, EPT_R | end),
        Need(EPT_W, EPT_W | end, dirties=True),
        Need(EPT_X, EPT_X | end),
        Need(fetch_user, EPT_X | end),
    )
    small, big, large = _ept_reserved(mode, cpu)
    guest = ((pf.U, _USER_PAGE), (pf.W, _WRITABLE_PAGE), (pf.ID, _NX_PAGE))
    return TdpFormats(
        mode,
        present=EPT_R | EPT_W | EPT_X | user,
        inverted=0,
        large=large,
        reserved=small,
        reserved_large=big,
        without_read=EPT_W | (0 if execute_only else EPT_X | user),
        memory_types=_EPT_MEMORY_TYPES,
        accessed=EPT_A if accessed_dirty else 0,
        dirty=EPT_D if accessed_dirty else 0,
        needs=needs,
        codes=(0, 0, 0),
        reserved_tells=False,
        shown=((EPT_R, 1 << 3), (EPT_W, 1 << 4), (EPT_X, 1 << 5), *_if(mode_based, EPT_XU, 1 << 6)),
        guest_shown=guest if advanced else (),
    )


def _if(condition: bool, bit: int, code: int) -> tuple[tuple[int, int], ...]:
    return ((bit, code),) if condition else ()


def _ept_reserved(
    mode: PagingMode, cpu: CpuFeatures
) -> tuple[tuple[int, ...], tuple[int, ...], tuple[bool, ...]]:
    """Return EPT's reserved bits of entries and of large ones, and which levels have large ones."""
    beyond = ~((1 << cpu.maxphyaddr) - 1) & pte.ADDRESS
    depth = len(mode.levels)
    small, big, large = [0] * (depth + 1), [0] * (depth + 1), [False] * (depth + 1)
    for level in mode.levels:
        n = level.level
        large[n] = level.large and (n != 3 or cpu.gbpages)
        # Only a leaf has a memory type; at level 1 bit 7 is ignored.
        small[n] = beyond | (0 if n == 1 else 0x78 if large[n] else 0xF8)
        big[n] = beyond | (level.span - 1 & pte.ADDRESS if n > 1 else 0)
    return tuple(small), tuple(big), tuple(large)


def npt(cpu: CpuFeatures, levels: int = 4, *, nxe: bool = True) -> TdpFormats:
    """Return nested paging's entries, those of a host in long mode: APM "Nested Table Walk".

    Every nested access is a user's, and the guest's tables are always written to: APM "Nested
    versus Guest Page Faults, Fault Ordering". *nxe* is the host's EFER.NXE.
    """
    host = Regs(efer=EFER_LMA | (EFER_NXE if nxe else 0))
    ordinary = formats(LONG4 if levels == 4 else LONG5, host, cpu)
    table = Need(pte.W | pte.U, pf.W | pf.U | NPF_TABLE, dirties=True)
    fetch = Need(pte.U | pte.NX, pf.U | (pf.ID if nxe else 0) | NPF_FINAL)
    read = Need(pte.U, pf.U | NPF_FINAL)
    write = Need(pte.W | pte.U, pf.W | pf.U | NPF_FINAL, dirties=True)
    return TdpFormats(
        _host_mode(levels),
        present=pte.P,
        inverted=pte.NX,
        large=ordinary.large,
        reserved=ordinary.reserved,
        reserved_large=ordinary.reserved_large,
        without_read=0,
        memory_types=0xFF,
        accessed=pte.A,
        dirty=pte.D,
        needs=(table, table, table, read, write, fetch, fetch),
        codes=(0, pf.P | pf.RSVD, pf.P),
        reserved_tells=True,
    )
