"""The compiled engine against the readable one: the same accesses, the same everything."""

from __future__ import annotations

import random
from array import array
from typing import TYPE_CHECKING

import attrs
import pytest
from hypothesis import given
from hypothesis import strategies as st

from hvmmu.arch import pfec as pf
from hvmmu.arch import pte
from hvmmu.arch.paging import LEGACY32, LONG4, LONG5, MODES, PAE, PagingMode
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
from hvmmu.engine import NO_TRANSLATION, Engine, HwThread
from hvmmu.memory import Memory
from hvmmu.spec.engine import ReferenceEngine
from hvmmu.tlb import Geometry, Scope, TlbGeometry

if TYPE_CHECKING:
    from collections.abc import Callable

compiled = pytest.importorskip("hvmmu._core.engine", reason="the compiled engine was not built")

RAM = 1 << 22
TABLES = tuple(range(1, 12))
"""Frames that serve as tables of any level; the rest of memory is for whatever lands there."""
BASE = {
    LEGACY32: (CR4_PSE, 0),
    PAE: (CR4_PAE, 0),
    LONG4: (CR4_PAE, EFER_LME | EFER_LMA),
    LONG5: (CR4_PAE | CR4_LA57, EFER_LME | EFER_LMA),
}
GEOMETRIES = (
    TlbGeometry(),
    TlbGeometry(Geometry(1, 2), Geometry(2, 1), Geometry(2, 2)),
    TlbGeometry(Geometry(4, 1), Geometry(1, 3), Geometry(1, 5)),
)
FULL = tuple(
    TlbGeometry(Geometry(1, instruction), Geometry(2, data), Geometry(2, second))
    for instruction, data, second in ((4, 4, 12), (4, 4, 16), (5, 8, 17), (1, 3, 9))
)
"""The shapes that the compiled TLB has code of its own for, and others, in few sets."""
KINDS = [user | how for user in (0, pf.U) for how in (pf.READ, pf.WRITE, pf.FETCH)]
FLAGS = (pte.P, pte.W, pte.U, pte.A, pte.D, pte.PS, pte.G, pte.NX, 1 << pte.PKEY_SHIFT, 1 << 50)


@attrs.define
class Side:
    """One engine with its own memory and core."""

    memory: Memory
    engine: Engine
    core: HwThread

    def state(self) -> tuple[object, ...]:
        """Return all that can be seen from outside, but for memory."""
        core = self.core
        last = (core.gva, core.kind, core.pfec, core.level, core.access, core.pa, core.cr2)
        return core.event, last, core.walk_refs, self.engine.counts()


class Pair:
    """Both engines, and random things to do to both."""

    def __init__(self, draw: random.Random, mode: PagingMode, geometry: TlbGeometry) -> None:
        """Begin with the same random tables on both sides."""
        self.random, self.mode = draw, mode
        self.cpu = CpuFeatures(
            maxphyaddr=self.random.choice((36, 46, 52)), gbpages=self.random.random() < 0.8
        )
        self.sides = []
        for kind in (ReferenceEngine, compiled.CompiledEngine):
            memory = Memory(RAM)
            self.sides.append(Side(memory, kind(memory, geometry), HwThread(self.cpu)))
        self.size = mode.entry_size
        self.at = [self.random.randrange(4096 // self.size) for _ in range(3)]
        for _ in range(120):
            self.write()
        self.load()

    def both(self, do: Callable[[Side], object]) -> None:
        """Do one thing on both sides, and hold the sides against each other."""
        one, other = map(do, self.sides)
        assert one == other
        assert self.sides[0].state() == self.sides[1].state()

    def entry(self) -> int:
        """Return an entry: mostly one that leads to a table, or to any frame."""
        choose = self.random.choice
        frame = choose((*TABLES, *TABLES, *TABLES, 0x200, 0x234, 0x400, 0xFFFFF))
        flags = pte.P | pte.W | pte.U | (pte.PS if self.random.random() < 0.15 else 0)
        if self.mode is PAE and self.random.random() < 0.5:
            flags = pte.P
        for _ in range(choose((0, 0, 1, 1, 2))):
            flags ^= choose(FLAGS)
        return (frame << 12 | flags) & ((1 << 8 * self.size) - 1)

    def write(self) -> None:
        """Write an entry of some table, with no flush: it may go stale."""
        index = self.random.choice(self.at) % (1 << self.random.choice(self.mode.levels).bits)
        pa = self.random.choice(TABLES) << 12 | self.size * index
        value = self.entry()
        for side in self.sides:
            side.memory.store(pa, value, self.size)

    def load(self) -> None:
        """Load registers of the mode."""
        coin = self.random.random
        cr4, efer = BASE[self.mode]
        for bit in (CR4_SMEP, CR4_SMAP, CR4_PKE, CR4_PGE):
            cr4 |= bit if coin() < 0.3 else 0
        efer |= EFER_NXE if coin() < 0.7 else 0
        cr0 = CR0_PE | CR0_PG | (CR0_WP if coin() < 0.6 else 0)
        root = self.random.choice(TABLES[:2]) << 12
        pkru, ac = self.random.getrandbits(4), self.random.getrandbits(1)
        regs = Regs(cr0, root, cr4, efer, pkru, ac)
        self.both(lambda side: side.engine.load_regs(side.core, regs))

    def address(self) -> int:
        """Return an address whose indices are those that tables are written at."""
        va = sum(
            self.random.choice(self.at) % (1 << at.bits) << at.shift for at in self.mode.levels
        )
        va |= self.random.choice((0, 8, 0xFF8))
        if not self.mode.sign_extended:
            return va & 0xFFFF_FFFF
        top = va >> (self.mode.va_bits - 1) & 1
        extended = va | (-top << self.mode.va_bits) & ((1 << 64) - 1)
        return extended if self.random.random() < 0.97 else extended ^ 1 << 62

    def run(self) -> None:
        """Run a batch to its end, over every stop."""
        few = [self.address() for _ in range(4)]
        count = self.random.randrange(1, 30)
        gva = array("Q", (self.random.choice(few) for _ in range(count)))
        kind = bytes(self.random.choice(KINDS) for _ in range(count))
        exits = self.random.choice((0, (1 << 64) - 1, self.random.getrandbits(64)))
        wanted = self.random.random() < 0.5
        start = 0
        while start < count:
            ended: list[tuple[int, array[int] | None]] = []
            for side in self.sides:
                side.core.exit_filter = exits
                translated = array("Q", [NO_TRANSLATION]) * count if wanted else None
                ended.append((side.engine.run(side.core, gva, kind, start, translated), translated))
            assert ended[0] == ended[1]
            self.both(lambda _: None)
            start = ended[0][0] + 1

    def step(self) -> None:
        """Do something."""
        what = self.random.random()
        if what < 0.5:
            self.run()
        elif what < 0.75:
            self.write()
        elif what < 0.9:
            scope, va = self.random.choice(list(Scope)), self.address()
            self.both(lambda side: side.engine.flush(scope, va))
        else:
            self.load()

    def close(self) -> None:
        """Hold the memories against each other, and free them."""
        one, other = self.sides
        assert one.memory.bytes == other.memory.bytes
        for side in self.sides:
            side.memory.close()


@pytest.mark.parametrize("mode", MODES, ids=lambda mode: mode.name)
@given(seed=st.integers(0, 2**64 - 1), geometry=st.sampled_from(GEOMETRIES))
def test_engines_agree(mode: PagingMode, seed: int, geometry: TlbGeometry) -> None:
    """If wrong, results depend on whether a compiler was there when hvmmu was installed."""
    pair = Pair(random.Random(seed), mode, geometry)  # noqa: S311 - not for secrets
    for _ in range(60):
        pair.step()
    pair.close()


def mapped(memory: Memory, draw: random.Random) -> None:
    """Map 48 pages of 4 KiB from 0 on and 15 of 2 MiB above them, for anybody and anything."""
    flags = pte.P | pte.W | pte.U | pte.A | pte.D
    for level in (1, 2, 3):
        memory.store(level << 12, (level + 1) << 12 | flags, 8)
    for page in range(48):
        is_global = draw.choice((0, pte.G))
        memory.store((4 << 12) + 8 * page, page << 12 | flags | is_global, 8)
    for page in range(1, 16):
        memory.store((3 << 12) + 8 * page, 1 << 21 | flags | pte.PS, 8)


@given(seed=st.integers(0, 2**64 - 1), geometry=st.sampled_from(FULL))
def test_engines_agree_on_full_sets(seed: int, geometry: TlbGeometry) -> None:
    """If wrong, the compiled TLB gives up another entry than the one least recently used."""
    pair = Pair(random.Random(seed), LONG4, geometry)  # noqa: S311 - not for secrets
    draw = pair.random
    state, regs = draw.getstate(), Regs(CR0_PE | CR0_PG, 1 << 12, CR4_PAE | CR4_PGE)
    regs = attrs.evolve(regs, efer=EFER_LME | EFER_LMA)
    for side in pair.sides:
        draw.setstate(state)
        mapped(side.memory, draw)
    pair.both(lambda side: side.engine.load_regs(side.core, regs))
    for _ in range(30):
        pages = [*range(48), *(page << 9 for page in range(1, draw.choice((1, 1, 4, 16))))]
        gva = array("Q", (page << 12 for page in draw.choices(pages, k=100)))
        kind = bytes(draw.choices(KINDS, k=100))
        pair.both(lambda side, gva=gva, kind=kind: side.engine.run(side.core, gva, kind, 0))
        assert pair.sides[0].core.event is None
        scope, va = draw.choice((Scope.PAGE, Scope.PAGE, *Scope)), draw.choice(gva)
        pair.both(lambda side, scope=scope, va=va: side.engine.flush(scope, va))
    pair.close()
