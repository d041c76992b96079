"""A bare machine for the guest: nothing but memory, a walker, and a TLB that never forgets.

The TLB keeps every translation, and every way to a page table, until the guest flushes it (or a
fault on the page drops it): a flush the guest forgot shows as a wrong value read or written.
"""

from __future__ import annotations

from array import array
from collections import Counter
from typing import TYPE_CHECKING, Any, ClassVar

import attrs
import pytest

from hvmmu._core.binding import ffi
from hvmmu._guest.layout import KERNEL_BASE, ROOT_LEVEL, index, shift, slot
from hvmmu._guest.os import GuestOs
from hvmmu._guest.policy import GuestParams
from hvmmu.arch import pfec as pf
from hvmmu.arch import pte
from hvmmu.arch.regs import CR0_PG, CR0_WP, CR4_PAE, EFER_LMA, EFER_NXE, CpuFeatures
from hvmmu.steps import Accesses, Backing, Fork, Mmap, Mprotect, Munmap, SwitchTo
from hvmmu.types import ENTRIES, PAGE_SIZE

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from hvmmu.vcpu import Resume

BASE = 0x7F00_0000_0000
INSTRUCTIONS = {
    "load": "int32_t(void *, uint64_t, uint64_t *)",
    "store": "int32_t(void *, uint64_t, uint64_t)",
    "clear_page": "int32_t(void *, uint64_t)",
    "copy_page": "int32_t(void *, uint64_t, uint64_t)",
    "invlpg": "int32_t(void *, uint64_t)",
}
"""Of the guest's kernel, as C calls them."""


class BareVcpu:
    """What a Vcpu promises the guest, over a dict of pages."""

    def __init__(self, memory: int = 16 << 20, *, nx: bool = True) -> None:
        self.guest_memory = memory
        self.cpu = CpuFeatures(maxphyaddr=40, nx=nx)
        self.cr0 = self.cr2 = self.cr3 = self.cr4 = self.efer = 0
        self.page_fault: Callable[[int], Resume] | None = None
        self.kept: BaseException | None = None
        self.instructions = {name: self.instruction(name) for name in INSTRUCTIONS}
        self.guest_cpu = ffi.new("hv_guest_cpu *", self.instructions)
        self.pages: dict[int, array[int]] = {}
        self.slots = self
        self.tlb: dict[int, int] = {}
        self.paths: dict[int, int] = {}
        """Paging-structure cache: which page table translates a 2 MiB block."""
        self.log: list[tuple[str, int]] = []
        """Every operation a hypervisor would see: (name, operand)."""
        self.reads: list[int] = []
        """The value each user-mode read met; each write leaves its own number behind."""
        self.written = 0

    def instruction(self, name: str) -> object:
        """Return a callback from C that runs a method and keeps its exception."""

        def called(_: object, *operands: Any) -> bool:  # noqa: ANN401 - cffi's
            try:
                if name == "load":
                    operands[1][0] = self.load(operands[0])
                else:
                    getattr(self, name)(*operands)
            except BaseException as error:  # noqa: BLE001 - raised again by `check`
                self.keep(error)
            return self.kept is None

        return ffi.callback(INSTRUCTIONS[name], called)

    def keep(self, error: BaseException) -> None:
        """Keep an exception until C has returned."""
        self.kept = error

    def check(self, *, went: bool) -> None:
        """Raise what was kept."""
        error, self.kept = self.kept, None
        assert went == (error is None)
        if error is not None:
            raise error

    def install_kernel(self, kernel: object, error: object) -> None:
        """Have a kernel in C take faults; `page_fault` does the same."""

    def peek(self, gpa: int) -> int:
        """Return the eight bytes at *gpa*, behind the guest's back."""
        page = self.pages.get(gpa >> 12)
        return page[(gpa >> 3) % ENTRIES] if page else 0

    def table(self, gfn: int) -> list[int]:
        """Return the frame *gfn* as 512 entries."""
        page = self.pages.get(gfn)
        return page.tolist() if page else [0] * ENTRIES

    def poke(self, gpa: int, value: int) -> None:
        """Set the eight bytes at *gpa*."""
        assert 0 <= gpa < self.guest_memory
        self.pages.setdefault(gpa >> 12, array("Q", bytes(PAGE_SIZE)))[(gpa >> 3) % ENTRIES] = value

    def boot_store(self, gpa: int, value: int) -> None:
        """Set memory before paging is on."""
        assert not self.cr0 & CR0_PG
        self.poke(gpa, value)

    def boot_fill(self, table: int, entries: array[int]) -> None:
        """Set the first entries of a table before paging is on."""
        for gpa, value in zip(range(table, table + PAGE_SIZE, 8), entries, strict=False):
            self.boot_store(gpa, value)

    def write_cr0(self, value: int) -> None:
        """Turn paging on."""
        assert self.cr3
        self.cr0 = value

    def write_cr4(self, value: int) -> None:
        """Set CR4."""
        self.cr4 = value

    def write_efer(self, value: int) -> None:
        """Set EFER, after CR4.PAE."""
        assert self.cr4 & CR4_PAE
        assert value & EFER_LMA
        self.efer = value

    def write_cr3(self, value: int) -> None:
        """Load CR3: forget everything that is not global."""
        self.log.append(("cr3", value))
        self.cr3 = value
        self.tlb = {gva: entry for gva, entry in self.tlb.items() if entry & pte.G}
        self.paths.clear()

    def invlpg(self, gva: int) -> None:
        """Forget one page, and all ways to page tables."""
        self.log.append(("invlpg", gva))
        self.tlb.pop(gva >> 12, None)
        self.paths.clear()

    def load(self, gva: int, size: int = 8) -> int:
        """Read as the kernel."""
        assert size == 8
        return self.peek(self.translate(gva, pf.READ))

    def store(self, gva: int, value: int, size: int = 8) -> None:
        """Write as the kernel."""
        assert size == 8
        self.log.append(("store", gva))
        self.poke(self.translate(gva, pf.WRITE), value)

    def clear_page(self, gva: int) -> None:
        """Zero a page."""
        self.log.append(("clear_page", gva))
        self.pages.pop(self.translate(gva, pf.WRITE) >> 12, None)

    def copy_page(self, dst_gva: int, src_gva: int) -> None:
        """Copy a page."""
        self.log.append(("copy_page", dst_gva))
        source = self.pages.get(self.translate(src_gva, pf.READ) >> 12, bytes(PAGE_SIZE))
        self.pages[self.translate(dst_gva, pf.WRITE) >> 12] = array("Q", bytes(source))

    def run(self, gva: array[int], kind: array[int]) -> None:
        """Access as the user: a write leaves its number, a read notes what it met."""
        for address, access in zip(gva, kind, strict=True):
            gpa = self.translate(address, access)
            if access & pf.W:
                self.written += 1
                self.poke(gpa, self.written)
            else:
                self.reads.append(self.peek(gpa))

    def translate(self, gva: int, kind: int) -> int:
        """Return the gpa, handing faults to the guest until the access succeeds."""
        while True:
            entry, pfec = self.walk(gva, kind)
            if pfec is None:
                return (entry & pte.ADDRESS) + gva % PAGE_SIZE
            self.tlb.pop(gva >> 12, None)  # SDM: a fault drops what is cached for its address
            self.paths.clear()
            self.cr2 = gva
            assert self.page_fault
            self.page_fault(pfec | kind)

    def walk(self, gva: int, kind: int) -> tuple[int, int | None]:
        """Return (4 KiB entry, None), or (0, the P and RSVD bits of the fault)."""
        entry = self.tlb.get(gva >> 12)
        if entry is None or (kind & pf.W and not entry & pte.D and self.allows(entry, kind)):
            entry = self.fill(gva, kind)
        if not entry & pte.P:
            return 0, 0
        return (entry, None) if self.allows(entry, kind) else (0, pf.P)

    def allows(self, entry: int, kind: int) -> bool:
        """Say whether a leaf *entry* allows *kind*; no level above it takes rights away."""
        assert self.cr0 & CR0_WP
        return (
            not (kind & pf.W and not entry & pte.W)
            and not (kind & pf.U and not entry & pte.U)
            and not (kind & pf.ID and entry & pte.NX)
        )

    def fill(self, gva: int, kind: int) -> int:
        """Walk the tables, from a cached page table if there is one; cache what is allowed."""
        level, table = ROOT_LEVEL, self.cr3
        if gva >> 21 in self.paths:
            level, table = 1, self.paths[gva >> 21]
        while True:
            at = slot(table, gva, level)
            entry = self.peek(at)
            if not entry & pte.P:
                return 0
            # No present entry may have a reserved bit: MAXPHYADDR up to 51, and NX without NXE.
            assert not entry & pte.ADDRESS & -(1 << self.cpu.maxphyaddr)
            assert self.efer & EFER_NXE or not entry & pte.NX
            assert entry & pte.ADDRESS < self.guest_memory
            if level == 1 or entry & pte.PS:
                break
            self.poke(at, entry | pte.A)
            table, level = entry & pte.ADDRESS, level - 1
            if level == 1:
                self.paths[gva >> 21] = table
        if self.allows(entry, kind):
            entry |= pte.A | (pte.D if kind & pf.W else 0)
            self.poke(at, entry)
            small = (entry & pte.ADDRESS) + (gva % (1 << shift(level)) & -PAGE_SIZE)
            entry = entry & ~pte.ADDRESS | small
            self.tlb[gva >> 12] = entry
        return entry


def tables_of(vcpu: BareVcpu, table: int, level: int) -> Iterator[tuple[int, int, list[int]]]:
    """Yield (table, level, entries in use) of a table and those below it; the kernel's not."""
    entries = vcpu.table(table >> 12)
    if level == ROOT_LEVEL:
        entries = entries[: index(KERNEL_BASE, ROOT_LEVEL)]
    used = [entry for entry in entries if entry]
    yield table, level, used
    for entry in used if level > 1 else ():
        yield from tables_of(vcpu, entry & pte.ADDRESS, level - 1)


@attrs.define
class Guest:
    """A booted guest on a bare vCPU, and short ways to ask it for things."""

    READ: ClassVar[int] = pf.U
    WRITE: ClassVar[int] = pf.U | pf.W
    FETCH: ClassVar[int] = pf.U | pf.ID

    vcpu: BareVcpu
    os: GuestOs

    def mmap(
        self, pages: int, prot: int = 3, backing: Backing = Backing.ANONYMOUS, page: int = 0
    ) -> None:
        """Map pages from the given page of BASE on."""
        self.os.step(Mmap(BASE + page * PAGE_SIZE, pages, prot, backing))

    def munmap(self, pages: int, page: int = 0) -> None:
        """Unmap pages."""
        self.os.step(Munmap(BASE + page * PAGE_SIZE, pages))

    def mprotect(self, pages: int, prot: int, page: int = 0) -> None:
        """Protect pages."""
        self.os.step(Mprotect(BASE + page * PAGE_SIZE, pages, prot))

    def touch(self, kind: int, *pages: int) -> list[int]:
        """Access each page once; return what the reads met."""
        met = len(self.vcpu.reads)
        gva = array("Q", [BASE + page * PAGE_SIZE for page in pages])
        self.os.step(Accesses(gva, array("B", [kind] * len(pages))))
        return self.vcpu.reads[met:]

    def fork(self, child: int) -> None:
        """Fork the current process."""
        self.os.step(Fork(child))

    def switch(self, pid: int) -> None:
        """Switch to a process."""
        self.os.step(SwitchTo(pid))

    def entry(self, page: int = 0) -> int:
        """Return the leaf entry of a page of the loaded process, 0 if it has no table."""
        table = self.vcpu.cr3
        for level in range(ROOT_LEVEL, 0, -1):
            entry = self.vcpu.peek(slot(table, BASE + page * PAGE_SIZE, level))
            if not entry:
                return 0
            table = entry & pte.ADDRESS
        return entry

    def causes(self) -> dict[str, int]:
        """Return the fault causes that occurred."""
        return {cause: count for cause, count in self.os.counters.items() if count}

    def operations(self, name: str) -> int:
        """Count the vCPU operations of one name."""
        return sum(operation == name for operation, _ in self.vcpu.log)

    def table_stores(self) -> int:
        """Count the stores to the page-table zone."""
        border = KERNEL_BASE + self.os.frames.tables.end
        return sum(name == "store" and at < border for name, at in self.vcpu.log)

    def in_use(self) -> tuple[int, int]:
        """Return how many (table, data) frames are in use."""
        return self.os.frames.tables.in_use, self.os.frames.data.in_use

    def check_books(self) -> None:
        """Hold counts and free lists against the tables as they lie in memory."""
        kept, used, held = self.os, {}, Counter[int]()
        caches = {}
        for process in kept.processes.values():
            for table, level, entries in tables_of(self.vcpu, process.root, ROOT_LEVEL):
                assert table not in used, "two links lead to one table"
                used[table] = len(entries)
                held.update(entry & pte.ADDRESS for entry in entries if level == 1)
            caches |= {id(r.cache): r.cache for r in process.regions if r.cache is not None}
        assert kept.tables.used == used
        held.update(frame for cache in caches.values() for frame in cache.frames.values())
        held[kept.kernel.state.zero_frame] += 1
        frames = kept.frames
        shared = frames.shared
        data = range(frames.data.first, frames.data.next, PAGE_SIZE)
        assert {frame: shared[nth] for nth, frame in enumerate(data) if shared[nth]} == held
        assert not any(shared[len(data) :])
        for zone in (frames.tables, frames.data):
            assert len(set(zone.free)) == len(zone.free), "a frame was given back twice"
            assert all(zone.first <= frame < zone.next <= zone.end for frame in zone.free)
        assert set(frames.data.free) == set(data) - set(held)
        assert not set(frames.tables.free) & set(used)


def start(*, nx: bool = True, memory: int = 16 << 20, accessed_dirty: bool = True) -> Guest:
    """Boot a guest and forget what booting did."""
    vcpu = BareVcpu(memory, nx=nx)
    guest = Guest(vcpu, GuestOs(vcpu, GuestParams(set_accessed_dirty=accessed_dirty)))
    vcpu.log.clear()
    return guest


@pytest.fixture(scope="session")
def boot() -> Callable[..., Guest]:
    """Return the function that boots a guest, for tests that need several or another kind."""
    return start


@pytest.fixture
def guest() -> Guest:
    """Return a freshly booted guest."""
    return start()
