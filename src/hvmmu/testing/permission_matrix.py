"""Page tables and accesses that cover every combination of permissions, and every denial.

Each access has its own leaf; upper entries are shared, so that each expected result is the input of
the next.
"""

from __future__ import annotations

import itertools

import attrs

from hvmmu.spec.oracle import (
    ACCESSED,
    ACCESSES,
    DIRTY,
    NO_EXECUTE,
    PRESENT,
    USER,
    WRITABLE,
    Expected,
    Made,
    Mode,
    expected,
)

ROOT = 1
"""The frame of the root table."""

_ALL = PRESENT | WRITABLE | USER
_LINK = _ALL | ACCESSED
_LARGE = 1 << 7
_ADDRESS = 0x000F_FFFF_FFFF_F000
_SHIFTS = (39, 30, 21, 12)
_DATA, _FRAMES = 1024, 512
_RIGHTS = [sum(bits) for bits in itertools.product((0, WRITABLE), (0, USER), (0, NO_EXECUTE))]
_ONE_LESS = (WRITABLE, USER, WRITABLE | USER | NO_EXECUTE)
_MARKS = (0, ACCESSED, DIRTY, ACCESSED | DIRTY)
_ABSENT = (0, (1 << 63) | 0xFFE)
"""Two entries that are not present: zero, and all bits but P."""


@attrs.frozen
class MatrixCase:
    """One access, and the gpa of each entry of its walk, root first."""

    gva: int
    access: Made
    walk: tuple[int, ...]


class PermissionMatrix:
    """Tables, as a boot loader writes them, and the accesses to make.

    A *whole* matrix has every combination of permissions, A and D at the leaf and above it; the
    other has one permission less above the leaf, and A and D clear.
    """

    def __init__(self, maxphyaddr: int, *, whole: bool) -> None:
        self.entries: dict[int, int] = {}
        self.cases: list[MatrixCase] = []
        self._whole = whole
        self._marks = _MARKS if whole else (0,)
        self._reserved = 1 << 51 if maxphyaddr < 52 else 0
        self._next, self._slot = ROOT + 1, 0
        self._rights()
        self._refusals()
        self._first_touches()
        self._large_pages()

    def _table(self) -> int:
        self._next += 1
        return self._next - 1

    def _put(self, table: int, index: int, entry: int) -> int:
        gpa = (table << 12) + 8 * index
        self.entries[gpa] = entry
        return gpa

    def _branch(self, entries: tuple[int, int, int]) -> tuple[int, tuple[int, ...], int]:
        """Link a new leaf table through entries with these flags; return gva, walk and table."""
        way, table, gva = [], ROOT, 0
        for nth, flags in enumerate(entries):
            index = self._slot if nth == 0 else 0
            below = self._table()
            way.append(self._put(table, index, below << 12 | flags))
            gva |= index << _SHIFTS[nth]
            table = below
        self._slot += 1
        return gva, tuple(way), table

    def _leaf(self, branch: tuple[int, tuple[int, ...], int], flags: int, access: Made) -> None:
        """Add a page to a leaf table, and the one access to it."""
        gva, way, table = branch
        index = sum((table << 12) <= gpa < (table + 1) << 12 for gpa in self.entries)
        frame = _DATA + len(self.cases) % _FRAMES
        leaf = self._put(table, index, frame << 12 | flags)
        self.cases.append(MatrixCase(gva | index << 12 | 8 * (index % 512), access, (*way, leaf)))

    def _rights(self) -> None:
        """Lay out every combination of permissions at the leaf and above it."""
        for above, nth in itertools.product(_RIGHTS, range(3)):
            if nth < 2 and not self._whole and above not in _ONE_LESS:
                continue
            flags = [_LINK] * 3
            flags[nth] = PRESENT | ACCESSED | above
            branch = self._branch((flags[0], flags[1], flags[2]))
            marks = self._marks if nth == 2 else (DIRTY,)
            for rights, mark, access in itertools.product(_RIGHTS, marks, ACCESSES):
                self._leaf(branch, PRESENT | rights | mark, access)

    def _refusals(self) -> None:
        """Lay out an entry that is not present, and one with a reserved bit, at each level."""
        bad = [*_ABSENT, _ALL | self._reserved] if self._reserved else list(_ABSENT)
        for entry, nth, access in itertools.product(bad, range(4), ACCESSES):
            flags = [_ALL] * 3
            if nth < 3:
                flags[nth] = entry
            branch = self._branch((flags[0], flags[1], flags[2]))
            self._leaf(branch, entry if nth == 3 else _ALL, access)

    def _first_touches(self) -> None:
        """Lay out walks whose entries all have A clear: some allowed at the leaf, some denied."""
        for rights, access in itertools.product(_RIGHTS, ACCESSES):
            self._leaf(self._branch((_ALL, _ALL, _ALL)), PRESENT | rights, access)

    def _large_pages(self) -> None:
        """Lay out 2 MiB pages with every combination of permissions."""
        gva, way, _ = self._branch((_LINK, _LINK, _LINK))
        table, index = self.entries[way[1]] >> 12 & 0xFFFF, 1
        for rights, mark, access in itertools.product(_RIGHTS, self._marks, ACCESSES):
            flags = PRESENT | _LARGE | rights | mark
            leaf = self._put(table, index, _DATA << 12 | flags)
            at = gva | index << 21 | (index % 512) << 12 | 8
            self.cases.append(MatrixCase(at, access, (*way[:2], leaf)))
            index += 1

    def expected_results(self, mode: Mode) -> tuple[list[Expected], list[int], dict[int, int]]:
        """Return the oracle's results for the accesses in order.

        They are the outcome of each, its guest-physical address, and all entries at the end.
        """
        entries, outcomes, translated = dict(self.entries), [], []
        for case in self.cases:
            before = tuple(entries[gpa] for gpa in case.walk)
            outcome = expected(before, case.access, mode, self._reserved)
            entries.update(zip(case.walk, outcome.entries, strict=True))
            outcomes.append(outcome)
            span = (1 << _SHIFTS[len(case.walk) - 1]) - 1
            translated.append(before[-1] & _ADDRESS & ~span | case.gva & span)
        return outcomes, translated, entries
