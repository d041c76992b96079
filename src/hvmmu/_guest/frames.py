"""Who owns each frame of guest RAM: page tables in one zone, data in another.

The zones never share a 2 MiB page, so write-protecting page tables does not split the direct map
of data. Frames are handed out in address order, given-back ones first and last-in first-out: the
same steps always get the same frames.
"""

from __future__ import annotations

from mmap import mmap
from typing import TYPE_CHECKING

from hvmmu._guest.layout import LARGE_PAGE, kernel_gva
from hvmmu.errors import GuestMemoryError, InvariantError
from hvmmu.types import PAGE_SIZE, Gpa

if TYPE_CHECKING:
    from hvmmu.vcpu import Vcpu


class Zone:
    """Frames from *first* up to, not including, *end*; both are guest-physical addresses."""

    __slots__ = ("end", "first", "free", "name", "next")

    def __init__(self, name: str, first: int, end: int) -> None:
        self.name, self.first, self.end = name, first, end
        self.next = first
        self.free: list[Gpa] = []
        """Frames given back, the last one first to go out again."""

    @property
    def in_use(self) -> int:
        """Count the frames handed out and not given back."""
        return (self.next - self.first) // PAGE_SIZE - len(self.free)

    def take(self) -> tuple[Gpa, bool]:
        """Return a frame, and whether it is fresh: never used since boot, hence zero."""
        if self.free:
            return self.free.pop(), False
        if self.next >= self.end:
            size = (self.end - self.first) // PAGE_SIZE
            raise GuestMemoryError(
                f"the guest used up its {size} {self.name} frames, the last at"
                f" {self.end - PAGE_SIZE:#x}; raise guest.memory"
            )
        frame = Gpa(self.next)
        self.next += PAGE_SIZE
        return frame, True

    def give(self, frame: Gpa) -> None:
        """Take *frame* back."""
        self.free.append(frame)


class Frames:
    """Allocate guest frames and count how many mappings share each data frame.

    A frame that was used before is cleared through the direct map when it is handed out again;
    the page cache holds one share of each of its frames, so 1 means one private mapping.
    """

    def __init__(self, vcpu: Vcpu) -> None:
        border = max(LARGE_PAGE, vcpu.guest_memory // 8 // LARGE_PAGE * LARGE_PAGE)
        self._vcpu = vcpu
        # Frame 0 stays unused: an entry of zero then names no frame at all.
        self.tables = Zone("page-table", PAGE_SIZE, border)
        self.data = Zone("data", border, vcpu.guest_memory)
        counts = mmap(-1, (vcpu.guest_memory - border) // PAGE_SIZE * 4)
        self.shared = memoryview(counts).cast("I")
        """How many hold each data frame."""

    def take_table(self) -> Gpa:
        """Return a cleared frame for a page table."""
        return self._cleared(self.tables)

    def give_table(self, frame: Gpa) -> None:
        """Take back a page table's frame, which no paging-structure cache may still know."""
        self.tables.give(frame)

    def take(self) -> Gpa:
        """Return a cleared data frame with one share."""
        frame = self._cleared(self.data)
        self.shared[self.nth(frame)] = 1
        return frame

    def take_copy(self, source: Gpa) -> Gpa:
        """Return a data frame with one share and the bytes of *source*."""
        frame, _ = self.data.take()
        self._vcpu.copy_page(kernel_gva(frame), kernel_gva(source))
        self.shared[self.nth(frame)] = 1
        return frame

    def share(self, frame: Gpa) -> None:
        """Count one more holder of *frame*."""
        self.shared[self.nth(frame)] += 1

    def shares(self, frame: Gpa) -> int:
        """Return how many hold *frame*."""
        return self.shared[self.nth(frame)]

    def nth(self, frame: int) -> int:
        """Return which of the data frames *frame* is."""
        return (frame - self.data.first) // PAGE_SIZE

    def drop(self, frame: Gpa) -> None:
        """Count one holder less and free *frame* with the last, which no TLB may still know."""
        nth = self.nth(frame)
        if not 0 <= nth < len(self.shared) or not self.shared[nth]:
            raise InvariantError(f"data frame {frame:#x} was dropped more often than shared")
        self.shared[nth] -= 1
        if not self.shared[nth]:
            self.data.give(frame)

    def _cleared(self, zone: Zone) -> Gpa:
        frame, fresh = zone.take()
        if not fresh:
            self._vcpu.clear_page(kernel_gva(frame))
        return frame
