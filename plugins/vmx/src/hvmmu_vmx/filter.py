"""The page-fault filter: which error codes exit, SDM "Other Causes of VM Exits"."""

from hvmmu.engine import FILTER_BITS

PAGE_FAULT_BIT = 1 << 14
"""The page fault's bit in the exception bitmap."""


def exits(pfec: int, mask: int, match: int, bitmap: int) -> bool:
    """Say whether a page fault with error code *pfec* exits.

    Where the masked code differs from *match*, the meaning of the bitmap's bit is reversed.
    """
    return ((pfec & mask) == match) == bool(bitmap & PAGE_FAULT_BIT)


def compile_filter(mask: int, match: int, bitmap: int) -> int:
    """Return the rule as the 64-entry table that hardware obeys: bit *pfec* set means exit.

    The table knows the low six bits of an error code; the rest is zero there.
    """
    return sum(1 << pfec for pfec in range(FILTER_BITS) if exits(pfec, mask, match, bitmap))
