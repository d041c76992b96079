"""A look into the TLB, for a translation that the tables do not give."""

from __future__ import annotations

from typing import TYPE_CHECKING

from hvmmu.arch import pfec as pf
from hvmmu.arch import pte
from hvmmu.arch.regs import CR0_PG
from hvmmu.backend import Paging
from hvmmu.spec.tlb import SHIFTS

if TYPE_CHECKING:
    from hvmmu.machine import Platform
    from hvmmu.spec.tlb import TlbEntry

_SHIFT = {4: 39, 3: 30, 2: 21, 1: 12}


def stale_entry(platform: Platform) -> str:
    """Return a TLB entry that allows more than the shadow tables; empty if there is none.

    Only a machine with a hypervisor is audited: there every table update flushes at once, while a
    guest on a bare machine may defer the flush.
    """
    tlb = getattr(platform.engine, "tlb", None)
    bare = platform.backend.caps.paging is Paging.BARE
    if tlb is None or bare or not platform.vcpu.core.regs.cr0 & CR0_PG:
        return ""
    for entry in tlb.entries():
        why = _why(platform, entry)
        if why:
            size = SHIFTS[entry.tag & 3]
            va = entry.tag >> 2 << size
            return f"{va:#x} is cached as {entry.base:#x}, allowing {_allowed(entry.access)}, {why}"
    return ""


def _why(platform: Platform, entry: TlbEntry) -> str:
    va = entry.tag >> 2 << SHIFTS[entry.tag & 3]
    found = _translated(platform, va)
    if found is None:
        return "and the tables map nothing there"
    base, access = found
    if base & ~entry.mask != entry.base:
        return f"and the tables map {base & ~entry.mask:#x}"
    beyond = entry.access & ~access
    return f"and the tables forbid {_allowed(beyond)}" if beyond else ""


def _allowed(access: int) -> str:
    """Return the permissions of an entry in words."""
    words = [(pf.W, "writes"), (pf.U, "user mode"), (pf.ID, "fetches")]
    return " and ".join(word for bit, word in words if access & bit) or "reads"


def _translated(platform: Platform, va: int) -> tuple[int, int] | None:
    """Walk the shadow tables without side effects; return address and permissions of *va*."""
    memory, table = platform.memory, platform.vcpu.core.regs.cr3
    nonpresent = platform.backend.nonpresent()
    access = pf.W | pf.U | pf.ID
    for level in (4, 3, 2, 1):
        entry = memory.load((table & pte.ADDRESS) + 8 * (va >> _SHIFT[level] & 511))
        if not entry & pte.P or not nonpresent.is_present(entry):
            return None
        access &= entry & (pte.W | pte.U) | (0 if entry & pte.NX else pf.ID)
        if level == 1 or entry & pte.PS:
            span = (1 << _SHIFT[level]) - 1
            return entry & pte.ADDRESS & ~span | va & span, access
        table = entry
    return None
