"""The words for addresses and frames: plain ints that mypy keeps apart."""

from typing import TYPE_CHECKING, NewType

if TYPE_CHECKING:
    from typing_extensions import Buffer
else:
    Buffer = object  # collections.abc.Buffer arrives in Python 3.12

__all__ = [
    "ENTRIES",
    "PAGE_SHIFT",
    "PAGE_SIZE",
    "PAGE_SLOTS",
    "Buffer",
    "Gfn",
    "Gpa",
    "Gva",
    "Hpa",
    "Pfn",
]

Gva = NewType("Gva", int)
"""Guest virtual address, in bytes."""
Gpa = NewType("Gpa", int)
"""Guest physical address, in bytes."""
Hpa = NewType("Hpa", int)
"""Host physical address, in bytes."""
Gfn = NewType("Gfn", int)
"""Guest frame number: a guest physical address without its 12 low bits."""
Pfn = NewType("Pfn", int)
"""Host page frame number: a host physical address without its 12 low bits."""

PAGE_SHIFT = 12
PAGE_SIZE = 1 << PAGE_SHIFT
ENTRIES = 512
"""Entries of 64 bits in one page-table frame."""
PAGE_SLOTS = 1 << 16
"""Slots for pairs of page and kind in a reduced trace: what an index of 16 bits can tell apart."""
