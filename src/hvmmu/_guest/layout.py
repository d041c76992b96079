"""Where the guest kernel puts things: the user half, the direct map, the 4-level index of a gva."""

from hvmmu.types import Gpa, Gva

LARGE_PAGE = 2 << 20
"""Bytes that a level-2 leaf maps."""
USER_END = 1 << 47
"""First byte above the lower canonical half: SDM "Canonical Addressing"."""
KERNEL_BASE = 0xFFFF_8880_0000_0000
"""Where guest-physical address 0 appears in every address space: Linux's direct map."""
ROOT_LEVEL = 4


def kernel_gva(gpa: int) -> Gva:
    """Return the address at which the kernel sees guest-physical *gpa*."""
    return Gva(KERNEL_BASE + gpa)


def shift(level: int) -> int:
    """Return how many low bits of a gva an entry of *level* does not decide."""
    return 3 + 9 * level


def index(gva: int, level: int) -> int:
    """Return which of the 512 entries of a *level* table translates *gva*."""
    return gva >> shift(level) & 511


def slot(table: int, gva: int, level: int) -> Gpa:
    """Return the guest-physical address of the entry for *gva* in *table*."""
    return Gpa(table + 8 * index(gva, level))
