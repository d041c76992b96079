"""Page slots: the distinct pairs of page and kind that a reduced trace refers to by number."""

from __future__ import annotations

from array import array
from typing import TYPE_CHECKING, NamedTuple

from hvmmu._core.binding import ffi, lib
from hvmmu.types import PAGE_SLOTS

if TYPE_CHECKING:
    from hvmmu.steps import Words
    from hvmmu.types import Buffer


class PageSlots(NamedTuple):
    """PAGE_SLOTS slots, each with a pair of page and kind, or zeros."""

    gva: array[int]
    """The address in bytes of the first such access; format Q."""
    kind: bytearray
    """The kind; 0 if nothing is listed in the slot."""

    @classmethod
    def empty(cls) -> PageSlots:
        """Return slots with nothing in them."""
        return cls(array("Q", bytes(8 * PAGE_SLOTS)), bytearray(PAGE_SLOTS))

    def copy(self) -> PageSlots:
        """Return slots with the same pairs."""
        return PageSlots(self.gva[:], self.kind[:])

    def count_listed(self, slots: Words) -> int:
        """Return how many of *slots* (format H) have something listed."""
        numbers = ffi.from_buffer("uint16_t[]", slots)
        kinds = ffi.from_buffer("uint8_t[]", self.kind)
        count: int = lib.hvt_count_listed(numbers, len(numbers), kinds)
        return count

    def list_pairs(self, slots: Words, gva: Words, kind: Buffer) -> None:
        """List pairs, each in its slot: formats H, Q and B, equally many."""
        numbers = ffi.from_buffer("uint16_t[]", slots)
        lib.hvt_list_slots(
            numbers,
            ffi.from_buffer("uint64_t[]", gva),
            ffi.from_buffer("uint8_t[]", kind),
            len(numbers),
            ffi.from_buffer("uint64_t[]", self.gva),
            ffi.from_buffer("uint8_t[]", self.kind),
        )


def all_within(gva: Words, start: int, end: int) -> bool:
    """Return whether start <= address < end for all addresses (format Q, in bytes)."""
    addresses = ffi.from_buffer("uint64_t[]", gva)
    return bool(lib.hvt_all_within(addresses, len(addresses), start, end))
