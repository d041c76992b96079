"""The engines: where it stops and why, and what a TLB that really caches does."""

from __future__ import annotations

from array import array
from itertools import product
from typing import TYPE_CHECKING

import pytest
from hypothesis import given
from hypothesis import strategies as st

from hvmmu.arch import pfec as pf
from hvmmu.arch import pte
from hvmmu.arch.paging import LONG4, formats
from hvmmu.arch.regs import (
    CR0_PE,
    CR0_PG,
    CR0_WP,
    CR4_PAE,
    CR4_PGE,
    CR4_PKE,
    CR4_SMAP,
    CR4_SMEP,
    EFER_LMA,
    EFER_LME,
    EFER_NXE,
    CpuFeatures,
    Regs,
)
from hvmmu.engine import EXIT_ALWAYS, FILTER_BITS, Event, HwThread, TlbCounts
from hvmmu.errors import InvariantError
from hvmmu.memory import Memory
from hvmmu.spec.engine import KINDS, ReferenceEngine, allowed_kinds
from hvmmu.spec.walk import Outcome, permission_fault, walk
from hvmmu.tlb import Geometry, Scope, TlbGeometry

if TYPE_CHECKING:
    from collections.abc import Callable

    from conftest import Hardware

VA, OTHER = 0x7F00_0000_1000, 0x7F00_0000_2000
FRAME, ELSEWHERE = 0x10_0000, 0x20_0000
ACCESSES = tuple(w | u | x for w in (0, pf.W) for u in (0, pf.U) for x in (0, pf.ID))
"""What a path can allow, and what an access can be (a fetch that writes there is none)."""
READ, WRITE, FETCH = pf.U, pf.U | pf.W, pf.U | pf.ID
RW, RO = pte.P | pte.W | pte.U, pte.P | pte.U


LOOKED_INTO = pytest.mark.parametrize("engine", [ReferenceEngine], ids=["reference"])
"""For tests that look at what is cached: test_agreement holds the other engine to the same."""

# Where it stops.


def test_runs_to_the_end(hw: Hardware) -> None:
    """If wrong, accesses that nothing forbids are lost, or land elsewhere."""
    hw.map(VA, FRAME | RW)
    hw.map(OTHER, ELSEWHERE | RW)
    stop, translated = hw.run((VA + 8, READ), (OTHER + 16, WRITE), (VA, FETCH))
    assert (stop, translated) == (3, [FRAME + 8, ELSEWHERE + 16, FRAME])
    assert hw.core.event is None


def test_nothing_to_run(hw: Hardware) -> None:
    """If wrong, an empty batch, or one already done, is taken for a stop."""
    assert hw.run() == (0, [])
    assert hw.run((VA, READ), start=1) == (1, [None])
    assert hw.core.event is None


def test_stops_at_the_fault_and_goes_on_from_there(hw: Hardware) -> None:
    """If wrong, a fault is charged to another access, or the retry repeats or skips one."""
    hw.map(VA, FRAME | RW)
    program = [(VA, READ), (OTHER, WRITE), (VA, WRITE)]
    assert hw.run(*program) == (1, [FRAME, None, None])
    assert (hw.core.event, hw.core.gva, hw.core.kind) == (Event.DELIVERED, OTHER, WRITE)
    assert (hw.core.pfec, hw.core.level) == (pf.W | pf.U, 1)
    hw.map(OTHER, ELSEWHERE | RW)
    assert hw.run(*program, start=1) == (3, [None, ELSEWHERE, FRAME])
    assert hw.core.event is None


def test_landings_are_not_asked_for(hw: Hardware) -> None:
    """If wrong, a caller must take landings it has no use for."""
    hw.map(VA, FRAME | RW)
    assert hw.engine.run(hw.core, array("Q", [VA, VA]), bytes([READ, WRITE]), 0) == 2


def test_three_faults_in_a_row(hw: Hardware) -> None:
    """If wrong, some state of the last fault is left over when the next comes."""
    for nth in range(3):
        assert hw.fault(VA + nth, WRITE) == pf.W | pf.U
        assert hw.core.event is Event.DELIVERED
        assert hw.core.cr2 == VA + nth
    hw.map(VA, FRAME | RO)
    assert [hw.fault(VA, WRITE) for _ in range(3)] == [pf.P | pf.W | pf.U] * 3
    hw.map(VA, FRAME | RW)
    assert hw.access(VA, WRITE) == FRAME


def test_a_fault_that_exits_leaves_cr2_alone(hw: Hardware) -> None:
    """If wrong, the guest's CR2 changes under it for a fault that it never takes."""
    hw.core.cr2 = 0x1234
    hw.core.exit_filter = EXIT_ALWAYS
    assert hw.access(VA, READ) is Event.EXIT
    assert hw.core.cr2 == 0x1234


def test_addresses_that_are_not_canonical(hw: Hardware) -> None:
    """If wrong, such an address page-faults, or is translated with its top bits cut off."""
    hw.map(0x1000, FRAME | RW)
    for va in (1 << 47, 1 << 48 | 0x1000, (1 << 64) - (1 << 47) - 1):
        hw.core.cr2 = 7
        assert hw.access(va, READ) is Event.GENERAL_PROTECTION
        assert (hw.core.gva, hw.core.level, hw.core.access, hw.core.cr2) == (va, 0, 0, 7)


@LOOKED_INTO
def test_a_frame_beyond_memory(hw: Hardware) -> None:
    """If wrong, an access to no memory lands in some, or is cached as if it had."""
    end = hw.memory.size
    hw.map(VA, end | RW)
    for at in (0, 8, 8):
        assert hw.access(VA + at, WRITE) is Event.PHYSICAL
        assert (hw.core.pa, hw.core.level) == (end + at, 1)
    assert list(hw.engine.tlb.entries()) == []
    hw.map(VA, end - 0x1000 | RW)
    assert hw.access(VA + 8, WRITE) == end - 0x1000 + 8


def test_tables_beyond_memory_are_all_ones(hw: Hardware) -> None:
    """If wrong, a path to no memory reads as not present, which no bus answers."""
    hw.memory.store(hw.slot(VA, 2), hw.memory.size | RW)
    assert hw.fault(VA, READ) == pf.P | pf.RSVD | pf.U


def test_paging_must_be_on() -> None:
    """If wrong, accesses before paging are translated by tables that are not there."""
    memory = Memory(1 << 16)
    core = HwThread(CpuFeatures())
    engine = ReferenceEngine(memory)
    with pytest.raises(InvariantError, match="before paging was on"):
        engine.run(core, array("Q", [0]), bytes(1), 0)
    engine.load_regs(core, Regs(CR0_PE, 0, CR4_PAE))
    with pytest.raises(InvariantError, match="before paging was on"):
        engine.run(core, array("Q", [0]), bytes(1), 0)
    memory.close()


def test_what_it_offers() -> None:
    """If wrong, the core believes the engine can do less or more than it does."""
    caps = ReferenceEngine.caps
    assert caps.maxphyaddr == (36, 52)
    assert caps.caches
    assert caps.filters_inside
    assert not caps.accessed_on_fault
    assert not caps.delivers


# The filter.


def faults(hw: Hardware) -> dict[int, tuple[int, int]]:
    """Set up every fault there can be below bit 6; return an access for each error code."""
    key = 1 << pte.PKEY_SHIFT
    entries = {
        "absent": (0x1000, FRAME),
        "supervisor": (0x2000, FRAME | pte.P),
        "read-only": (0x3000, FRAME | RO | pte.NX),
        "reserved": (0x4000, FRAME | RW | 1 << 50),
        "keyed": (0x5000, FRAME | RW | key),
        "keyed-ro": (0x6000, FRAME | RO | key),
    }
    for va, entry in entries.values():
        hw.map(va, entry)
    hw.load(cr4=CR4_PKE | CR4_SMEP | CR4_SMAP, pkru=0b0100)  # key 1: no access
    kinds = [k | u for k in (pf.READ, pf.WRITE, pf.FETCH) for u in (0, pf.U)]
    found: dict[int, tuple[int, int]] = {}
    hw.core.exit_filter = EXIT_ALWAYS
    for (va, _), kind in product(entries.values(), kinds):
        if hw.access(va, kind) is Event.EXIT:
            found.setdefault(hw.core.pfec, (va, kind))
    return found


def test_every_bit_of_the_filter(hw: Hardware) -> None:
    """If wrong, some page fault exits though the filter keeps it in, or the other way about."""
    possible = faults(hw)
    assert len(possible) == 22  # 6 kinds x absent, denied, reserved, and 4 data kinds by key
    for bit in range(FILTER_BITS):
        hw.core.exit_filter = 1 << bit
        exiting = [pfec for pfec, access in possible.items() if hw.access(*access) is Event.EXIT]
        assert exiting == [pfec for pfec in possible if pfec == bit]


# A TLB that really caches.


def test_a_downgrade_is_not_seen_until_it_is_flushed(hw: Hardware) -> None:
    """If wrong, a flush that somebody forgot cannot show: here, on real CPUs it would."""
    hw.map(VA, FRAME | RW)
    assert hw.access(VA, WRITE) == FRAME
    hw.map(VA, FRAME | RO)
    assert hw.access(VA, WRITE) == FRAME
    hw.map(VA, 0)
    assert hw.access(VA, READ) == FRAME
    hw.engine.flush(Scope.PAGE, VA)
    assert hw.fault(VA, READ) == pf.U


def test_another_frame_is_not_seen_until_it_is_flushed(hw: Hardware) -> None:
    """If wrong, a stale frame, the worst that a missing flush can leave behind, never shows."""
    hw.map(VA, FRAME | RW)
    hw.access(VA, READ)
    hw.map(VA, ELSEWHERE | RW)
    assert hw.access(VA, READ) == FRAME
    hw.engine.flush(Scope.ALL)
    assert hw.access(VA, READ) == ELSEWHERE


@pytest.mark.parametrize(
    ("before", "after", "kind"),
    [
        pytest.param(0, RW, READ, id="made present"),
        pytest.param(RO, RW, WRITE, id="made writable"),
        pytest.param(pte.P, RO, READ, id="given to the user"),
        pytest.param(RO | pte.NX, RO, FETCH, id="made executable"),
    ],
)
def test_an_upgrade_is_seen_at_once(hw: Hardware, before: int, after: int, kind: int) -> None:
    """If wrong, a fault is delivered that x86 never gives: it walks again before it faults."""
    hw.map(VA, FRAME | before)
    hw.access(VA, READ)
    hw.access(VA, pf.READ)  # cached, if at all, as the supervisor may use it
    hw.fault(VA, kind)
    hw.map(VA, FRAME | after)
    assert hw.access(VA, kind) == FRAME
    assert hw.access(VA, kind) == FRAME


@LOOKED_INTO
def test_a_walk_renews_what_is_cached(hw: Hardware) -> None:
    """If wrong, a walk forced by a missing permission leaves the stale frame in the TLB."""
    hw.map(VA, FRAME | RO)
    hw.access(VA, READ)
    hw.map(VA, ELSEWHERE | RW)
    assert hw.access(VA, READ) == FRAME
    assert hw.access(VA, WRITE) == ELSEWHERE
    assert hw.access(VA, READ) == ELSEWHERE
    assert len({id(entry) for entry in hw.engine.tlb.entries()}) == 1


def test_a_page_fault_drops_what_is_cached_for_its_address(hw: Hardware) -> None:
    """If wrong, a guest that leaves the flush to the fault, as it may, still uses the old frame.

    SDM "Operations that Invalidate TLBs and Paging-Structure Caches" names page faults among them.
    """
    hw.map(VA, FRAME | RO)
    hw.map(OTHER, FRAME | RO)
    hw.run((VA, READ), (VA, FETCH), (OTHER, READ))
    hw.map(VA, 0)
    hw.map(OTHER, 0)
    assert hw.access(VA, READ) == FRAME
    assert hw.fault(VA, WRITE) == pf.W | pf.U
    assert hw.fault(VA, READ) == pf.U
    assert hw.fault(VA, FETCH) == pf.U | pf.ID
    assert hw.access(OTHER, READ) == FRAME


def test_a_page_that_changed_its_size(hw: Hardware) -> None:
    """If wrong, a piece of the old page outlives the walk that found the new one."""
    hw.map(VA, FRAME | RO)
    hw.access(VA, READ)
    hw.map(VA, 0x40_0000 | RW, level=2)
    assert hw.access(VA, READ) == FRAME
    assert hw.access(VA, WRITE) == 0x40_0000 + VA % (2 << 20)
    assert hw.access(VA, READ) == 0x40_0000 + VA % (2 << 20)
    hw.engine.flush(Scope.ALL)
    assert hw.access(VA, READ) == 0x40_0000 + VA % (2 << 20)


@pytest.mark.parametrize(
    ("level", "size", "frame"),
    [(1, 12, FRAME), (2, 21, 0x40_0000), (3, 30, 0)],
)
def test_page_sizes(hw: Hardware, level: int, size: int, frame: int) -> None:
    """If wrong, one page takes more walks than one, or its bytes lie elsewhere."""
    base = 0x7F40_0000_0000
    hw.map(base, frame | RW, level)
    last = min((1 << size) - 1, hw.memory.size - 1)
    assert hw.access(base, READ) == frame
    walked = hw.core.walk_refs
    assert walked == 5 - level
    assert hw.access(base + last, READ) == frame + last
    assert hw.core.walk_refs == walked
    assert hw.core.event is None


@LOOKED_INTO
def test_invlpg_drops_a_page_of_every_size(hw: Hardware) -> None:
    """If wrong, INVLPG leaves a translation of the address behind, in another size or level.

    A page that changed its size without a flush is cached in both.
    """
    hw.map(VA, FRAME | RW)
    hw.access(VA, READ)
    hw.access(VA, FETCH)
    hw.map(VA, 0x40_0000 | RW, level=2)
    hw.access(OTHER, READ)
    hw.map(VA & -(1 << 30), 0x4000_0000 - (1 << 30) | RW, level=3)
    hw.access(VA + (4 << 20), READ)
    assert {entry.tag & 3 for entry in hw.engine.tlb.entries()} == {0, 1, 2}
    hw.engine.flush(Scope.PAGE, VA + 0xFFF)
    assert list(hw.engine.tlb.entries()) == []


@LOOKED_INTO
def test_invlpg_drops_no_other_page(hw: Hardware) -> None:
    """If wrong, INVLPG costs misses on pages that it does not name."""
    hw.map(VA, FRAME | RW)
    hw.map(OTHER, ELSEWHERE | RW)
    hw.run((VA, READ), (OTHER, READ))
    hw.engine.flush(Scope.PAGE, VA)
    assert {entry.tag for entry in hw.engine.tlb.entries()} == {OTHER >> 12 << 2}


def test_global_pages_outlive_a_cr3_load(hw: Hardware) -> None:
    """If wrong, CR3 loads drop what PGE keeps, or keep what only INVLPG or a full flush keeps."""
    hw.load(cr4=CR4_PGE)
    hw.map(VA, FRAME | RW | pte.G)
    hw.map(OTHER, ELSEWHERE | RW)
    program = (VA, READ), (OTHER, READ)
    hw.run(*program)
    hw.map(VA, 0)
    hw.map(OTHER, 0)
    hw.engine.flush(Scope.NON_GLOBAL)
    assert hw.access(VA, READ) == FRAME
    assert hw.fault(OTHER, READ) == pf.U
    hw.engine.flush(Scope.ALL)
    assert hw.fault(VA, READ) == pf.U


def test_without_pge_no_page_is_global(hw: Hardware) -> None:
    """If wrong, a guest without PGE, which flushes by CR3 alone, keeps what it has unmapped."""
    hw.map(VA, FRAME | RW | pte.G)
    hw.access(VA, READ)
    hw.map(VA, 0)
    hw.engine.flush(Scope.NON_GLOBAL)
    assert hw.fault(VA, READ) == pf.U


def test_flushing_a_global_page_by_invlpg(hw: Hardware) -> None:
    """If wrong, INVLPG spares global pages, which the manual names expressly."""
    hw.load(cr4=CR4_PGE)
    hw.map(VA, FRAME | RW | pte.G)
    hw.access(VA, READ)
    hw.map(VA, 0)
    hw.engine.flush(Scope.PAGE, VA)
    assert hw.fault(VA, READ) == pf.U


# Accessed and dirty bits.


def test_the_first_write_walks_again_to_set_d(hw: Hardware) -> None:
    """If wrong, a page written through a clean cached entry stays clean in its table."""
    hw.map(VA, FRAME | RW)
    hw.access(VA, READ)
    assert hw.entry(VA) & (pte.A | pte.D) == pte.A
    walked = hw.core.walk_refs
    hw.access(VA, WRITE)
    assert hw.entry(VA) & (pte.A | pte.D) == pte.A | pte.D
    assert hw.core.walk_refs == walked + 4
    hw.access(VA, WRITE)
    assert hw.core.walk_refs == walked + 4


def test_cleared_bits_come_back_only_after_a_flush(hw: Hardware) -> None:
    """If wrong, a guest that clears A or D without a flush finds them set again too early."""
    hw.map(VA, FRAME | RW)
    hw.access(VA, WRITE)
    hw.map(VA, FRAME | RW)
    hw.access(VA, WRITE)
    assert hw.entry(VA) == FRAME | RW
    hw.engine.flush(Scope.PAGE, VA)
    hw.access(VA, WRITE)
    assert hw.entry(VA) == FRAME | RW | pte.A | pte.D


def test_a_write_never_lands_through_a_stale_clean_entry(hw: Hardware) -> None:
    """If wrong, a page whose entry is gone is written, and no D anywhere says so."""
    hw.map(VA, FRAME | RW)
    hw.access(VA, READ)
    hw.map(VA, 0)
    assert hw.access(VA, READ) == FRAME
    assert hw.fault(VA, WRITE) == pf.W | pf.U


# Counters.


def test_counts(build: Callable[..., Hardware]) -> None:
    """If wrong, the numbers a comparison prints are not those of this TLB.

    First levels of 2 ways in one set, a second of 8: three pages in turn always miss the data
    level, and the second only once.
    """
    hw = build(TlbGeometry(Geometry(1, 2), Geometry(1, 2), Geometry(2, 4)))
    pages = [0x1000, 0x2000, 0x3000]
    for va in pages:
        hw.map(va, FRAME | RW | pte.A | pte.D)
    hw.run(*((va, READ) for va in pages * 3))
    assert hw.engine.counts() == TlbCounts(instruction_misses=0, data_misses=9, misses=3)
    assert hw.core.walk_refs == 12
    hw.run((0x1000, FETCH), (0x1000, FETCH))
    assert hw.engine.counts() == TlbCounts(instruction_misses=1, data_misses=9, misses=3)


@pytest.mark.parametrize("kinds", [(READ, FETCH), (FETCH, READ)])
def test_fetches_and_data_miss_apart(hw: Hardware, kinds: tuple[int, int]) -> None:
    """If wrong, a fetch is served by what a read has cached, as no split first level does."""
    hw.map(VA, FRAME | RW)
    hw.access(VA, kinds[0])
    fetched = int(kinds[0] == FETCH)
    assert hw.engine.counts() == TlbCounts(fetched, 1 - fetched, 1)
    for kind in kinds[::-1] * 2:
        hw.access(VA, kind)
        assert hw.engine.counts() == TlbCounts(1, 1, 1)


def test_a_fault_that_is_retried_misses_once(hw: Hardware) -> None:
    """If wrong, every fault counts two misses for one access."""
    hw.map(VA, 0)
    hw.fault(VA, READ)
    assert hw.engine.counts().misses == 0
    hw.map(VA, FRAME | RW)
    hw.access(VA, READ)
    assert hw.engine.counts() == TlbCounts(0, 1, 1)
    assert hw.core.walk_refs == 8  # that of the fault was made all the same


# Permissions.


def register_sets() -> list[Regs]:
    """Return every setting of the bits that permissions depend on."""
    cr4s = [a | b | c for a in (0, CR4_SMEP) for b in (0, CR4_SMAP) for c in (0, CR4_PKE)]
    long = EFER_LME | EFER_LMA
    return [
        Regs(CR0_PE | CR0_PG | wp, 0, CR4_PAE | cr4, long | nxe, pkru, ac)
        for wp in (0, CR0_WP)
        for cr4 in cr4s
        for nxe in (0, EFER_NXE)
        for pkru in (0, 1, 2, 3, 0xFFFF_FFFF)
        for ac in (0, 1)
    ]


def test_hits_grant_exactly_what_the_manual_allows() -> None:
    """If wrong, the table that makes hits fast grants what a walk would refuse, or too little.

    With protection keys on, data accesses to user pages must be left to the full check, whatever
    the key; nothing else may be.
    """
    kinds = [k | u for k in (pf.READ, pf.WRITE, pf.FETCH) for u in (0, pf.U)]
    for regs in register_sets():
        table = allowed_kinds(regs)
        assert len(table) == KINDS
        for access, kind in product(ACCESSES, kinds):
            granted = bool(table[access] >> kind & 1)
            looked_at = regs.cr4 & CR4_PKE and access & pf.U and not kind & pf.ID
            faults = {bool(permission_fault(access, key, kind, regs)) for key in range(16)}
            assert granted is (not looked_at and faults == {False}), (regs, access, kind)
            assert looked_at or len(faults) == 1, (regs, access, kind)


def test_protection_keys_are_looked_at_on_every_hit(hw: Hardware) -> None:
    """If wrong, a change of PKRU, which needs no flush, is not seen by cached pages."""
    hw.map(VA, FRAME | RW | 1 << pte.PKEY_SHIFT)
    hw.load(cr4=CR4_PKE)
    assert hw.access(VA, WRITE) == FRAME
    hw.load(cr4=CR4_PKE, pkru=0b1000)
    assert hw.access(VA, READ) == FRAME
    assert hw.fault(VA, WRITE) == pf.P | pf.W | pf.U | pf.PK
    hw.load(cr4=CR4_PKE, pkru=0b0100)
    assert hw.fault(VA, READ) == pf.P | pf.U | pf.PK
    assert hw.access(VA, FETCH) == FRAME


# Against the walk.

PAGES = [0x1000, 0x2000, 0x3000, 0x20_0000, 0x20_1000, 0x4000_0000, 0x4000_1000, 0x8000_0000]
LEAVES = st.lists(
    st.tuples(
        st.sampled_from(PAGES),
        st.sampled_from([1, 2, 3]),
        st.sampled_from([FRAME, 0x60_0000, 0x2000_0000]),
        st.sampled_from([0, RO, RW, RW | pte.NX, pte.P, pte.P | pte.W | pte.G]),
    ),
    max_size=8,
)
PROGRAM = st.lists(
    st.tuples(st.sampled_from(PAGES), st.sampled_from([READ, WRITE, FETCH, 0, pf.W, pf.ID])),
    min_size=1,
    max_size=40,
)
TINY = TlbGeometry(Geometry(1, 2), Geometry(2, 1), Geometry(2, 2))


@given(leaves=LEAVES, program=PROGRAM, wp=st.sampled_from([0, CR0_WP]))
def test_while_tables_rest_a_tlb_cannot_be_told_from_none(
    leaves: list[tuple[int, int, int, int]], program: list[tuple[int, int]], wp: int
) -> None:
    """If wrong, caching changes what a program sees even where nobody owes a flush."""
    memory = Memory(1 << 30)
    engine, core = ReferenceEngine(memory, TINY), HwThread(CpuFeatures(maxphyaddr=40))
    long = EFER_LME | EFER_LMA | EFER_NXE
    regs = Regs(CR0_PE | CR0_PG | wp, 0x1000, CR4_PAE, long)
    engine.load_regs(core, regs)
    free = iter(range(0x2000, 0x10_0000, 0x1000))
    for va, level, frame, bits in leaves:
        table = 0x1000
        for at in LONG4.levels:
            where = table + 8 * at.index(va)
            entry = memory.load(where)
            if at.level == level or entry & pte.PS:
                large = pte.PS if at.level > 1 else 0
                # All frames are multiples of 2 MiB but one; a 1 GiB page has only frame 0.
                memory.store(where, frame & -at.span | bits | large)
                break
            if not entry & pte.P:
                entry = next(free) | RW
                memory.store(where, entry)
            table = entry & pte.ADDRESS
    for va, kind in program:
        expected = walk(memory, regs, formats(LONG4, regs, core.cpu), va, kind)
        translated = array("Q", [0])
        stop = engine.run(core, array("Q", [va]), bytes([kind]), 0, translated)
        assert stop == (expected.outcome is Outcome.OK)
        if stop:
            assert translated[0] == expected.pa
        else:
            assert (core.event, core.pfec) == (Event.DELIVERED, expected.pfec)
            assert (core.cr2, core.level) == (va, expected.level)
    memory.close()
