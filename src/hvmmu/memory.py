"""Host-physical memory: one flat, lazily committed mapping that every engine can walk.

Guest RAM is a memslot in it, shadow tables are frames in it. Reads beyond its end give all ones and
writes there are lost, as on a bus where nobody answers.
"""

import mmap
import sys
from array import array
from collections.abc import Callable
from typing import Protocol

from attrs import frozen

from hvmmu.errors import GuestMemoryError, InvariantError
from hvmmu.types import ENTRIES, PAGE_SHIFT, Buffer, Gpa, Hpa

_NORESERVE = getattr(mmap, "MAP_NORESERVE", 0x4000 if sys.platform == "linux" else 0)


class Space(Protocol):
    """A physical address space that a page walk can read and write."""

    def load(self, pa: int, size: int) -> int:
        """Return *size* bytes (4 or 8) at the naturally aligned *pa*; all ones where nothing is."""
        ...

    def store(self, pa: int, value: int, size: int) -> None:
        """Write *size* bytes at the naturally aligned *pa*; lost where nothing is."""
        ...


class Memory:
    """Host-physical memory of *size* bytes from hpa 0 up, little-endian, committed when touched."""

    def __init__(self, size: int) -> None:
        self.size = size
        flags = mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS | _NORESERVE
        self._mapping = mmap.mmap(-1, size, flags=flags)
        self.bytes = memoryview(self._mapping)
        self._views: dict[int, memoryview[int]] = {
            1: self.bytes.cast("B"),
            2: self.bytes.cast("H"),
            4: self.bytes.cast("I"),
            8: self.bytes.cast("Q"),
        }
        self.u64 = self._views[8]
        """The whole memory as 64-bit entries: the entry at *hpa* is ``u64[hpa >> 3]``."""
        self._users: list[Callable[[], None]] = []

    def before_close(self, release: Callable[[], None]) -> None:
        """Have *release* called before the mapping goes: by whoever holds its address."""
        self._users.append(release)

    def load(self, pa: int, size: int = 8) -> int:
        """Return *size* bytes (1, 2, 4, 8) at the aligned *pa*; all ones beyond the end."""
        if pa + size > self.size:
            return (1 << (8 * size)) - 1
        return self._views[size][pa // size]

    def store(self, pa: int, value: int, size: int = 8) -> None:
        """Write *size* bytes (1, 2, 4, 8) at the naturally aligned *pa*; lost beyond the end."""
        if pa + size <= self.size:
            self._views[size][pa // size] = value

    def clear(self, hpa: int, count: int) -> None:
        """Zero *count* bytes from *hpa* on."""
        self.bytes[hpa : hpa + count] = bytes(count)

    def copy(self, to: int, source: int, count: int) -> None:
        """Copy *count* bytes; the two ranges do not overlap."""
        self.bytes[to : to + count] = self.bytes[source : source + count]

    def close(self) -> None:
        """Give the mapping back; the memory cannot be used afterwards."""
        while self._users:
            self._users.pop()()
        for view in (*self._views.values(), self.bytes):
            view.release()
        self._mapping.close()


@frozen
class Memslot:
    """Guest-physical [gpa, gpa+size) lies at host-physical [hpa, hpa+size); all in bytes."""

    gpa: int
    size: int
    hpa: int


class Memslots:
    """The guest's view of physical memory: a :class:`Space` over gpa, holes included."""

    def __init__(self, memory: Memory, slots: tuple[Memslot, ...]) -> None:
        self.memory = memory
        self.slots = slots

    def hpa(self, gpa: int) -> Hpa | None:
        """Return where *gpa* lies in host memory, None in a hole."""
        for slot in self.slots:
            if 0 <= gpa - slot.gpa < slot.size:
                return Hpa(gpa - slot.gpa + slot.hpa)
        return None

    def gpa(self, hpa: int) -> Gpa:
        """Return which guest-physical address *hpa* backs; it must back one."""
        for slot in self.slots:
            if 0 <= hpa - slot.hpa < slot.size:
                return Gpa(hpa - slot.hpa + slot.gpa)
        raise InvariantError(f"host-physical {hpa:#x} backs no guest memory")

    def contains(self, gpa: int, size: int) -> bool:
        """Say whether all of [gpa, gpa+size) lies in one memslot."""
        return any(s.gpa <= gpa and gpa + size <= s.gpa + s.size for s in self.slots)

    def load(self, pa: int, size: int = 8) -> int:
        """Read guest-physical memory; all ones in a hole."""
        hpa = self.hpa(pa)
        return (1 << (8 * size)) - 1 if hpa is None else self.memory.load(hpa, size)

    def table(self, gfn: int) -> list[int]:
        """Return the frame *gfn* as 512 entries; all ones in a hole."""
        hpa = self.hpa(gfn << PAGE_SHIFT)
        if hpa is None:
            return [(1 << 64) - 1] * ENTRIES
        return self.memory.u64[hpa >> 3 : (hpa >> 3) + ENTRIES].tolist()

    def store(self, pa: int, value: int, size: int = 8) -> None:
        """Write guest-physical memory; lost in a hole."""
        hpa = self.hpa(pa)
        if hpa is not None:
            self.memory.store(hpa, value, size)

    def fill(self, table: int, entries: Buffer) -> None:
        """Write *entries* (format Q) from the start of *table* on; lost in a hole."""
        hpa, given = self.hpa(table), memoryview(entries)
        if hpa is not None:
            self.memory.u64[hpa >> 3 : (hpa >> 3) + len(given)] = given


class FramePool:
    """Host frames *first* to *end* (numbers, the latter excluded) for tables of 512 entries."""

    def __init__(self, memory: Memory, first: int, end: int) -> None:
        self.end = end
        """The frame after the last."""
        self._memory, self._next = memory, first
        self._free: list[int] = []

    def take(self, entry: int) -> int:
        """Return the hpa of a free frame, all its entries *entry*; hardware must not use it yet.

        Raise GuestMemoryError if no frame is left.
        """
        if not self._free and self._next == self.end:
            raise GuestMemoryError("no host frame is left for the tables that hardware walks")
        if self._free:
            hpa = self._free.pop()
        else:
            hpa = self._next << PAGE_SHIFT
            self._next += 1
        self._memory.u64[hpa >> 3 : (hpa >> 3) + ENTRIES] = array("Q", [entry]) * ENTRIES
        return hpa

    def give(self, hpa: int) -> None:
        """Give the frame at *hpa* back: nothing leads to it, and hardware is to be flushed."""
        self._free.append(hpa)
