"""A shadow MMU on hardware, with no vendor: guest tables that we write, faults that we hand over.

After each test the audit holds every shadow entry against the guest's tables.
"""

from __future__ import annotations

from array import array
from typing import TYPE_CHECKING, ClassVar

import attrs
import pytest

from hvmmu._core.shadow_mmu import ShadowMmu, ShadowVm
from hvmmu._mmu_params import MmuParams
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
from hvmmu.engine import EXIT_ALWAYS, NO_TRANSLATION, Event, HwThread
from hvmmu.fault import Cause, FaultOutcome, PageFault, Route
from hvmmu.memory import Memory, Memslot, Memslots
from hvmmu.spec.audit import audit
from hvmmu.spec.engine import ReferenceEngine
from hvmmu.spte import Nonpresent

if TYPE_CHECKING:
    from collections.abc import Iterator

    from hvmmu.flush import Flush

BASE = 64 << 20
"""Where guest RAM begins in host memory."""
RAM = 32 << 20
FRAMES = BASE >> 12
"""Host frames below it, but for the first, are the shadow's."""
ROOT = 0x1000
TABLES = 0x2000
"""The guest's tables are taken from here on, the root being at ROOT."""

TRAP = 0xFFFF_FFFF_FFFF_F001
ODD = sum(1 << pfec for pfec in range(1, 64, 2))
"""The filter under which marks make sense: only faults with P set exit."""

COMPLETED = (Route.EMULATE, Route.MMIO)


@attrs.frozen
class Seen:
    """What came of one access."""

    gpa: int | None
    """Where it landed or was completed; None if the guest took a fault."""
    handled: tuple[FaultOutcome, ...]
    """What the MMU did of it, in order."""
    pfec: int | None = None
    """The error code of the guest's fault."""
    bypassed: bool = False

    @property
    def routes(self) -> list[Route]:
        """The routes taken."""
        return [one.route for one in self.handled]

    @property
    def last(self) -> tuple[Route, Cause]:
        """The last route taken, and why."""
        return self.handled[-1].route, self.handled[-1].cause


class Bench:
    """A guest's tables, the MMU that shadows them, and hardware that walks the shadow."""

    READ: ClassVar[int] = pf.U
    WRITE: ClassVar[int] = pf.U | pf.W
    FETCH: ClassVar[int] = pf.U | pf.ID
    ROOT: ClassVar[int] = ROOT
    TRAP: ClassVar[int] = TRAP
    RAM: ClassVar[int] = RAM
    LINK: ClassVar[int] = pte.P | pte.W | pte.U | pte.A

    def __init__(
        self,
        *,
        marked: bool,
        params: MmuParams,
        cpu: CpuFeatures,
        slots: tuple[Memslot, ...],
        frames: int,
    ) -> None:
        self.nonpresent = Nonpresent(TRAP, 0) if marked else Nonpresent()
        self.memory = Memory(BASE + RAM + (4 << 20))
        self.slots = Memslots(self.memory, slots or (Memslot(0, RAM, BASE),))
        self.engine = ReferenceEngine(self.memory)
        self.core = HwThread(cpu, exit_filter=ODD if marked else EXIT_ALWAYS)
        write = self.engine.write_pte if marked else None  # the same to this engine
        vm = ShadowVm(self.slots, self.nonpresent, params, end_frame=frames, write=write)
        self.mmu, self.pages = ShadowMmu(vm, cpu), vm.pages
        self.flushes: list[object] = []
        self.sound = True
        """Nothing was broken on purpose, so the audit must find nothing."""
        self._loaded = False
        self._next_table = TABLES

    # The guest's tables, written as a boot loader does: before the MMU has seen them.

    def slot(self, gva: int, level: int = 1, root: int = ROOT, path: int = LINK) -> int:
        """Return the gpa of the guest's entry of *level*; tables are made on the way."""
        table = root
        for at in LONG4.levels:
            where = table + 8 * at.index(gva)
            if at.level == level:
                return where
            entry = self.slots.load(where)
            if not entry & pte.P:
                entry, self._next_table = self._next_table | path, self._next_table + 0x1000
                self.slots.store(where, entry)
            table = entry & pte.ADDRESS
        raise AssertionError(level)

    def map(self, gva: int, entry: int, level: int = 1, root: int = ROOT, path: int = LINK) -> None:
        """Write the guest's entry of *level* for *gva*, behind the MMU's back."""
        large = pte.PS if level > 1 and entry & pte.P else 0
        self.slots.store(self.slot(gva, level, root, path), entry | large)

    def gpte(self, gva: int, level: int = 1) -> int:
        """Return the guest's entry."""
        return self.slots.load(self.slot(gva, level))

    # The guest's doings.

    def load(self, cr0: int = CR0_WP, cr4: int = 0, efer: int = EFER_NXE, **others: int) -> None:
        """Load the guest's registers: 4-level paging, and these bits besides."""
        regs = Regs(
            cr0=CR0_PE | CR0_PG | cr0,
            cr4=CR4_PAE | cr4,
            efer=EFER_LME | EFER_LMA | efer,
            **{"cr3": ROOT, **others},
        )
        self._loaded = True
        self._take(*self.mmu.load_guest(regs))

    def _start(self) -> None:
        """Load registers if the test has not: only then are the tables as it wants them."""
        if not self._loaded:
            self.load()

    def _take(self, regs: Regs, flush: Flush) -> None:
        self.engine.load_regs(self.core, regs)
        self.perform(flush)

    def perform(self, flush: Flush) -> None:
        """Perform a flush, and note its scope."""
        self.flushes.append(flush.scope)
        flush.perform(self.engine.flush)

    def store(self, gpa: int, value: int, size: int = 8) -> None:
        """Have a guest's store to one of its page tables emulated."""
        self._start()
        self.perform(self.mmu.emulate_store(gpa, value, size))
        self._take(*self.mmu.reload())

    def rewrite(self, gva: int, entry: int, level: int = 1) -> None:
        """Have the guest write its entry of *level* for *gva*."""
        large = pte.PS if level > 1 and entry & pte.P else 0
        self.store(self.slot(gva, level), entry | large)

    def access(self, gva: int, kind: int) -> Seen:
        """Make one access, handing its exits to the MMU, until it lands or the guest takes it."""
        self._start()
        handled: list[FaultOutcome] = []
        for _ in range(4):
            translated = array("Q", [NO_TRANSLATION])
            if self.engine.run(self.core, array("Q", [gva]), bytes([kind]), 0, translated):
                return Seen(self.slots.gpa(translated[0]), tuple(handled))
            if self.core.event is Event.DELIVERED:
                return Seen(None, tuple(handled), self.core.pfec, bypassed=True)
            assert self.core.event is Event.EXIT
            one, flush = self.mmu.handle(PageFault(gva, self.core.pfec))
            handled.append(one)
            if one.route is Route.EMULATE:
                at = one.gpa & ~7
                flush = flush.merge(self.mmu.emulate_store(at, self.slots.load(at), 8))
            self.perform(flush)
            self._take(*self.mmu.reload())
            if one.route in COMPLETED:
                return Seen(one.gpa, tuple(handled))
            if one.route is Route.INJECT:
                return Seen(None, tuple(handled), one.pfec)
        raise AssertionError(handled)

    # The shadow.

    def path(self, gva: int) -> list[int]:
        """Return where the shadow's entries for *gva* lie, from the root's to the last there is."""
        root = self.mmu.root
        assert root is not None
        page, found = root, []
        for at in LONG4.levels:
            found.append(page.hpa + 8 * at.index(gva))
            child = self.pages.child(found[-1])
            if child is None:
                break
            page = child
        return found

    def spte(self, gva: int) -> int:
        """Return the last entry of the shadow's path for *gva*."""
        return self.pages.entry(self.path(gva)[-1])

    def level(self, gva: int) -> int:
        """Return the level of that entry."""
        return 5 - len(self.path(gva))

    def hpa(self, gpa: int) -> int:
        """Return where a guest frame lies in host memory."""
        hpa = self.slots.hpa(gpa)
        assert hpa is not None
        return hpa

    def audit(self) -> None:
        """Hold the shadow against the guest's tables."""
        audit(self.mmu, self.slots)


Build = "Callable[..., Bench]"


@pytest.fixture
def build() -> Iterator[Build]:
    """Return the function that builds a bench; each is audited at the end, and its memory freed."""
    built: list[Bench] = []

    def make(
        *,
        marked: bool = True,
        cpu: CpuFeatures | None = None,
        slots: tuple[Memslot, ...] = (),
        frames: int = FRAMES,
        **params: bool | int,
    ) -> Bench:
        cpu = cpu or CpuFeatures(maxphyaddr=46)
        mmu = MmuParams(**params)
        built.append(Bench(marked=marked, params=mmu, cpu=cpu, slots=slots, frames=frames))
        return built[-1]

    yield make
    for bench in built:
        if bench.sound:
            bench.audit()
        bench.memory.close()


@pytest.fixture(params=[False, True], ids=["plain", "marked"])
def bench(request: pytest.FixtureRequest, build: Build) -> Bench:
    """Return a bench, with and without marks in unbuilt entries."""
    return build(marked=request.param)


@pytest.fixture
def marked(build: Build) -> Bench:
    """Return a bench that marks unbuilt entries, and bypasses."""
    return build()
