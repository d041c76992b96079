"""Hand-written programs, each for one duty of shadow paging."""

from __future__ import annotations

from typing import TYPE_CHECKING

from hvmmu.arch import pfec as pf
from hvmmu.arch import pte
from hvmmu.arch.regs import CR0_WP, CR4_PGE, CR4_PKE, CR4_SMAP, CR4_SMEP, EFER_NXE
from hvmmu.testing.guest_program import (
    DATA,
    KERNEL,
    Access,
    InvalidatePage,
    LoadRoot,
    Operation,
    SetEntry,
    StoreThrough,
    Toggle,
)
from hvmmu.testing.program_generator import KINDS

if TYPE_CHECKING:
    from hvmmu.arch.regs import CpuFeatures

LINK = pte.P | pte.W | pte.U | pte.A
FRESH = pte.P | pte.W | pte.U
"""Neither accessed nor dirty."""
USED = FRESH | pte.A
DIRTY = USED | pte.D

ROOT, OTHER = 3, 4
PDPT, OTHER_PDPT, PD, OTHER_PD, PT, PT2, FAR_PT, FAR_PT2 = 16, 17, 18, 19, 20, 21, 513, 514
PAGES = 0, 0x1000
"""The pages that PT maps, under either root; PT2 maps the same 2 MiB higher."""
NEXT = 1 << 21

READ, WRITE = pf.U, pf.U | pf.W


def _set(table: int, index: int, frame: int, flags: int) -> SetEntry:
    return SetEntry(table, index, frame << 12 | flags, by_page=bool(index))


def _way(*, pdpt: int = PDPT, root: int = ROOT) -> list[Operation]:
    """Return the writes that link a root to PT and PT2."""
    return [
        _set(root, 0, pdpt, LINK),
        _set(pdpt, 0, PD, LINK),
        _set(PD, 0, PT, LINK),
        _set(PD, 1, PT2, LINK),
    ]


def _all_kinds(*gvas: int) -> list[Operation]:
    return [Access(gva + 8, kind) for gva in gvas for kind in KINDS]


def demand_paging() -> list[Operation]:
    """Access absent pages, map them, access them again: no flush is required, none is made."""
    made = _way()
    for index, flags in ((0, DIRTY), (1, FRESH)):
        gva = PAGES[index]
        for kind in (READ, WRITE, pf.U | pf.ID):
            made += [Access(gva, kind), _set(PT, index, DATA[index], flags), Access(gva, kind)]
            made += [*_all_kinds(gva), SetEntry(PT, index, 0, by_page=True), Access(gva, kind)]
    return made


def mapped_from_above() -> list[Operation]:
    """Fault on a missing table at each level, and link it."""
    made: list[Operation] = [Access(0, WRITE), _set(PT, 0, DATA[0], USED), Access(0, WRITE)]
    for step in reversed(_way()[:3]):
        made += [step, Access(0, WRITE), Access(8, READ)]
    return [*made, *_all_kinds(0)]


def accessed_and_dirty() -> list[Operation]:
    """Read, then write, pages whose A and D are clear; clear them again, and flush."""
    made = _way()
    for flags in (FRESH, USED, DIRTY, FRESH & ~pte.W, USED & ~pte.U):
        for index in (0, 1):
            made += [_set(PT, index, DATA[index], flags)]
            made += [Access(PAGES[index], kind) for kind in (READ, pf.READ, WRITE, pf.WRITE, READ)]
    return made


def table_writes() -> list[Operation]:
    """Remove and restore permissions, and remap, at the leaf and above it."""
    made = _way()
    for table, frames in ((PT, DATA[:2]), (PD, (PT, PT2)), (PDPT, (PD, OTHER_PD))):
        made += [_set(PT, 0, DATA[0], DIRTY), _set(OTHER_PD, 0, FAR_PT, LINK)]
        made += [_set(FAR_PT, 0, DATA[2], DIRTY), _set(PT2, 0, DATA[3], DIRTY)]
        for flags in (DIRTY, DIRTY & ~pte.W, DIRTY & ~pte.U, DIRTY | pte.NX, DIRTY):
            made += [_set(table, 0, frames[0], flags), Access(0, READ), Access(0, WRITE)]
            made += [Access(0, pf.U | pf.ID)]
        made += [_set(table, 0, frames[1], DIRTY), Access(0, READ), Access(0, WRITE)]
    return made


def write_protected_tables() -> list[Operation]:
    """Map tables as data, write them through either mapping, turn a data page into a table."""
    made = [*_way(), _set(PT, 0, PT, DIRTY), _set(PT, 1, FAR_PT, DIRTY), Access(PAGES[1], WRITE)]
    made += [StoreThrough(PAGES[1] + 8, DATA[1] << 12 | DIRTY), Access(PAGES[1], WRITE)]
    # FAR_PT is written as data, then used as a table while that translation is cached
    made += [_set(PD, 1, FAR_PT, LINK), Access(NEXT + 0x1000, WRITE), Access(PAGES[1], WRITE)]
    made += [StoreThrough(PAGES[1], DATA[2] << 12 | DIRTY), Access(NEXT, WRITE)]
    made += [
        StoreThrough(8, DATA[0] << 12 | DIRTY),
        Access(PAGES[1], WRITE),
        StoreThrough(0, 0),
        Access(0, READ),
    ]
    return made


def unmapped_and_remapped() -> list[Operation]:
    """Unmap pages and whole tables, map others there."""
    made = [*_way(), _set(PT, 0, DATA[0], DIRTY), _set(PT2, 0, DATA[1], DIRTY)]
    for table, index, one, other in (
        (PT, 0, DATA[0], DATA[2]),
        (PD, 0, PT, PT2),
        (ROOT, 0, 16, 17),
    ):
        made += [*_way(pdpt=OTHER_PDPT)[1:], Access(0, WRITE), Access(NEXT, WRITE)]
        for frame, flags in ((one, 0), (other, DIRTY), (other, 0), (one, DIRTY)):
            made += [_set(table, index, frame, flags), Access(0, READ), Access(0, WRITE)]
    return made


def large_pages() -> list[Operation]:
    """Map 2 MiB at once, clean and dirty, with tables inside and without; split it again."""
    made = _way()
    for region in (2, 0, 1):
        for flags in (FRESH, DIRTY, DIRTY & ~pte.W, DIRTY | pte.NX):
            made += [SetEntry(PD, 0, region << 21 | pte.PS | flags, by_page=False)]
            made += [Access(at, kind) for at in (0, 0x1000) for kind in (READ, WRITE, pf.WRITE)]
        made += [_set(PD, 0, PT, LINK), _set(PT, 0, DATA[0], DIRTY), Access(0, WRITE)]
    return made


def two_roots() -> list[Operation]:
    """Load CR3 with one of two roots in turn, whose tables differ."""
    made = [*_way(), *_way(root=OTHER, pdpt=OTHER_PDPT)[:1], _set(OTHER_PDPT, 0, OTHER_PD, LINK)]
    made += [_set(OTHER_PD, 0, FAR_PT, LINK), _set(FAR_PT, 0, DATA[2], DIRTY)]
    made += [_set(PT, 0, DATA[0], DIRTY), Access(0, WRITE)]
    for root in (1, 0, 1, 1, 0):
        made += [LoadRoot(root), Access(0, WRITE), Access(8, READ), Access(PAGES[1], READ)]
    # the other root's tables change while they are not in use
    made += [_set(FAR_PT, 0, DATA[3], DIRTY), LoadRoot(1), Access(0, WRITE)]
    return [*made, _set(PT, 0, 0, 0), LoadRoot(0), Access(0, WRITE)]


def two_roots_without_global_pages() -> list[Operation]:
    """Do the same while a load of CR3 is all that it takes to flush."""
    return [Toggle("cr4", CR4_PGE), *two_roots()]


def flood() -> list[Operation]:
    """Write one table again and again, unused in between, then use it."""
    made = [*_way(), _set(PT, 0, DATA[0], DIRTY), Access(0, WRITE)]
    for nth in range(6):
        made += [_set(PT, nth % 2, DATA[nth % 4], USED if nth % 3 else 0)]
    made += [Access(0, WRITE), Access(PAGES[1], WRITE)]
    for nth in range(5):
        made += [_set(PD, 1, (PT, PT2, FAR_PT)[nth % 3], LINK)]
    return [*made, _set(PT2, 0, DATA[1], DIRTY), Access(NEXT, READ), Access(0, WRITE)]


def many_tables() -> list[Operation]:
    """Use more tables than there may be shadow pages, and come back to the first."""
    made = [*_way(), *_way(root=OTHER, pdpt=OTHER_PDPT)[:1], _set(OTHER_PDPT, 0, OTHER_PD, LINK)]
    made += [_set(ROOT, 1, OTHER_PDPT, LINK), _set(OTHER_PD, 0, FAR_PT, LINK)]
    made += [_set(OTHER_PD, 1, FAR_PT2, LINK)]
    made += [_set(table, 0, DATA[table % 4], DIRTY) for table in (PT, PT2, FAR_PT, FAR_PT2)]
    for _ in range(2):
        for gva in (0, NEXT, 1 << 39, (1 << 39) + NEXT):
            made += [Access(gva, WRITE), InvalidatePage(gva), Access(gva, READ)]
        made += [LoadRoot(1), Access(0, WRITE), Access(NEXT, WRITE), LoadRoot(0)]
    return made


def flushed_one_by_one() -> list[Operation]:
    """Take rights away, lead elsewhere, clear A and D at each level; then INVLPG page by page."""
    made = _way()
    changes = (
        (PT, DATA[0] << 12, DATA[1] << 12),
        (PD, PT << 12, 1 << 21 | pte.PS),
        (PDPT, PD << 12, pte.PS),
        (ROOT, PDPT << 12, OTHER_PDPT << 12),
    )
    made += [_set(PT2, 0, DATA[3], DIRTY), _set(OTHER_PDPT, 0, OTHER_PD, LINK)]
    made += [_set(OTHER_PD, 0, FAR_PT, LINK), _set(FAR_PT, 0, DATA[2], DIRTY)]
    for table, one, other in changes:
        made += [SetEntry(PT, 0, DATA[0] << 12 | DIRTY, by_page=True)]
        for where in (one, other):
            for flags in (DIRTY, DIRTY & ~pte.W, DIRTY & ~pte.U, FRESH, USED, DIRTY):
                made += [SetEntry(table, 0, where | flags, by_page=True)]
                made += [Access(gva, kind) for kind in (READ, WRITE) for gva in (*PAGES, NEXT)]
        made += [SetEntry(table, 0, 0, by_page=True), Access(0, READ), Access(NEXT, READ)]
        made += [SetEntry(table, 0, one | DIRTY, by_page=True), Access(0, WRITE)]
    # one INVLPG drops all of a large page
    for table, where, far in ((PD, 1 << 21 | pte.PS, 0x1F_F000), (PDPT, pte.PS, NEXT)):
        made += [SetEntry(table, 0, where | DIRTY, by_page=False)]
        for flags, at in ((DIRTY & ~pte.W, far), (FRESH, 0), (USED & ~pte.U, far), (DIRTY, far)):
            made += [Access(gva, kind) for kind in (WRITE, READ) for gva in (0, far)]
            made += [SetEntry(table, 0, where | flags, by_page=True, at=at)]
            made += [Access(gva, kind) for kind in (READ, WRITE) for gva in (0, far)]
        made += [SetEntry(table, 0, 0, by_page=False)]
    return made


def registers(cpu: CpuFeatures) -> list[Operation]:
    """Flip each register bit that access rights depend on, over pages of every kind."""
    made = [*_way(), _set(PT, 0, DATA[0], DIRTY & ~pte.W), _set(PT, 1, DATA[1], DIRTY & ~pte.U)]
    made += [_set(PT2, 0, DATA[2], DIRTY | pte.NX), _set(PT2, 1, DATA[3], DIRTY)]
    flips = [Toggle("cr0", CR0_WP), Toggle("rflags_ac", 1)]
    flips += [Toggle("cr4", CR4_SMEP)] if cpu.smep else []
    flips += [Toggle("cr4", CR4_SMAP)] if cpu.smap else []
    flips += [Toggle("efer", EFER_NXE)] if cpu.nx else []
    flips += [Toggle("cr4", CR4_PKE), Toggle("pkru", 2), Toggle("pkru", 1)] if cpu.pku else []
    for flip in flips:
        made += [flip, *_all_kinds(0, NEXT), Access(PAGES[1], pf.WRITE), Access(KERNEL, pf.READ)]
    return made


def scenarios(cpu: CpuFeatures) -> dict[str, list[Operation]]:
    """Return the scenarios by name."""
    return {
        "demand paging": demand_paging(),
        "mapped from above": mapped_from_above(),
        "two roots": two_roots(),
        "two roots, no global pages": two_roots_without_global_pages(),
        "accessed and dirty": accessed_and_dirty(),
        "table writes": table_writes(),
        "write-protected tables": write_protected_tables(),
        "unmapped and remapped": unmapped_and_remapped(),
        "large pages": large_pages(),
        "flood": flood(),
        "many tables": many_tables(),
        "flushed one by one": flushed_one_by_one(),
        "registers": registers(cpu),
    }
