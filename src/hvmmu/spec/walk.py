"""The reference page walk: one walker for every paging mode, written to be read.

A 48-bit linear address under 4-level paging, SDM "4-Level Paging and 5-Level Paging"::

    63      48 47      39 38      30 29      21 20      12 11         0
    | sign    |  PML4    |  PDPT    |   PD     |   PT     |  offset    |
                level 4    level 3    level 2    level 1
"""

import enum
from typing import NamedTuple

from attrs import define

from hvmmu.arch import pfec as pf
from hvmmu.arch import pte
from hvmmu.arch.paging import LEGACY32, PAE, Formats, Level
from hvmmu.arch.regs import (
    CR0_WP,
    CR4_PGE,
    CR4_PKE,
    CR4_SMAP,
    CR4_SMEP,
    EFER_LMA,
    EFER_NXE,
    Regs,
)
from hvmmu.memory import Space

ALL_ACCESS = pf.W | pf.U | pf.ID
"""What the root allows before any entry narrows it: *access* has the bits of a kind."""


class Outcome(enum.Enum):
    """How a walk ended."""

    OK = "ok"
    PAGE_FAULT = "pf"
    GENERAL_PROTECTION = "gp"
    """The address is not canonical, or a PAE page-directory pointer has reserved bits set."""


class Step(NamedTuple):
    """One entry that a walk read: where it lies, what it held, what the path allows so far."""

    level: int
    pa: int
    entry: int
    access: int


@define
class Walk:
    """The result of a walk; the fields below *path* mean something only where *outcome* is OK."""

    outcome: Outcome
    pfec: int
    path: list[Step]
    pa: int = 0
    """The physical address that the linear address translates to."""
    access: int = 0
    """What the whole path allows, in the bits of a kind: W, U, ID (fetch)."""
    dirty: bool = False
    """D of the leaf after the walk."""
    is_global: bool = False
    pkey: int = 0

    @property
    def level(self) -> int:
        """The level of the last entry read, 0 if none was."""
        return self.path[-1].level if self.path else 0


def permission_fault(access: int, pkey: int, kind: int, regs: Regs) -> int:
    """Return 0 if *access* allows *kind*, else the error-code bits P and PK that say why not.

    SDM "Access Rights", "Protection Keys".
    """
    user, write, fetch = kind & pf.U, kind & pf.W, kind & pf.ID
    user_page = access & pf.U
    wp = regs.cr0 & CR0_WP
    denied = bool(fetch and not access & pf.ID)
    if user:
        denied |= not user_page or bool(write and not access & pf.W)
    else:
        denied |= bool(write and wp and not access & pf.W)
        if user_page and fetch:
            denied |= bool(regs.cr4 & CR4_SMEP)
        elif user_page:
            denied |= bool(regs.cr4 & CR4_SMAP and not regs.rflags_ac)
    if user_page and not fetch and regs.cr4 & CR4_PKE and regs.efer & EFER_LMA:
        rights = regs.pkru >> (2 * pkey)
        if rights & 1 or (rights & 2 and write and (user or wp)):
            return pf.P | pf.PK
    return pf.P if denied else 0


def reported_kind(kind: int, formats: Formats, regs: Regs) -> int:
    """Return the bits of *kind* that an error code shows: ID only under NXE or SMEP."""
    nxe = regs.efer & EFER_NXE and formats.mode is not LEGACY32
    return kind if nxe or regs.cr4 & CR4_SMEP else kind & ~pf.ID


def walk(space: Space, regs: Regs, formats: Formats, va: int, kind: int) -> Walk:
    """Translate *va* for an access of *kind*, setting accessed and dirty bits if it succeeds.

    *space* is the physical memory that the entries lie in and point into; *formats* must be those
    of *regs*. Accessed bits are set only by a walk that succeeds (a CPU may set those above the
    faulting level: SDM "Accessed and Dirty Flags").
    """
    mode = formats.mode
    path: list[Step] = []
    if not mode.is_canonical(va):
        return Walk(Outcome.GENERAL_PROTECTION, 0, path)
    shown = reported_kind(kind, formats, regs)
    table = _root(regs.cr3, formats)
    access = ALL_ACCESS
    for level in mode.levels:
        n = level.level
        where = table + level.index(va) * mode.entry_size
        entry = space.load(where, mode.entry_size)
        pointer = mode is PAE and n == 3
        if entry & pte.P and not pointer:
            access &= _allowed(entry)
        path.append(Step(n, where, entry, access))
        if not entry & pte.P:
            return Walk(Outcome.PAGE_FAULT, shown, path)
        large = bool(entry & pte.PS) and formats.large[n]
        if entry & (formats.reserved_large if large else formats.reserved)[n]:
            if pointer:  # loaded with CR3, so it is the load that faults
                return Walk(Outcome.GENERAL_PROTECTION, 0, path)
            return Walk(Outcome.PAGE_FAULT, shown | pf.P | pf.RSVD, path)
        if large or n == 1:
            break
        table = entry & pte.ADDRESS
    pkey = entry >> pte.PKEY_SHIFT & 0xF
    denied = permission_fault(access, pkey, kind, regs)
    if denied:
        return Walk(Outcome.PAGE_FAULT, shown | denied, path)
    dirty = bool(entry & pte.D or kind & pf.W)
    _set_accessed_dirty(space, formats, path, kind)
    pa = _frame(entry, level, formats) | va & (level.span - 1)
    is_global = bool(entry & pte.G and regs.cr4 & CR4_PGE)
    return Walk(Outcome.OK, 0, path, pa, access, dirty, is_global, pkey)


def _root(cr3: int, formats: Formats) -> int:
    if formats.mode is PAE:
        return cr3 & 0xFFFF_FFE0
    return cr3 & (0xFFFF_F000 if formats.mode is LEGACY32 else pte.ADDRESS)


def _allowed(entry: int) -> int:
    """Return what one entry allows: W and U are its own bits, fetch is the absence of NX."""
    return entry & (pte.W | pte.U) | (0 if entry & pte.NX else pf.ID)


def _frame(entry: int, level: Level, formats: Formats) -> int:
    base = entry & pte.ADDRESS & -level.span
    if level.level == 2 and formats.pse36:
        base |= (entry & formats.pse36) << 19  # bits 20:13 become 39:32
    return base


def _set_accessed_dirty(space: Space, formats: Formats, path: list[Step], kind: int) -> None:
    """Set A in every entry used, D in the leaf of a write; store only what changes."""
    for step in path:
        if formats.mode is PAE and step.level == 3:
            continue
        entry = step.entry | pte.A
        if step is path[-1] and kind & pf.W:
            entry |= pte.D
        if entry != step.entry:
            space.store(step.pa, entry, formats.mode.entry_size)
