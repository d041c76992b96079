"""How fast the walk in two dimensions is: in C against Python, with no TLB before it.

The two take turns, so that what else the machine does falls on both; of each the fastest round
counts. Each walk reads 24 entries, or as many as its tables have.

    python benchmarks/walks.py [ROUNDS]
"""

import sys
from array import array
from time import process_time

from hvmmu._core.walk_2d import CompiledNestedWalker
from hvmmu.arch import pfec as pf
from hvmmu.arch import pte
from hvmmu.arch.ept import EPT_R, EPT_W, EPT_X, ept
from hvmmu.arch.npt import npt
from hvmmu.arch.paging import LONG4, LONG5, PagingMode, formats
from hvmmu.arch.regs import (
    CR0_PE,
    CR0_PG,
    CR0_WP,
    CR4_LA57,
    CR4_PAE,
    EFER_LMA,
    EFER_LME,
    EFER_NXE,
    CpuFeatures,
    Regs,
)
from hvmmu.arch.tdp import TdpFormats
from hvmmu.memory import Memory
from hvmmu.spec.walk_2d import NestedWalker

CPU = CpuFeatures()
PAGES = 512
BACKING = 16 << 20
"""Host-physical address of guest-physical 0."""
HOST_TABLES = 8 << 20
ALL = pte.P | pte.W | pte.U
RWX = EPT_R | EPT_W | EPT_X


def chain(memory: Memory, base: int, root: int, levels: int, entry: int) -> int:
    """Link *levels* - 1 tables from *root* on by their first entries; return the last one."""
    for level in range(levels - 1):
        memory.store(base + root + 4096 * level, root + 4096 * (level + 1) | entry)
    return root + 4096 * (levels - 1)


def tables(memory: Memory, tdp: TdpFormats, guest: int) -> None:
    """Map 512 pages of 4 KiB in the guest's tables, and all of its 2 MiB in the host's."""
    rights = ALL if tdp.inverted else RWX
    leaf = rights if tdp.inverted else rights | 6 << 3
    last = chain(memory, 0, HOST_TABLES, len(tdp.mode.levels), rights)
    for gfn in range(512):
        memory.store(last + 8 * gfn, BACKING + (gfn << 12) | leaf)
    last = chain(memory, BACKING, 0x1000, guest, ALL)
    for page in range(PAGES):
        memory.store(BACKING + last + 8 * page, (16 + page % 480) << 12 | ALL)


def seconds(mode: PagingMode, tdp: TdpFormats, rounds: int) -> tuple[float, float, int]:
    """Return processor seconds for a walk, in Python and in C, and the entries that it reads."""
    memory = Memory(32 << 20)
    tables(memory, tdp, len(mode.levels))
    cr4 = CR4_PAE | (CR4_LA57 if mode is LONG5 else 0)
    efer = EFER_LME | EFER_LMA | EFER_NXE
    regs = Regs(CR0_PE | CR0_PG | CR0_WP, 0x1000, cr4, efer)
    readable, compiled = NestedWalker(memory), CompiledNestedWalker(memory)
    for walker in (readable, compiled):
        walker.load(regs, formats(mode, regs, CPU), tdp, HOST_TABLES)
    few = array("Q", (page << 12 for page in range(PAGES)))
    many = few * 200
    kinds = bytes([pf.U | pf.W]) * len(many)
    best = [float("inf")] * 2
    for _ in range(rounds):
        begun = process_time()
        for gva in few:
            last = readable.walk(gva, pf.U | pf.W)
        between = process_time()
        at, same = compiled.run(many, kinds)
        ended = process_time()
        if (at, same.hpa, same.host_refs) != (len(many), last.hpa, last.host_refs):
            raise AssertionError("the two walks have come to different ends")
        best[0] = min(best[0], (between - begun) / len(few))
        best[1] = min(best[1], (ended - between) / len(many))
    memory.close()
    return best[0], best[1], last.guest_refs + last.host_refs


def main(rounds: str = "5") -> None:
    """Measure, and print a line for each kind of tables."""
    for name, made in (
        ("EPT", lambda levels: ept(CPU, levels)),
        ("EPT with A/D", lambda levels: ept(CPU, levels, accessed_dirty=True)),
        ("nested paging", lambda levels: npt(CPU, levels)),
    ):
        for mode, levels in ((LONG4, 4), (LONG5, 5)):
            python, c, refs = seconds(mode, made(levels), int(rounds))
            print(
                f"{name:<14} {levels} x {levels} levels, {refs} entries:"
                f" Python {1 / python / 1e3:6.1f} k walks/s, C {1 / c / 1e6:6.2f} M walks/s,"
                f" {python / c:6.0f} x"
            )


if __name__ == "__main__":
    main(*sys.argv[1:])
