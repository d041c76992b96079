"""Nested paging's entries, and the error code of what they forbid."""

from hvmmu.arch import pfec as pf
from hvmmu.arch import pte
from hvmmu.arch.paging import LONG4, LONG5, formats
from hvmmu.arch.regs import EFER_LMA, EFER_NXE, CpuFeatures, Regs
from hvmmu.arch.tdp import Need, TdpFormats, host_mode

NPF_FINAL = 1 << 32
"""In a nested page fault's error code: it arose at the address that the guest's tables lead to."""
NPF_TABLE = 1 << 33
"""It arose at an entry of the guest's tables."""


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
        host_mode(levels),
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
