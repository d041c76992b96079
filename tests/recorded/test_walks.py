"""The reference walk against 20,000 walks recorded on implementations that nobody here wrote.

The same rows go through a second dimension that maps every address to itself, in Python and in C.
"""

from __future__ import annotations

import csv
import lzma
import mmap
from pathlib import Path
from typing import TYPE_CHECKING, Any

import attrs
import pytest

from hvmmu.arch import pfec as pf
from hvmmu.arch import pte
from hvmmu.arch.ept import EPT_R, EPT_W, EPT_X, ept
from hvmmu.arch.npt import npt
from hvmmu.arch.paging import LEGACY32, LONG4, LONG5, MODES, PagingMode, formats
from hvmmu.arch.regs import (
    CR0_PE,
    CR0_PG,
    CR0_WP,
    CR4_LA57,
    CR4_PAE,
    CR4_PGE,
    CR4_PKE,
    CR4_PSE,
    CR4_SMAP,
    CR4_SMEP,
    EFER_LMA,
    EFER_LME,
    EFER_NXE,
    CpuFeatures,
    Regs,
)
from hvmmu.memory import Memory
from hvmmu.spec.walk import Outcome, Walk, walk
from hvmmu.spec.walk_2d import NestedWalker

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from hvmmu.arch.tdp import TdpFormats

RECORDED = Path(__file__).with_name("x86-walks.csv.xz")
ROWS = {"legacy32": 2_762, "pae": 4_128, "long4": 9_002, "long5": 4_108}
"""How many rows the file has of each mode: no row may be lost on the way to the test."""
CR3 = 0x7F00_0000
KINDS = {"read": pf.READ, "write": pf.WRITE, "fetch": pf.FETCH}
CR4_BITS = {
    "cr4_pse": CR4_PSE,
    "cr4_pge": CR4_PGE,
    "cr4_smep": CR4_SMEP,
    "cr4_smap": CR4_SMAP,
    "cr4_pke": CR4_PKE,
}
INTEL = CpuFeatures(maxphyaddr=40)
AMD = CpuFeatures(maxphyaddr=40, mbz_bit8=True)


class PteMaker(dict[int, int]):
    """Physical memory that holds a row's entries and nothing else."""

    def load(self, pa: int, size: int) -> int:
        """Return the entry at *pa*."""
        del size
        return self[pa]

    def store(self, pa: int, value: int, size: int) -> None:
        """Set the entry at *pa*, which must be one of the row's."""
        assert pa in self
        assert value >> (8 * size) == 0
        self[pa] = value


@attrs.frozen
class Row:
    """One recorded walk, its numbers read."""

    case: str
    mode: PagingMode
    va: int
    kind: int
    regs: Regs
    before: tuple[int, ...]
    """The entries by level, level 1 first."""
    after: tuple[int, ...]
    outcome: Outcome
    pfec: int
    pa: int
    mbz_bit8: bool

    @classmethod
    def read(cls, row: dict[str, str]) -> Row:
        """Read a line of the file."""
        mode = next(mode for mode in MODES if mode.name == row["mode"])
        on = {name for name, value in row.items() if value == "1"}
        cr4 = sum(bit for name, bit in CR4_BITS.items() if name in on)
        cr4 |= (0 if mode is LEGACY32 else CR4_PAE) | (CR4_LA57 if mode is LONG5 else 0)
        long = EFER_LME | EFER_LMA if mode in (LONG4, LONG5) else 0
        levels = range(len(mode.levels))
        return cls(
            case=row["case_id"],
            mode=mode,
            # The recorded data access was of 4 bytes, 4 bytes into its 8-byte slot.
            va=int(row["va"], 16) + (0 if row["access"] == "fetch" else 4),
            kind=KINDS[row["access"]] | (pf.U if "user" in on else 0),
            regs=Regs(
                cr0=CR0_PE | CR0_PG | (CR0_WP if "cr0_wp" in on else 0),
                cr3=CR3,
                cr4=cr4,
                efer=long | (EFER_NXE if "efer_nxe" in on else 0),
                pkru=int(row["pkru"], 16),
                rflags_ac=int("rflags_ac" in on),
            ),
            before=tuple(int(row[f"e{level}"], 16) for level in levels),
            after=tuple(int(row[f"a{level}"], 16) for level in levels),
            outcome=Outcome(row["outcome"]),
            pfec=int(row["error_code"], 16),
            pa=int(row["pa"], 16),
            mbz_bit8="amd_mbz_bit8" in on,
        )

    def where(self) -> list[int]:
        """Return where the entries lie, level 1 first."""
        table, where = CR3, []
        for level in self.mode.levels:
            where.append(table + level.index(self.va) * self.mode.entry_size)
            table = self.before[level.level - 1] & pte.ADDRESS
        return where[::-1]

    def run(self, cpu: CpuFeatures) -> tuple[Walk, tuple[int, ...]]:
        """Walk the row's address; return the walk, and the entries after it by level."""
        memory = PteMaker(zip(self.where(), self.before, strict=True))
        found = walk(memory, self.regs, formats(self.mode, self.regs, cpu), self.va, self.kind)
        return found, tuple(memory.values())

    def agrees(self, found: Walk, after: tuple[int, ...]) -> bool:
        """Say whether the walk gave what was recorded."""
        if found.outcome is not self.outcome:
            return False
        if found.outcome is Outcome.PAGE_FAULT:
            return found.pfec == self.pfec
        if found.outcome is Outcome.GENERAL_PROTECTION:
            return True
        translated = self.kind & pf.ID or found.pa == self.pa | 4  # no fetch's address was recorded
        return bool(translated) and after == self.after


@pytest.fixture(scope="module")
def rows() -> list[Row]:
    """Return all recorded walks."""
    with lzma.open(RECORDED, "rt") as file:
        return [Row.read(row) for row in csv.DictReader(file)]


@pytest.mark.parametrize("mode", MODES, ids=lambda mode: mode.name)
def test_recorded_walks(rows: list[Row], mode: PagingMode) -> None:
    """If wrong, our hardware translates, faults or marks entries as no real CPU does."""
    mine = [row for row in rows if row.mode is mode]
    assert len(mine) == ROWS[mode.name]
    wrong = [(row, found) for row in mine if not row.agrees(*(found := row.run(INTEL)))]
    assert wrong == []


def test_bit_8_of_upper_entries_is_reserved_on_amd(rows: list[Row]) -> None:
    """If wrong, an AMD guest's G in a PML4E or PML5E is ignored, as only Intel does."""
    faults = others = 0
    for row in rows:
        if not row.mbz_bit8:
            continue
        met = row.run(INTEL)[0].path
        first = next((s for s in met if s.level >= 4 and s.entry & (pte.P | pte.G) == 0x101), None)
        found, _ = row.run(AMD)
        if first is None:
            assert row.agrees(*row.run(AMD)), row
            others += 1
            continue
        assert found.outcome is Outcome.PAGE_FAULT, row
        assert found.pfec & (pf.P | pf.RSVD) == pf.P | pf.RSVD, row
        assert found.level == first.level, row
        faults += 1
    assert faults > 1000
    assert faults + others == 4066


GUEST = 1 << 40
"""Bytes of guest-physical memory, all that the rows' entries reach; the host's tables lie above."""
HOST = CpuFeatures(maxphyaddr=46)
HOST_TABLES = {
    "ept": (ept(HOST, accessed_dirty=True), EPT_R | EPT_W | EPT_X, 6 << 3),
    "npt": (npt(HOST), pte.P | pte.W | pte.U, 0),
}


def readable(memory: Memory) -> Any:  # noqa: ANN401 - either walker
    """Return the readable walker."""
    return NestedWalker(memory)


def compiled(memory: Memory) -> Any:  # noqa: ANN401 - either walker
    """Return the compiled walker; skip the test where it was not built."""
    reason = "the compiled engine was not built"
    pytest.importorskip("hvmmu._core._lib", reason=reason)
    return pytest.importorskip("hvmmu._core.walk_2d").CompiledNestedWalker(memory)


class Identity:
    """A host that maps each gigabyte of the guest's memory to itself, all of it there."""

    def __init__(self, flavour: str) -> None:
        self.memory = Memory(GUEST + (1 << 20))
        self.tdp: TdpFormats
        self.tdp, rights, memory_type = HOST_TABLES[flavour]
        for half in range(2):
            table = GUEST + (half + 1 << 12)
            self.memory.store(GUEST + 8 * half, table | rights)
            for index in range(512):
                page = (half << 39) + (index << 30)
                self.memory.store(table + 8 * index, page | rights | pte.PS | memory_type)

    def run(self, walker: Any, row: Row) -> tuple[Walk, tuple[int, ...]]:  # noqa: ANN401
        """Walk a row's address in both dimensions."""
        where, size = row.where(), row.mode.entry_size
        for pa, entry in zip(where, row.before, strict=True):
            self.memory.store(pa, entry, size)
        walker.load(row.regs, formats(row.mode, row.regs, INTEL), self.tdp, GUEST)
        found = walker.walk(row.va, row.kind)
        after = []
        for pa, entry in zip(where, row.before, strict=True):
            # Below a large page an entry may lie beyond the memory, and is never looked at.
            after.append(self.memory.load(pa, size) if pa < GUEST else entry)
            self.memory.store(pa, 0, size)
        assert found.fault is None
        ends = found.is_ok + found.guest_refs  # one for each guest-physical address
        assert found.host_refs == 2 * ends
        assert not found.is_ok or (found.hpa, found.access) == (found.guest.pa, found.guest.access)
        return found.guest, tuple(after)


@pytest.fixture
def identities() -> Iterator[list[Identity]]:
    """Return second dimensions of both flavours that change nothing."""
    try:
        made = [Identity(flavour) for flavour in HOST_TABLES]
    except (OSError, OverflowError):
        pytest.skip("this machine does not give out terabytes of addresses")
    yield made
    for identity in made:
        identity.memory.close()


@pytest.mark.parametrize("walker", [readable, compiled])
def test_recorded_walks_through_a_second_dimension(
    rows: list[Row], identities: list[Identity], walker: Callable[[Memory], Any]
) -> None:
    """If wrong, a second dimension that only passes on changes what real CPUs do, in either form.

    The flavours take turns, row by row.
    """
    walkers = [walker(identity.memory) for identity in identities]
    wrong = []
    for number, row in enumerate(rows):
        identity = identities[number % 2]
        if not row.agrees(*identity.run(walkers[number % 2], row)):
            wrong.append(row)
        if number % 1000 < 2:  # each row touches frames of its own, which would add up
            identity.memory.bytes.obj.madvise(mmap.MADV_DONTNEED, 0, GUEST)
    assert wrong == []
    assert len(rows) == sum(ROWS.values())
