"""What a boot loader leaves behind: the direct map, long mode, and one empty address space."""

from __future__ import annotations

from array import array
from typing import TYPE_CHECKING

from hvmmu._guest.layout import KERNEL_BASE, LARGE_PAGE, ROOT_LEVEL, shift, slot
from hvmmu.arch import pte
from hvmmu.arch.regs import (
    CR0_PE,
    CR0_PG,
    CR0_WP,
    CR4_PAE,
    CR4_PGE,
    EFER_LMA,
    EFER_LME,
    EFER_NXE,
)
from hvmmu.errors import InputError
from hvmmu.types import ENTRIES

if TYPE_CHECKING:
    from hvmmu._guest.frames import Frames
    from hvmmu.types import Gpa
    from hvmmu.vcpu import Vcpu

# Kernel tables stay out of user mode's reach at every level, and are never marked by the CPU later.
_LINK = pte.P | pte.W | pte.A
# Global, as Linux has it: the direct map is the same in all address spaces.
_DIRECT = pte.P | pte.W | pte.A | pte.D | pte.PS | pte.G
# What a table of 2 MiB pages maps; the direct map begins at the first entry of one.
_WHOLE_TABLE = ENTRIES * LARGE_PAGE
assert KERNEL_BASE % _WHOLE_TABLE == 0


def boot(vcpu: Vcpu, frames: Frames) -> Gpa:
    """Build the direct map, turn on 4-level paging, and return the root that CR3 now holds.

    Raise InputError for RAM that 2 MiB pages cannot map whole or the CPU cannot address.
    """
    memory = vcpu.guest_memory
    if memory % LARGE_PAGE or memory > 1 << vcpu.cpu.maxphyaddr:
        raise InputError(
            f"guest.memory: {memory:#x} bytes cannot be mapped with MAXPHYADDR"
            f" {vcpu.cpu.maxphyaddr}; give a multiple of 2M up to {1 << vcpu.cpu.maxphyaddr:#x}"
        )
    root = _build_direct_map(vcpu, frames)
    _turn_paging_on(vcpu, root)
    return root


def _build_direct_map(vcpu: Vcpu, frames: Frames) -> Gpa:
    root, leaf = frames.take_table(), _DIRECT | (pte.NX if vcpu.cpu.nx else 0)
    tables = {ROOT_LEVEL: root}
    for gpa in range(0, vcpu.guest_memory, _WHOLE_TABLE):
        gva = KERNEL_BASE + gpa
        for level in (ROOT_LEVEL, ROOT_LEVEL - 1):
            # A new table begins where the gva's bits below that level are all zero.
            if gpa == 0 or not gva % (1 << shift(level)):
                tables[level - 1] = frames.take_table()
                vcpu.boot_store(slot(tables[level], gva, level), tables[level - 1] | _LINK)
        end = min(gpa + _WHOLE_TABLE, vcpu.guest_memory)
        vcpu.boot_fill(tables[2], array("Q", range(gpa | leaf, end | leaf, LARGE_PAGE)))
    return root


def _turn_paging_on(vcpu: Vcpu, root: Gpa) -> None:
    """Follow SDM "Initializing IA-32e Mode": PAE, LME, CR3, and paging last."""
    vcpu.write_cr4(CR4_PAE | CR4_PGE)
    vcpu.write_efer(EFER_LME | EFER_LMA | (EFER_NXE if vcpu.cpu.nx else 0))
    vcpu.write_cr3(root)
    vcpu.write_cr0(CR0_PE | CR0_WP | CR0_PG)
