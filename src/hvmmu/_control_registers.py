"""What a write to a control register does in hardware: which bits exist, and what it flushes.

SDM "Operations that Invalidate TLBs and Paging-Structure Caches".
"""

from hvmmu.arch.regs import (
    CR0_PE,
    CR0_PG,
    CR0_WP,
    CR4_PAE,
    CR4_PGE,
    CR4_SMEP,
    EFER_LMA,
    EFER_LME,
    EFER_NXE,
    CpuFeatures,
)
from hvmmu.tlb import Scope


def missing_bits(register: str, value: int, cpu: CpuFeatures) -> int:
    """Return those bits of *value* that *register* (cr0, cr3, cr4, efer) does not have: #GP."""
    if register == "cr3":
        return value >> cpu.maxphyaddr << cpu.maxphyaddr
    there = {
        "cr0": CR0_PE | CR0_WP | CR0_PG,
        "cr4": cpu.cr4_allowed(),
        "efer": EFER_LME | EFER_LMA | (EFER_NXE if cpu.nx else 0),
    }
    return value & ~there[register]


def flushed(register: str, old: int, new: int) -> Scope | None:
    """Return what writing *new* over *old* flushes; EFER flushes nothing, that is left to software.

    CR0.WP and CR4.SMAP need no flush, as they are looked at in each access and not cached.
    """
    changed = old ^ new
    if register == "cr3":
        return Scope.NON_GLOBAL
    if register == "cr0":
        return Scope.ALL if changed & CR0_PG else None
    if register == "cr4" and (changed & (CR4_PGE | CR4_PAE) or changed & new & CR4_SMEP):
        return Scope.ALL
    return None
