"""The paging modes as tables: one walker reads them all.

SDM "Hierarchical Paging Structures: An Overview"; which bits are reserved stands at the end of each
mode's section. Levels count as KVM does, level 1 being the one that maps 4 KiB pages.
"""

from typing import NamedTuple

from attrs import frozen

from hvmmu.arch import pte
from hvmmu.arch.regs import (
    CR0_PG,
    CR4_LA57,
    CR4_PAE,
    CR4_PSE,
    EFER_LMA,
    EFER_NXE,
    CpuFeatures,
    Regs,
)


@frozen
class Level:
    """One level of a mode: which bits of the address index it, and whether PS makes it a leaf."""

    level: int
    shift: int
    bits: int
    large: bool = False
    """PS can make an entry of this level a leaf."""

    @property
    def span(self) -> int:
        """Bytes that one entry maps."""
        return 1 << self.shift

    def index(self, va: int) -> int:
        """Return the index of the entry that translates *va*."""
        return (va >> self.shift) & ((1 << self.bits) - 1)


@frozen
class PagingMode:
    """A paging mode: its levels from the root down, the size of its entries, its address width."""

    name: str
    levels: tuple[Level, ...]
    entry_size: int
    va_bits: int
    sign_extended: bool = False
    """Linear addresses must be canonical: bits above va_bits repeat its top bit."""

    def is_canonical(self, va: int) -> bool:
        """Say whether the CPU would translate *va* at all."""
        if not self.sign_extended:
            return va >> self.va_bits == 0
        top = va >> (self.va_bits - 1)
        return top in (0, (1 << (65 - self.va_bits)) - 1)


LEGACY32 = PagingMode("legacy32", (Level(2, 22, 10, large=True), Level(1, 12, 10)), 4, 32)
PAE = PagingMode("pae", (Level(3, 30, 2), Level(2, 21, 9, large=True), Level(1, 12, 9)), 8, 32)
_LONG = (Level(3, 30, 9, large=True), Level(2, 21, 9, large=True), Level(1, 12, 9))
LONG4 = PagingMode("long4", (Level(4, 39, 9), *_LONG), 8, 48, sign_extended=True)
LONG5 = PagingMode("long5", (Level(5, 48, 9), Level(4, 39, 9), *_LONG), 8, 57, sign_extended=True)
MODES = (LEGACY32, PAE, LONG4, LONG5)


def mode_of(regs: Regs) -> PagingMode | None:
    """Return the mode in force, None when paging is off: SDM "Paging-Mode Enabling"."""
    if not regs.cr0 & CR0_PG:
        return None
    if not regs.cr4 & CR4_PAE:
        return LEGACY32
    if not regs.efer & EFER_LMA:
        return PAE
    return LONG5 if regs.cr4 & CR4_LA57 else LONG4


class Formats(NamedTuple):
    """What the walk must know of a mode's entries under the registers in force.

    reserved and reserved_large are indexed by level; at a level without large pages the two are
    the same, as PS is then itself reserved, ignored, or PAT.
    """

    mode: PagingMode
    reserved: tuple[int, ...]
    reserved_large: tuple[int, ...]
    large: tuple[bool, ...]
    """By level: an entry with PS set is a leaf."""
    pse36: int = 0
    """Physical-address bits 39:32 that a 4 MiB entry can carry in its bits 20:13."""


def formats(mode: PagingMode, regs: Regs, cpu: CpuFeatures) -> Formats:
    """Work out reserved bits and large pages once, when the registers change, not at each walk."""
    if mode is LEGACY32:
        return _legacy32(mode, regs, cpu)
    high = ~((1 << cpu.maxphyaddr) - 1) & pte.ADDRESS
    if mode is PAE:
        high |= 0x7FF << 52  # PAE: bits 62:52 are reserved, not ignored
    if not regs.efer & EFER_NXE:
        high |= pte.NX
    depth = len(mode.levels)
    small, big, large = [0] * (depth + 1), [0] * (depth + 1), [False] * (depth + 1)
    for level in mode.levels:
        n = level.level
        small[n] = big[n] = high
        large[n] = level.large and (n != 3 or cpu.gbpages)
        if large[n]:
            # Bits below the page's own size are reserved, except bit 12, which is PAT.
            big[n] = high | ((level.span - 1) & pte.ADDRESS & ~pte.PAT_LARGE)
        elif n > 1:
            small[n] = big[n] = high | pte.PS
        if n >= 4 and cpu.mbz_bit8:
            small[n] = big[n] = small[n] | pte.G
    if mode is PAE:
        # A PDPTE: bits 2:1, 8:5 and everything from MAXPHYADDR up are reserved, NX included.
        small[3] = big[3] = high | 0x1E6 | pte.NX
    return Formats(mode, tuple(small), tuple(big), tuple(large))


def _legacy32(mode: PagingMode, regs: Regs, cpu: CpuFeatures) -> Formats:
    """PSE-36: bits 20:13 of a 4 MiB entry are physical bits 39:32, bit 21 is reserved."""
    pse = bool(regs.cr4 & CR4_PSE)
    width = min(cpu.maxphyaddr, 40)
    carried = ((1 << (width - 32)) - 1) << 13
    beyond = (0xFF << 13) & ~carried
    return Formats(mode, (0, 0, 0), (0, 0, 1 << 21 | beyond), (False, False, pse), carried)


def reserved_pattern_works(pattern: int, cpu: CpuFeatures) -> bool:
    """Say whether *pattern* raises RSVD in every 4-level or 5-level entry, whatever the guest does.

    With MAXPHYADDR 52 and NX on offer no bit of an entry is reserved at level 1 (PS is PAT there),
    so nothing that is present can be told from a mapping.
    """
    reserved = ~((1 << cpu.maxphyaddr) - 1) & pte.ADDRESS
    if not cpu.nx:
        reserved |= pte.NX
    return bool(pattern & pte.P and pattern & reserved)
