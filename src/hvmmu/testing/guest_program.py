"""Programs for a guest without an operating system: table writes, control registers, accesses.

A program flushes as the manuals demand, and writes anything else into its page tables: wrong
levels, reserved bits, holes, tables that map themselves. Its observation after each step must not
depend on the machine.
"""

from array import array
from collections.abc import Iterable

import attrs

from hvmmu.arch import pfec as pf
from hvmmu.arch import pte
from hvmmu.arch.paging import LONG4
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
from hvmmu.engine import NO_TRANSLATION
from hvmmu.machine import Platform
from hvmmu.types import PAGE_SHIFT
from hvmmu.vcpu import Resume

RAM = 8 << 20
"""Guest RAM of a program, four 2 MiB regions: tables lie in the first, and some in the second."""

KERNEL = 0xFFFF_FF80_0000_0000
"""The address at which all RAM is mapped for table writes: the last slot of either root."""

KERNEL_TABLES = (1, 2)
ROOTS = (3, 4)
TABLES = (16, 17, 18, 19, 20, 21, 513, 514)
"""The frames that a program may use as tables, at any level."""

DATA = (600, 601, 1024, 1025)
INDICES = (0, 1)
"""The entries of a table that a program writes."""

WRITABLE = (*ROOTS, *TABLES)
ADDRESSES = tuple(
    four << 39 | three << 30 | two << 21 | one << 12
    for four in INDICES
    for three in INDICES[:1]
    for two in INDICES
    for one in INDICES
)
"""The pages a program accesses."""


@attrs.frozen
class SetEntry:
    """Write *value* to entry *index* of the table in frame *table*, then flush if it must."""

    table: int
    index: int
    value: int
    by_page: bool
    """Flush page by page with INVLPG, not all at once."""
    at: int | None = None
    """Flush by one INVLPG of this address, in the page that the entry maps before and after."""


@attrs.frozen
class Access:
    """Access *gva* with *kind*."""

    gva: int
    kind: int


@attrs.frozen
class StoreThrough:
    """Store *value* at *gva* as a supervisor, if that reaches an entry the program may write."""

    gva: int
    value: int


@attrs.frozen
class InvalidatePage:
    """Drop the translation of *gva*."""

    gva: int


@attrs.frozen
class LoadRoot:
    """Load CR3 with root 0 or 1."""

    root: int


@attrs.frozen
class Toggle:
    """Flip bits of a register: cr0, cr4, efer, pkru or rflags_ac."""

    register: str
    bits: int


Operation = SetEntry | Access | StoreThrough | InvalidatePage | LoadRoot | Toggle


@attrs.frozen
class Observation:
    """The guest-visible effects of one operation."""

    translated: tuple[int, ...]
    """Guest-physical address of each access, NO_TRANSLATION for one that faulted."""
    faults: tuple[tuple[int, int], ...]
    """CR2 and error code of each fault, in order."""
    tables: bytes
    """All page tables, accessed and dirty bits included."""
    registers: tuple[int, int, int, int]
    """CR0, CR3, CR4 and EFER as the guest reads them."""

    def differences(self, other: "Observation") -> str:
        """Return in words how *other* differs from this observation, which is the right one."""
        found = []
        if self.faults != other.faults:
            found.append(f"faults {_faults(other)} instead of {_faults(self)}")
        if self.translated != other.translated:
            found.append(
                f"accesses reach {_hex(other.translated)} instead of {_hex(self.translated)}"
            )
        if self.registers != other.registers:
            values = f"{_hex(other.registers)} instead of {_hex(self.registers)}"
            found.append(f"CR0, CR3, CR4, EFER are {values}")
        for at in range(0, len(self.tables), 8):
            mine, theirs = self.tables[at : at + 8], other.tables[at : at + 8]
            if mine != theirs:
                frame = (*KERNEL_TABLES, *WRITABLE)[at >> PAGE_SHIFT]
                values = _hex(int.from_bytes(entry, "little") for entry in (theirs, mine))
                found.append(f"frame {frame} entry {at % 4096 // 8} (is, should be) {values}")
        return "; ".join(found)


def _hex(numbers: Iterable[int]) -> str:
    return ", ".join(map(hex, numbers)) or "nothing"


def _faults(outcome: Observation) -> str:
    return ", ".join(f"{gva:#x} {pf.describe(pfec)}" for gva, pfec in outcome.faults) or "none"


def needs_flush(old: int, new: int) -> bool:
    """Return whether a change from *old* to *new* obliges the guest to flush.

    SDM "Recommended Invalidation", "Optional Invalidation": not if the old entry was not
    present, or if the new one only allows more. A page that becomes the user's allows less to the
    supervisor, where SMEP, SMAP or protection keys are on or may be turned on: that is flushed.
    """
    if not old & pte.P:
        return False
    more = pte.W | pte.A | pte.D
    return (old ^ new) & ~(more | pte.NX) != 0 or bool(old & ~new & more or new & ~old & pte.NX)


class Guest:
    """A program's guest on one machine; on any other it must observe the same."""

    def __init__(self, platform: Platform) -> None:
        self.vcpu = platform.vcpu
        self._faults: list[tuple[int, int]] = []
        self.vcpu.page_fault = self._page_fault
        self._boot()

    def _boot(self) -> None:
        vcpu = self.vcpu
        upper = pte.P | pte.W | pte.A
        page = upper | pte.D | pte.PS | pte.G
        pdpt, pd = (frame << PAGE_SHIFT for frame in KERNEL_TABLES)
        for region in range(RAM >> 21):
            vcpu.boot_store(pd + 8 * region, region << 21 | page)
        vcpu.boot_store(pdpt, pd | upper)
        for root in ROOTS:
            vcpu.boot_store((root << PAGE_SHIFT) + 8 * 511, pdpt | upper)
        vcpu.write_cr4(CR4_PAE | CR4_PGE)
        vcpu.write_efer(EFER_LME | EFER_LMA | EFER_NXE)
        vcpu.write_cr3(ROOTS[0] << PAGE_SHIFT)
        vcpu.write_cr0(CR0_PE | CR0_WP | CR0_PG)

    def _page_fault(self, pfec: int) -> Resume:
        self._faults.append((self.vcpu.cr2, pfec))
        return Resume.SKIP

    def do(self, operation: Operation) -> Observation:
        """Perform one operation; return its guest-visible effects."""
        self._faults = []
        translated: tuple[int, ...] = ()
        match operation:
            case SetEntry():
                self._set(operation)
            case Access():
                translated = (self._access(operation.gva, operation.kind),)
            case StoreThrough():
                translated = (self._store_through(operation),)
            case InvalidatePage():
                self.vcpu.invlpg(operation.gva)
            case LoadRoot():
                self.vcpu.write_cr3(ROOTS[operation.root] << PAGE_SHIFT)
                self._flush_all()  # global pages differ between the roots
            case Toggle():
                self._toggle(operation)
        vcpu = self.vcpu
        registers = vcpu.cr0, vcpu.cr3, vcpu.cr4, vcpu.efer
        return Observation(translated, tuple(self._faults), self._tables(), registers)

    def _set(self, operation: SetEntry) -> None:
        gpa = (operation.table << PAGE_SHIFT) + 8 * operation.index
        old = self.vcpu.peek(gpa)
        self.vcpu.store(KERNEL + gpa, operation.value)
        if operation.at is None:
            self._flush_if_needed(old, operation.value, by_page=operation.by_page)
        else:
            self.vcpu.invlpg(operation.at)

    def _flush_if_needed(self, old: int, new: int, *, by_page: bool) -> None:
        if not needs_flush(old, new):
            return
        if by_page:
            for gva in ADDRESSES:
                self.vcpu.invlpg(gva)
        else:
            self._flush_all()

    def _flush_all(self) -> None:
        """Drop every translation, global ones too, as the manual offers it."""
        if self.vcpu.cr4 & CR4_PGE:
            self.vcpu.write_cr4(self.vcpu.cr4 ^ CR4_PGE)
            self.vcpu.write_cr4(self.vcpu.cr4 ^ CR4_PGE)
        else:
            self.vcpu.write_cr3(self.vcpu.cr3)

    def _access(self, gva: int, kind: int) -> int:
        translated = array("Q", [NO_TRANSLATION])
        self.vcpu.run(array("Q", [gva]), bytes([kind]), translated)
        return translated[0]

    def _store_through(self, operation: StoreThrough) -> int:
        """Translate the address by a write; store if it reaches an entry the program may write."""
        gpa = self._access(operation.gva, pf.WRITE)
        is_entry = gpa >> PAGE_SHIFT in WRITABLE and (gpa & 0xFFF) // 8 in INDICES
        if is_entry:
            old = self.vcpu.peek(gpa)
            self.vcpu.store(operation.gva, operation.value)
            self._flush_if_needed(old, operation.value, by_page=False)
        return gpa

    def _toggle(self, operation: Toggle) -> None:
        vcpu, bits = self.vcpu, operation.bits
        match operation.register:
            case "cr0":
                vcpu.write_cr0(vcpu.cr0 ^ bits)
            case "cr4":
                vcpu.write_cr4(vcpu.cr4 ^ bits)
            case "efer":
                vcpu.write_efer(vcpu.efer ^ bits)
                self._flush_all()  # NX may be cached from before
            case "pkru":
                vcpu.write_pkru(vcpu.regs.pkru ^ bits)
            case _:
                vcpu.write_rflags_ac(vcpu.regs.rflags_ac ^ bits)

    def _tables(self) -> bytes:
        peek = self.vcpu.slots
        frames = (*KERNEL_TABLES, *WRITABLE)
        ram = self.vcpu.memory.bytes
        starts = [peek.hpa(frame << PAGE_SHIFT) or 0 for frame in frames]
        return b"".join(bytes(ram[hpa : hpa + 4096]) for hpa in starts)


def natural_level(frame: int) -> int:
    """Return the level at which a well-formed program uses a table frame."""
    if frame in ROOTS:
        return len(LONG4.levels)
    return 3 if TABLES.index(frame) < 2 else 2 if TABLES.index(frame) < 4 else 1
