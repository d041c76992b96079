"""Where the guest kernel puts things, how a gva picks an entry, and what its fault handler bears.

The build writes these numbers into C's header too.
"""

from hvmmu.types import Gpa, Gva

LARGE_PAGE = 2 << 20
"""Bytes that a level-2 leaf maps."""
USER_END = 1 << 47
"""First byte above the lower canonical half: SDM "Canonical Addressing"."""
KERNEL_BASE = 0xFFFF_8880_0000_0000
"""Where guest-physical address 0 appears in every address space: Linux's direct map."""
ROOT_LEVEL = 4
ENTRY_SHIFT = 3
"""log2 of the bytes of an entry."""
INDEX_BITS = 9
"""log2 of the entries of a table."""

MOST_REPEATS = 8
"""The same fault this often in a row, with nothing between: resolving it has no effect."""
RECORD = 12
"""Bytes of a fault in the log: CR2 in eight, the error code in four, little-endian."""


def kernel_gva(gpa: int) -> Gva:
    """Return the address at which the kernel sees guest-physical *gpa*."""
    return Gva(KERNEL_BASE + gpa)


def shift(level: int) -> int:
    """Return how many low bits of a gva an entry of *level* does not decide."""
    return ENTRY_SHIFT + INDEX_BITS * level


def index(gva: int, level: int) -> int:
    """Return which of the 512 entries of a *level* table translates *gva*."""
    return gva >> shift(level) & (1 << INDEX_BITS) - 1


def slot(table: int, gva: int, level: int) -> Gpa:
    """Return the guest-physical address of the entry for *gva* in *table*."""
    return Gpa(table + (index(gva, level) << ENTRY_SHIFT))
