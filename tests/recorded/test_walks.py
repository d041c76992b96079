"""The reference walk against 20,000 walks recorded on implementations that nobody here wrote."""

from __future__ import annotations

import csv
import lzma
from pathlib import Path

import attrs
import pytest

from hvmmu.arch import pfec as pf
from hvmmu.arch import pte
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
from hvmmu.hw.walk import Outcome, Walk, walk

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


class Entries(dict[int, int]):
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

    def run(self, cpu: CpuFeatures) -> tuple[Walk, tuple[int, ...]]:
        """Walk the row's address; return the walk, and the entries after it by level."""
        memory, table, where = Entries(), CR3, []
        for level in self.mode.levels:
            entry = self.before[level.level - 1]
            where.append(table + level.index(self.va) * self.mode.entry_size)
            memory[where[-1]] = entry
            table = entry & pte.ADDRESS
        found = walk(memory, self.regs, formats(self.mode, self.regs, cpu), self.va, self.kind)
        return found, tuple(memory[pa] for pa in reversed(where))

    def agrees(self, found: Walk, after: tuple[int, ...]) -> bool:
        """Say whether the walk gave what was recorded."""
        if found.outcome is not self.outcome:
            return False
        if found.outcome is Outcome.PAGE_FAULT:
            return found.pfec == self.pfec
        if found.outcome is Outcome.GENERAL_PROTECTION:
            return True
        landed = self.kind & pf.ID or found.pa == self.pa | 4  # no fetch's address was recorded
        return bool(landed) and after == self.after


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
