"""Bare hardware to test: memory, 4-level tables in it, and each engine."""

from __future__ import annotations

from array import array
from typing import TYPE_CHECKING, ClassVar

import pytest

from hvmmu.arch import pfec as pf
from hvmmu.arch import pte
from hvmmu.arch.paging import LONG4
from hvmmu.arch.regs import (
    CR0_PE,
    CR0_PG,
    CR0_WP,
    CR4_PAE,
    EFER_LMA,
    EFER_LME,
    EFER_NXE,
    CpuFeatures,
    Regs,
)
from hvmmu.engine import NO_TRANSLATION, Engine, Event, HwThread
from hvmmu.memory import Memory
from hvmmu.spec.engine import ReferenceEngine

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from hvmmu.tlb import TlbGeometry

RAM = 1 << 30
ROOT = 0x1000


class Hardware:
    """One hardware thread that walks the tables we write; every path above a leaf allows all."""

    READ: ClassVar[int] = pf.U
    WRITE: ClassVar[int] = pf.U | pf.W
    FETCH: ClassVar[int] = pf.U | pf.ID
    RW: ClassVar[int] = pte.P | pte.W | pte.U
    RO: ClassVar[int] = pte.P | pte.U

    def __init__(self, engine: type[Engine], geometry: TlbGeometry | None = None) -> None:
        self.memory = Memory(RAM)
        self.engine = engine(self.memory, geometry)
        self.core = HwThread(CpuFeatures(maxphyaddr=40))
        self._next = ROOT + 0x1000
        self.load()

    def load(self, cr0: int = CR0_WP, cr4: int = 0, efer: int = EFER_NXE, **others: int) -> None:
        """Load registers: 4-level paging, and these bits besides."""
        regs = Regs(
            cr0=CR0_PE | CR0_PG | cr0,
            cr3=ROOT,
            cr4=CR4_PAE | cr4,
            efer=EFER_LME | EFER_LMA | efer,
            **others,
        )
        self.engine.load_regs(self.core, regs)

    def slot(self, va: int, level: int = 1) -> int:
        """Return where the entry of *level* for *va* lies; tables are made on the way."""
        table = ROOT
        for at in LONG4.levels:
            where = table + 8 * at.index(va)
            if at.level == level:
                return where
            entry = self.memory.load(where)
            if not entry & pte.P:
                entry, self._next = self._next | self.RW, self._next + 0x1000
                self.memory.store(where, entry)
            table = entry & pte.ADDRESS
        raise AssertionError(level)

    def map(self, va: int, entry: int, level: int = 1) -> None:
        """Write the entry of *level* for *va*, and flush nothing."""
        large = pte.PS if level > 1 and entry & pte.P else 0
        self.engine.write_pte(self.slot(va, level), entry | large)

    def entry(self, va: int, level: int = 1) -> int:
        """Return the entry of *level* for *va*."""
        return self.memory.load(self.slot(va, level))

    def run(self, *accesses: tuple[int, int], start: int = 0) -> tuple[int, list[int | None]]:
        """Run (va, kind) pairs; return where it stopped, and where each landed."""
        vas, kinds = zip(*accesses, strict=True) if accesses else ((), ())
        translated = array("Q", [NO_TRANSLATION]) * len(vas)
        stop = self.engine.run(self.core, array("Q", vas), bytes(kinds), start, translated)
        return stop, [None if pa == NO_TRANSLATION else pa for pa in translated]

    def access(self, va: int, kind: int) -> int | Event | None:
        """Make one access; return where it landed, or why it did not."""
        stop, [pa] = self.run((va, kind))
        return pa if stop else self.core.event

    def fault(self, va: int, kind: int) -> int:
        """Make an access that must fault; return its error code."""
        assert self.access(va, kind) in (Event.EXIT, Event.DELIVERED)
        assert (self.core.gva, self.core.kind) == (va, kind)
        return self.core.pfec


def compiled() -> type[Engine]:
    """Return the compiled engine; skip the test where it was not built."""
    reason = "the compiled engine was not built"
    return pytest.importorskip("hvmmu._core.engine", reason=reason).CompiledEngine


@pytest.fixture(params=["reference", "compiled"])
def engine(request: pytest.FixtureRequest) -> type[Engine]:
    """Return each engine; the test runs for all."""
    return ReferenceEngine if request.param == "reference" else compiled()


@pytest.fixture
def build(engine: type[Engine]) -> Iterator[Callable[..., Hardware]]:
    """Return the function that builds hardware, for tests that need another TLB."""
    built: list[Hardware] = []

    def make(geometry: TlbGeometry | None = None) -> Hardware:
        built.append(Hardware(engine, geometry))
        return built[-1]

    yield make
    for hw in built:
        hw.memory.close()


@pytest.fixture
def hw(build: Callable[..., Hardware]) -> Hardware:
    """Return hardware with empty tables."""
    return build()
