"""Who owns each frame of guest RAM: page tables in one zone, data in another.

The zones never share a 2 MiB page, so write-protecting page tables does not split the direct map
of data. Frames are handed out in address order, given-back ones first and last-in first-out: the
same steps always get the same frames. A frame that was used before is cleared through the direct
map when it is handed out again.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from hvmmu._core.binding import ffi, lib
from hvmmu.types import PAGE_SHIFT, PAGE_SIZE, Gpa

if TYPE_CHECKING:
    from hvmmu._guest.kernel import Kernel


class Zone:
    """A view of the frames of one purpose."""

    __slots__ = ("_zone",)

    def __init__(self, zone: Any) -> None:  # noqa: ANN401 - a struct of cffi's
        self._zone = zone

    @property
    def first(self) -> Gpa:
        """The first frame."""
        return Gpa(self._zone.first)

    @property
    def end(self) -> Gpa:
        """The end of the last one."""
        return Gpa(self._zone.end)

    @property
    def next(self) -> Gpa:
        """The first frame that was never handed out."""
        return Gpa(self._zone.next)

    @property
    def free(self) -> list[Gpa]:
        """Frames given back, the last one first to go out again."""
        numbers = ffi.unpack(self._zone.free, self._zone.free_count)
        return [Gpa(number << PAGE_SHIFT) for number in numbers]

    @property
    def in_use(self) -> int:
        """Count the frames handed out and not given back."""
        return (self.next - self.first) // PAGE_SIZE - int(self._zone.free_count)


class Frames:
    """The frames of a guest, and how many hold each data frame.

    The page cache holds one share of each of its frames, so 1 means one private mapping.
    """

    def __init__(self, kernel: Kernel) -> None:
        self._kernel, self._out = kernel, ffi.new("uint64_t *")
        self.tables, self.data = Zone(kernel.state.tables), Zone(kernel.state.data)

    def take_table(self) -> Gpa:
        """Return a cleared frame for a page table."""
        self._kernel.call(lib.hv_take_table, self._kernel.cpu, self._out)
        return Gpa(self._out[0])

    def take(self) -> Gpa:
        """Return a cleared data frame with one holder."""
        self._kernel.call(lib.hv_take_data, self._kernel.cpu, self._out)
        return Gpa(self._out[0])

    def share(self, frame: Gpa) -> None:
        """Count one more holder of *frame*."""
        self._kernel.call(lib.hv_share, frame)

    def shares(self, frame: Gpa) -> int:
        """Return how many hold *frame*."""
        return int(lib.hv_shares(self._kernel.state, frame))

    def drop(self, frame: Gpa) -> None:
        """Count one holder less and free *frame* with the last, which no TLB may still know."""
        self._kernel.call(lib.hv_drop, frame)

    @property
    def shared(self) -> memoryview[int]:
        """How many hold each data frame, in order."""
        frames = (self.data.end - self.data.first) // PAGE_SIZE
        return memoryview(ffi.buffer(self._kernel.state.shares, frames * 4)).cast("I")
