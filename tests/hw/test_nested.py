"""The walk in two dimensions, rule by rule: what the manuals name, small enough to be read."""

from __future__ import annotations

from array import array
from typing import TYPE_CHECKING, Any

import pytest

from hvmmu.arch import pfec as pf
from hvmmu.arch import pte
from hvmmu.arch.ept import EPT_A, EPT_D, EPT_R, EPT_W, EPT_X, EPT_XU, ept
from hvmmu.arch.npt import NPF_FINAL, NPF_TABLE, npt
from hvmmu.arch.paging import LEGACY32, LONG4, LONG5, MODES, PAE, PagingMode, formats
from hvmmu.arch.regs import (
    CR0_PE,
    CR0_PG,
    CR0_WP,
    CR4_LA57,
    CR4_PAE,
    CR4_PSE,
    EFER_LMA,
    EFER_LME,
    EFER_NXE,
    CpuFeatures,
    Regs,
)
from hvmmu.arch.tdp import Cause, TdpFormats, Use
from hvmmu.errors import EngineUnavailableError, InvariantError
from hvmmu.memory import Memory
from hvmmu.spec.walk import Outcome
from hvmmu.spec.walk_2d import NestedWalk, NestedWalker

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

CPU = CpuFeatures(maxphyaddr=46)
RAM = 16 << 20
OFFSET = 0x40_0000
"""Where guest-physical 0 lies in host-physical memory: 2 MiB-aligned, for large pages."""
HOST_TABLES = 0xC0_0000
CR3, VA, PAGE = 0x1000, 0x1234_5678, 0x20_0000
USER_READ, USER_WRITE, USER_FETCH = pf.U, pf.U | pf.W, pf.U | pf.ID
RWX = EPT_R | EPT_W | EPT_X
LEAF = 6 << 3
"""Write-back memory, in the leaves of EPT."""
ALL = pte.P | pte.W | pte.U
BASE = {
    LEGACY32: (CR4_PSE, 0),
    PAE: (CR4_PAE, 0),
    LONG4: (CR4_PAE, EFER_LME | EFER_LMA),
    LONG5: (CR4_PAE | CR4_LA57, EFER_LME | EFER_LMA),
}
VALID, FINAL = 1 << 7, 1 << 8
"""Of an exit qualification: the linear address is valid; the access was not to a guest table."""


class Two:
    """A guest whose tables map VA to PAGE, and host tables that map its memory in 4 KiB pages."""

    def __init__(self, walker: type[Any], tdp: TdpFormats, mode: PagingMode = LONG4) -> None:
        self.memory, self.tdp, self.mode = Memory(RAM), tdp, mode
        self.walker = walker(self.memory)
        self.is_ept = not tdp.inverted
        self._next, self._guest_next = HOST_TABLES + 0x1000, CR3 + 0x1000
        for gpa in (*range(CR3, CR3 + 0x8000, 0x1000), PAGE + VA % 0x1000 // 0x1000):
            self.host(gpa, OFFSET + gpa)
        self.guest(VA, PAGE)
        self.load()

    def load(self, cr4: int = 0, cr0: int = CR0_WP, efer: int = EFER_NXE) -> None:
        """Put the guest's registers in force."""
        base_cr4, base_efer = BASE[self.mode]
        regs = Regs(CR0_PE | CR0_PG | cr0, CR3, base_cr4 | cr4, base_efer | efer)
        known = formats(self.mode, regs, CPU)
        self.walker.load(regs, known, self.tdp, HOST_TABLES)

    def host_slot(self, gpa: int, level: int = 1) -> int:
        """Return where the host's entry of *level* for *gpa* lies; tables are made on the way."""
        table = HOST_TABLES
        for at in self.tdp.mode.levels:
            where = table + 8 * at.index(gpa)
            if at.level == level:
                return where
            if not self.memory.load(where):
                self.memory.store(where, self._next | (RWX | EPT_XU if self.is_ept else ALL))
                self._next += 0x1000
            table = self.memory.load(where) & pte.ADDRESS
        raise AssertionError(level)

    def host(self, gpa: int, entry: int, level: int = 1, *, bare: bool = False) -> None:
        """Map *gpa* in the host's tables; unless *bare*, with all that it takes to be allowed."""
        if not bare:
            entry |= (RWX | EPT_XU | LEAF) if self.is_ept else ALL
            entry |= pte.PS if level > 1 else 0
        self.memory.store(self.host_slot(gpa, level), entry)

    def host_entry(self, gpa: int, level: int = 1) -> int:
        """Return the host's entry of *level* for *gpa*."""
        return self.memory.load(self.host_slot(gpa, level))

    def clear(self, gpa: int, bits: int, level: int = 1) -> None:
        """Take *bits* from the host's entry for *gpa*."""
        self.memory.store(self.host_slot(gpa, level), self.host_entry(gpa, level) & ~bits)

    def guest_slot(self, va: int = VA, level: int = 1) -> int:
        """Return the guest-physical address of the guest's entry; tables are made on the way."""
        table, size = CR3, self.mode.entry_size
        for at in self.mode.levels:
            where = table + at.index(va) * size
            if at.level == level:
                return where
            entry = self.memory.load(OFFSET + where, size)
            if not entry:
                pointer = self.mode is PAE and at.level == 3
                entry = self._guest_next | (pte.P if pointer else ALL)
                self._guest_next += 0x1000
                self.memory.store(OFFSET + where, entry, size)
            table = entry & pte.ADDRESS
        raise AssertionError(level)

    def guest(self, va: int, gpa: int, flags: int = ALL, level: int = 1) -> None:
        """Map *va* in the guest's tables."""
        slot = OFFSET + self.guest_slot(va, level)
        self.memory.store(slot, gpa | flags, self.mode.entry_size)

    def guest_entry(self, level: int = 1) -> int:
        """Return the guest's entry of *level* for VA."""
        return self.memory.load(OFFSET + self.guest_slot(VA, level), self.mode.entry_size)

    def age(self) -> None:
        """Set A and D in the guest's entries, so that no walk has to."""
        for level in self.mode.levels:
            slot = OFFSET + self.guest_slot(VA, level.level)
            old = self.memory.load(slot, self.mode.entry_size)
            self.memory.store(slot, old | pte.A | pte.D, self.mode.entry_size)

    def walk(self, kind: int = USER_READ, va: int = VA) -> NestedWalk:
        """Walk."""
        return self.walker.walk(va, kind)

    def fault(self, kind: int = USER_READ) -> tuple[Cause, Use, int, int]:
        """Walk, and return how the second dimension stopped it: cause, use, gpa, code."""
        stopped = self.walk(kind).fault
        assert stopped is not None
        assert stopped.gva == VA
        return stopped.cause, stopped.use, stopped.gpa, stopped.code


def compiled() -> type[Any]:
    """Return the compiled walker; skip the test where it was not built."""
    reason = "the compiled engine was not built"
    pytest.importorskip("hvmmu._core._lib", reason=reason)
    return pytest.importorskip("hvmmu._core.walk_2d").CompiledNestedWalker


@pytest.fixture(params=["reference", "compiled"])
def build(request: pytest.FixtureRequest) -> Iterator[Callable[..., Two]]:
    """Return the function that builds a guest and a host, for each walker."""
    walker = NestedWalker if request.param == "reference" else compiled()
    built: list[Two] = []

    def make(tdp: TdpFormats, mode: PagingMode = LONG4) -> Two:
        built.append(Two(walker, tdp, mode))
        return built[-1]

    yield make
    for two in built:
        two.memory.close()


FLAVOURS = {"ept": ept, "npt": npt}
flavours = pytest.mark.parametrize("flavour", FLAVOURS.values(), ids=FLAVOURS)


@flavours
@pytest.mark.parametrize("levels", [4, 5])
@pytest.mark.parametrize("mode", MODES, ids=lambda mode: mode.name)
def test_references(
    build: Callable[..., Two], flavour: Callable[..., TdpFormats], levels: int, mode: PagingMode
) -> None:
    """If wrong, a walk in two dimensions is not the g*h + g + h references that papers count."""
    walked = build(flavour(CPU, levels), mode).walk(USER_WRITE)
    depth = len(mode.levels)
    assert walked.is_ok
    assert walked.hpa == OFFSET + PAGE + VA % 0x1000
    assert (walked.guest_refs, walked.host_refs) == (depth, (depth + 1) * levels)


def test_a_cold_walk_reads_24_entries(build: Callable[..., Two]) -> None:
    """If wrong, the number that everybody knows is not ours: 24 for 4 KiB pages, 4 on 4 levels."""
    walked = build(ept(CPU)).walk()
    assert walked.guest_refs + walked.host_refs == 24


@flavours
def test_large_pages_save_references(
    build: Callable[..., Two], flavour: Callable[..., TdpFormats]
) -> None:
    """If wrong, a large page of either dimension costs what a small one does."""
    two = build(flavour(CPU))
    two.host(PAGE, OFFSET + PAGE, level=2)
    small = two.walk()
    assert (small.guest_refs, small.host_refs, small.level) == (4, 19, 1)
    two.guest(VA, PAGE, ALL | pte.PS, level=2)
    both = two.walk()
    assert (both.guest_refs, both.host_refs, both.level) == (3, 15, 2)
    assert both.hpa == OFFSET + PAGE + VA % PAGE


@flavours
def test_the_smaller_page_counts(
    build: Callable[..., Two], flavour: Callable[..., TdpFormats]
) -> None:
    """If wrong, a TLB caches 2 MiB of which the host has mapped 4 KiB."""
    two = build(flavour(CPU))
    two.guest(VA, PAGE, ALL | pte.PS, level=2)
    two.host(PAGE + VA % PAGE & ~0xFFF, OFFSET)
    walked = two.walk()
    assert (walked.guest.level, walked.level) == (2, 1)
    assert walked.hpa == OFFSET + VA % 0x1000


@flavours
def test_what_both_allow(build: Callable[..., Two], flavour: Callable[..., TdpFormats]) -> None:
    """If wrong, one dimension grants what the other forbids."""
    two = build(flavour(CPU))
    assert two.walk().access == pf.W | pf.U | pf.ID
    two.guest(VA, PAGE, ALL | pte.NX)
    two.clear(PAGE, EPT_W)  # the same bit is W in either format
    walked = two.walk()
    assert (walked.guest.access, walked.access) == (pf.W | pf.U, pf.U)
    assert walked.readable
    two.guest(VA, PAGE, pte.P | pte.U)
    if two.is_ept:
        two.clear(PAGE, EPT_X | EPT_XU)
    else:
        two.host(PAGE, OFFSET + PAGE | pte.NX)
    assert two.walk().access == pf.U


@flavours
def test_a_guests_fault_is_its_own(
    build: Callable[..., Two], flavour: Callable[..., TdpFormats]
) -> None:
    """If wrong, the hypervisor is bothered with what the guest's own tables call for."""
    two = build(flavour(CPU))
    two.host(PAGE, 0, bare=True)  # nobody looks there before the guest's walk has granted it
    two.guest(VA, PAGE, pte.P | pte.U)
    walked = two.walk(USER_WRITE)
    assert walked.fault is None
    assert not walked.is_ok
    assert (walked.guest.outcome, walked.guest.pfec) == (Outcome.PAGE_FAULT, pf.P | USER_WRITE)
    assert (walked.guest_refs, walked.host_refs) == (4, 16)
    two.guest(VA, 0, 0)
    assert two.walk(USER_WRITE).guest.pfec == USER_WRITE
    assert not two.guest_entry(4) & pte.A


@flavours
def test_a_table_that_cannot_be_read_comes_first(
    build: Callable[..., Two], flavour: Callable[..., TdpFormats]
) -> None:
    """If wrong, the guest gets a page fault for an entry that hardware never saw."""
    two = build(flavour(CPU))
    table = two.guest_slot(VA, 2)
    two.host(table, 0, bare=True)
    walked = two.walk(USER_WRITE)
    assert walked.fault is not None
    assert not walked.is_ok
    assert (walked.fault.cause, walked.fault.use) == (Cause.NOT_PRESENT, Use.TABLE)
    assert (walked.fault.gpa, walked.fault.level) == (table, 1)
    assert [step.level for step in walked.guest.path] == [4, 3]
    assert (walked.guest_refs, walked.host_refs) == (2, 12)


@flavours
def test_the_guest_is_marked_before_the_last_translation(
    build: Callable[..., Two], flavour: Callable[..., TdpFormats]
) -> None:
    """If wrong, what the guest's entries look like after a violation depends on the walker."""
    two = build(flavour(CPU))
    two.host(PAGE, 0, bare=True)
    walked = two.walk(USER_WRITE)
    assert walked.fault is not None
    assert walked.fault.use is Use.WRITE
    assert two.guest_entry() & (pte.A | pte.D) == pte.A | pte.D
    assert two.guest_entry(4) & (pte.A | pte.D) == pte.A


@flavours
def test_addresses_beyond_the_levels(
    build: Callable[..., Two], flavour: Callable[..., TdpFormats]
) -> None:
    """If wrong, upper bits of a guest-physical address are dropped, and it lands somewhere."""
    wide = CpuFeatures(maxphyaddr=52)
    two = build(flavour(wide))
    two.guest(VA, 1 << 48 | PAGE)
    regs = Regs(CR0_PE | CR0_PG, CR3, CR4_PAE, EFER_LME | EFER_LMA)
    two.walker.load(regs, formats(LONG4, regs, wide), two.tdp, HOST_TABLES)
    walked = two.walk()
    assert walked.fault is not None
    assert (walked.fault.cause, walked.fault.level) == (Cause.NOT_PRESENT, 0)
    assert walked.host_refs == 16
    assert walked.fault.code == (EPT_R | VALID | FINAL if two.is_ept else pf.U | NPF_FINAL)


# EPT


@pytest.mark.parametrize("accessed_dirty", [False, True])
def test_ept_marks_only_where_it_is_asked_to(
    build: Callable[..., Two], *, accessed_dirty: bool
) -> None:
    """If wrong, A and D are set without EPTP bit 6, or not where it is set."""
    two = build(ept(CPU, accessed_dirty=accessed_dirty))
    assert two.walk().is_ok
    both = EPT_A | EPT_D if accessed_dirty else 0
    assert two.host_entry(two.guest_slot()) & (EPT_A | EPT_D) == both
    assert two.host_entry(PAGE) & (EPT_A | EPT_D) == both & EPT_A
    assert two.host_entry(PAGE, 4) & (EPT_A | EPT_D) == both & EPT_A
    assert two.walk(USER_WRITE).is_ok
    assert two.host_entry(PAGE) & (EPT_A | EPT_D) == both
    assert two.host_entry(PAGE, 2) & (EPT_A | EPT_D) == both & EPT_A


def test_dirty_means_that_a_write_sets_nothing(build: Callable[..., Two]) -> None:
    """If wrong, a TLB lets a write through that D in some entry should have told of."""
    without = build(ept(CPU))
    assert not without.walk().dirty
    without.age()
    assert without.walk().dirty  # the host keeps no D here
    two = build(ept(CPU, accessed_dirty=True))
    two.age()
    assert not two.walk().dirty
    assert two.walk(USER_WRITE).dirty
    assert two.walk().dirty


def test_ept_tables_are_read_or_written(build: Callable[..., Two]) -> None:
    """If wrong, a read-only page for the guest's tables does not do, or does with EPT's A and D."""
    without = build(ept(CPU))
    without.age()
    slot = without.guest_slot()
    without.clear(slot, EPT_W)
    assert without.walk(USER_WRITE).is_ok
    two = build(ept(CPU, accessed_dirty=True))
    two.age()
    two.clear(slot, EPT_W)
    code = EPT_R | EPT_W | (EPT_R | EPT_X) << 3 | VALID
    assert two.fault() == (Cause.DENIED, Use.TABLE, slot, code)


def test_ept_accessed_bits_of_the_guest_are_written(build: Callable[..., Two]) -> None:
    """If wrong, hardware marks the guest's entries in a page that it may not write to."""
    two = build(ept(CPU))
    slot = two.guest_slot()
    two.clear(slot, EPT_W)
    code = EPT_W | (EPT_R | EPT_X) << 3 | VALID
    assert two.fault() == (Cause.DENIED, Use.MARK, slot, code)
    assert two.walk().guest_refs == 4
    assert not two.guest_entry() & pte.A
    assert two.guest_entry(4) & pte.A  # marked from the root down, until one could not be


@pytest.mark.parametrize(
    ("kind", "explicit"), [(USER_READ, EPT_R), (USER_WRITE, EPT_W), (USER_FETCH, EPT_X)]
)
def test_ept_violations(build: Callable[..., Two], kind: int, explicit: int) -> None:
    """If wrong, an exit qualification tells of another access, or of other rights."""
    two = build(ept(CPU))
    two.host(
        PAGE, OFFSET + PAGE | RWX & ~explicit & ~(EPT_W if explicit == EPT_R else 0), bare=True
    )
    left = two.host_entry(PAGE) & RWX
    gpa = PAGE + VA % 0x1000
    code = explicit | left << 3 | VALID | FINAL
    assert two.fault(kind)[1:] == ((Use.READ, Use.WRITE, Use.FETCH_USER)[explicit // 2], gpa, code)
    two.host(PAGE, 0, bare=True)
    cause, _, at, code = two.fault(kind)
    assert (cause, at, code) == (Cause.NOT_PRESENT, gpa, explicit | VALID | FINAL)


def test_rights_of_every_level_count(build: Callable[..., Two]) -> None:
    """If wrong, only the leaf's rights are looked at, or reported."""
    two = build(ept(CPU))
    two.age()
    two.clear(PAGE, EPT_W, level=2)
    code = EPT_W | (EPT_R | EPT_X) << 3 | VALID | FINAL
    assert two.fault(USER_WRITE)[3] == code
    assert two.walk().access == pf.U | pf.ID


@pytest.mark.parametrize("user", [False, True])
def test_mode_based_execute(build: Callable[..., Two], *, user: bool) -> None:
    """If wrong, the page that the guest gave to the user is not told from the supervisor's."""
    two = build(ept(CPU, mode_based=True))
    two.guest(VA, PAGE, ALL if user else pte.P | pte.W)
    mine, other = (EPT_XU, EPT_X) if user else (EPT_X, EPT_XU)
    kind = USER_FETCH if user else pf.ID
    two.clear(PAGE, other)
    assert two.walk(kind).is_ok
    assert two.walk(kind).access & pf.ID
    two.host(PAGE, OFFSET + PAGE | other)
    two.clear(PAGE, mine)
    executable = 1 << 5 if user else 1 << 6
    code = EPT_X | EPT_R << 3 | EPT_W << 3 | executable | VALID | FINAL
    assert two.fault(kind)[3] == code
    assert not two.walk(kind & pf.U).access & pf.ID


def test_execute_bits_alone_are_present(build: Callable[..., Two]) -> None:
    """If wrong, bit 10 makes an entry present where nobody has given it a meaning."""
    for mode_based, cause in ((False, Cause.NOT_PRESENT), (True, Cause.DENIED)):
        two = build(ept(CPU, mode_based=mode_based))
        two.host(PAGE, OFFSET + PAGE | EPT_XU, bare=True)
        assert two.fault()[0] is cause


def test_what_may_only_be_executed_is_not_readable(build: Callable[..., Two]) -> None:
    """If wrong, a TLB that cached a fetch lets reads through."""
    two = build(ept(CPU))
    two.host(PAGE, OFFSET + PAGE | EPT_X, bare=True)
    walked = two.walk(USER_FETCH)
    assert walked.is_ok
    assert not walked.readable
    assert walked.access == pf.U | pf.ID
    assert two.fault()[0] is Cause.DENIED


@pytest.mark.parametrize(
    ("flags", "bits"),
    [(ALL, 0b011), (pte.P | pte.U, 0b001), (pte.P | pte.W, 0b010), (ALL | pte.NX, 0b111)],
)
def test_advanced_exit_information(build: Callable[..., Two], flags: int, bits: int) -> None:
    """If wrong, bits 11:9 of the qualification describe another page than the guest has."""
    for advanced in (False, True):
        two = build(ept(CPU, advanced=advanced))
        two.guest(VA, PAGE, flags)
        two.host(PAGE, 0, bare=True)
        kind = flags & pf.U
        assert two.fault(kind)[3] >> 9 == (bits if advanced else 0)
        two.host(two.guest_slot(), 0, bare=True)
        assert two.fault(kind)[3] == EPT_R | VALID  # nothing is known of the page then


MISCONFIGURED = {
    "write without read": (1, EPT_W | EPT_X, {}),
    "execute without read": (1, EPT_X, {"execute_only": False}),
    "user execute without read": (1, EPT_XU, {"execute_only": False, "mode_based": True}),
    "address beyond MAXPHYADDR": (1, RWX | 1 << 46, {}),
    "memory type 2": (1, RWX | 2 << 3, {}),
    "memory type 3": (1, RWX | 3 << 3, {}),
    "memory type 7": (1, RWX | 7 << 3, {}),
    "memory type of a large page": (2, RWX | pte.PS | 7 << 3, {}),
    "low bit of a large page": (2, RWX | pte.PS | 1 << 12 | LEAF, {}),
    "memory type of a table": (2, RWX | LEAF, {}),
    "ignore-PAT of a table": (3, RWX | 1 << 6, {}),
    "large page at the root": (4, RWX | pte.PS, {}),
    "memory type at the root": (4, RWX | 1 << 3, {}),
}


@pytest.mark.parametrize("case", MISCONFIGURED)
def test_misconfigurations(build: Callable[..., Two], case: str) -> None:
    """If wrong, an entry with a setting that is reserved is used, or is called a violation."""
    level, bits, options = MISCONFIGURED[case]
    two = build(ept(CPU, accessed_dirty=True, **options))
    two.guest(VA, 1 << 39 | PAGE)  # far from the tables, which must stay readable
    two.host((1 << 39) + PAGE, OFFSET + PAGE)
    slot = two.host_slot((1 << 39) + PAGE, level)
    table = 0 if level == 1 else two.memory.load(slot) & pte.ADDRESS
    two.memory.store(slot, (0 if bits & pte.PS else table) | bits)
    before = two.memory.load(slot)
    cause, use, gpa, code = two.fault()
    assert (cause, use, code) == (Cause.RESERVED, Use.READ, 0)
    assert gpa == (1 << 39) + PAGE + VA % 0x1000
    assert two.memory.load(slot) == before
    stopped = two.walk().fault
    assert stopped is not None
    assert stopped.level == level


@pytest.mark.parametrize(
    ("level", "bits"),
    [(1, EPT_R | kind << 3) for kind in (0, 1, 4, 5, 6)]
    + [(1, EPT_R | bit) for bit in (1 << 6, pte.PS, EPT_A, EPT_D, 1 << 11, 1 << 52, 1 << 63)]
    + [(2, RWX | pte.PS | 1 << 6), (2, RWX | pte.PS | 1 << 62)],
)
def test_what_is_no_misconfiguration(build: Callable[..., Two], level: int, bits: int) -> None:
    """If wrong, an entry that every hypervisor writes is a misconfiguration to us."""
    two = build(ept(CPU))
    two.host(PAGE, OFFSET + PAGE | bits, level, bare=True)
    assert two.walk().hpa == OFFSET + PAGE + VA % 0x1000


def test_a_gigabyte_page_has_to_be_offered(build: Callable[..., Two]) -> None:
    """If wrong, bit 7 of a PDPTE makes a leaf on a CPU that has no such pages."""
    for offered in (True, False):
        two = build(ept(CpuFeatures(gbpages=offered)))
        two.guest(VA, 1 << 39 | PAGE)
        two.host(1 << 39, RWX | pte.PS, level=3, bare=True)
        walked = two.walk()
        assert walked.is_ok is offered
        if walked.fault is not None:
            assert walked.fault.cause is Cause.RESERVED


def test_pae_pointers_are_read_before_there_is_an_address(build: Callable[..., Two]) -> None:
    """If wrong, loading CR3 counts as a write to the PDPTEs, or tells of a linear address."""
    two = build(ept(CPU, accessed_dirty=True), PAE)
    two.host(CR3, OFFSET + CR3)
    two.clear(CR3, EPT_W)
    assert two.walk().is_ok
    assert two.host_entry(CR3) & (EPT_A | EPT_D) == EPT_A
    two.clear(CR3, EPT_R)
    cause, use, gpa, code = two.fault()
    assert (cause, use, gpa) == (Cause.DENIED, Use.POINTER, two.guest_slot(VA, 3))
    assert code == EPT_R | EPT_X << 3


# Nested paging


def test_npt_marks_both_dimensions(build: Callable[..., Two]) -> None:
    """If wrong, the host's D misses the guest's tables, which hardware always writes to."""
    two = build(npt(CPU))
    assert two.walk().is_ok
    assert two.host_entry(two.guest_slot()) & (pte.A | pte.D) == pte.A | pte.D
    assert two.host_entry(PAGE) & (pte.A | pte.D) == pte.A
    assert two.guest_entry() & (pte.A | pte.D) == pte.A
    assert two.walk(USER_WRITE).dirty
    assert two.host_entry(PAGE) & (pte.A | pte.D) == pte.A | pte.D
    assert two.guest_entry() & (pte.A | pte.D) == pte.A | pte.D


@pytest.mark.parametrize(
    ("entry", "kind", "pfec"),
    [
        (0, USER_READ, pf.U),
        (0, USER_WRITE, pf.U | pf.W),
        (0, USER_FETCH, pf.U | pf.ID),
        (0, pf.READ, pf.U),  # every nested access is a user's
        (pte.P | pte.U, USER_WRITE, pf.P | pf.U | pf.W),
        (pte.P | pte.W, pf.READ, pf.P | pf.U),
        (ALL | pte.NX, USER_FETCH, pf.P | pf.U | pf.ID),
        (ALL | 1 << 46, USER_READ, pf.P | pf.RSVD | pf.U),
    ],
)
def test_nested_page_faults(build: Callable[..., Two], entry: int, kind: int, pfec: int) -> None:
    """If wrong, EXITINFO1 and EXITINFO2 tell of another fault than there was."""
    two = build(npt(CPU))
    if not kind & pf.U:
        two.guest(VA, PAGE, pte.P | pte.W)
    two.host(PAGE, OFFSET + PAGE | entry if entry else 0, bare=True)
    cause, _, gpa, code = two.fault(kind)
    assert (gpa, code) == (PAGE + VA % 0x1000, pfec | NPF_FINAL)
    expected = Cause.RESERVED if pfec & pf.RSVD else Cause(2 * (pfec & pf.P))
    assert cause is expected


@pytest.mark.parametrize("kind", [USER_READ, USER_WRITE, USER_FETCH, pf.READ])
def test_npt_tables_are_written_as_user(build: Callable[..., Two], kind: int) -> None:
    """If wrong, a fault on the way is reported with the access that was made, not a write's."""
    for bits, p in ((ALL | 1 << 12, 0), (pte.W, pf.P), (pte.U, pf.P)):
        two = build(npt(CPU))
        slot = two.guest_slot(VA, 2)
        two.clear(slot, bits)
        cause, use, gpa, code = two.fault(kind)
        assert cause is (Cause.DENIED if p else Cause.NOT_PRESENT)
        assert (use, gpa, code) == (Use.TABLE, slot, p | pf.W | pf.U | NPF_TABLE)


def test_npt_without_nxe(build: Callable[..., Two]) -> None:
    """If wrong, NX of a host that has it off forbids fetches instead of being reserved."""
    two = build(npt(CPU, nxe=False))
    two.host(PAGE, OFFSET + PAGE | pte.NX)
    assert two.fault(USER_FETCH)[3] == pf.P | pf.RSVD | pf.U | NPF_FINAL
    two.clear(PAGE, pte.NX | pte.U)
    assert two.fault(USER_FETCH)[3] == pf.P | pf.U | NPF_FINAL


def test_npt_pae_pointers_are_entries_like_others(build: Callable[..., Two]) -> None:
    """If wrong, nested paging loads PDPTEs as EPT does."""
    two = build(npt(CPU), PAE)
    two.clear(CR3, pte.W)
    cause, use, gpa, code = two.fault()
    assert (cause, use, gpa) == (Cause.DENIED, Use.POINTER, two.guest_slot(VA, 3))
    assert code == pf.P | pf.W | pf.U | NPF_TABLE


# The interface


def test_nothing_is_walked_before_something_is_loaded(build: Callable[..., Two]) -> None:
    """If wrong, a walk reads through whatever was in memory."""
    two = build(ept(CPU))
    fresh = type(two.walker)(two.memory)
    with pytest.raises(InvariantError, match="before any registers"):
        fresh.walk(VA, USER_READ)


def test_batches_stop_where_there_is_no_translation() -> None:
    """If wrong, a batch goes on over a fault, or loses count of what was read."""
    two = Two(compiled(), ept(CPU))
    walker, none = two.walker, (1 << 64) - 1
    two.guest(VA + 0x1000, 0, 0)
    gva = array("Q", [VA, VA + 8, VA + 0x1000, VA])
    translated = array("Q", [none]) * 4
    at, last = walker.run(gva, bytes([pf.U]) * 4, 0, translated)
    assert (at, last.guest.pfec) == (2, pf.U)
    hpa = OFFSET + PAGE + VA % 0x1000
    assert translated.tolist() == [hpa, hpa + 8, none, none]
    assert walker.refs == (12, 20 + 20 + 16)
    at, last = walker.run(gva, bytes([pf.U]) * 4, 3)
    assert (at, last.hpa) == (4, hpa)
    for kinds, start in ((b"\4", 0), (bytes(4), 4)):
        with pytest.raises(ValueError, match="4 addresses with"):
            walker.run(gva, kinds, start)
    two.memory.close()


def test_a_compiled_walker_that_was_not_built_says_so(monkeypatch: pytest.MonkeyPatch) -> None:
    """If wrong, whoever asks for it gets a traceback from inside of cffi."""
    walker = compiled()
    engine = pytest.importorskip("hvmmu._core.engine").CompiledEngine
    monkeypatch.setattr(engine, "why_not", "it was not built")
    with pytest.raises(EngineUnavailableError, match="it was not built"):
        walker(Memory(1 << 12))
