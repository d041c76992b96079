"""Compiled = readable = reduced = unreduced, on every counter: one document, however it is run.

A program is run by each engine, by the compiled one in its fast lane and out of it, and each of
these from the accesses as they are and from what an .hvt file keeps of them. The documents that
`hvmmu run --json` would print are equal but for the engine's name.
"""

from __future__ import annotations

import gc
import json
import random
import weakref
from array import array
from functools import cache
from typing import TYPE_CHECKING, Any

import attrs
import pluggy
import pytest
from hypothesis import Phase as Generate
from hypothesis import given, settings
from hypothesis import strategies as st

from hvmmu import _plugins as plugins
from hvmmu import hookspecs
from hvmmu._core.engine import CompiledEngine
from hvmmu._cpu_params import CpuParams
from hvmmu._guest.policy import GuestParams
from hvmmu._hooks import RunHooks
from hvmmu._mmu_params import MmuParams
from hvmmu._report.document import document, dumps
from hvmmu._trace.hvt import HvtTrace
from hvmmu._trace.hvt.writer import HvtWriter
from hvmmu.arch import pfec as pf
from hvmmu.costs import cost_model
from hvmmu.errors import HvmmuError
from hvmmu.machine import Machine, MachineConfig
from hvmmu.params import params_of
from hvmmu.spec.engine import ReferenceEngine
from hvmmu.steps import (
    PROT_EXEC,
    PROT_READ,
    PROT_WRITE,
    Accesses,
    Backing,
    ExitProcess,
    Fork,
    Mmap,
    Mprotect,
    Munmap,
    ReducedAccesses,
    StartMeasuring,
    Step,
    SwitchTo,
    Tail,
)
from hvmmu.testing.settings import drawn
from hvmmu.tlb import Geometry, TlbGeometry
from hvmmu.types import PAGE_SIZE, Gva

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    from hvmmu.arch.regs import CpuFeatures
    from hvmmu.memory import Memory

BACKENDS = plugins.load().backends
MODEL = cost_model("nehalem")
RAM = 16 << 20
ALL = PROT_READ | PROT_WRITE | PROT_EXEC
BORDER = 0x40_0000_0000
"""Around it lie a 2 MiB and a 1 GiB border, so that pages have tables of their own."""
STARTS = tuple(Gva(BORDER + at * PAGE_SIZE) for at in (-40, 0, 64, 600))
PAGES = 40
READ, WRITE, FETCH = pf.U | pf.READ, pf.U | pf.WRITE, pf.U | pf.FETCH

Engine = type[ReferenceEngine | CompiledEngine]
ENGINES = [ReferenceEngine, CompiledEngine]
TLBS = {
    "as on a real CPU": TlbGeometry(),
    "fully associative": TlbGeometry(Geometry(1, 16), Geometry(1, 24), Geometry(1, 64)),
    "one entry a set": TlbGeometry(Geometry(16, 1), Geometry(32, 1), Geometry(64, 1)),
    "odd ways": TlbGeometry(Geometry(32, 3), Geometry(16, 5), Geometry(16, 7)),
    "a few entries": TlbGeometry(Geometry(2, 1), Geometry(1, 2), Geometry(2, 2)),
    "wide": TlbGeometry(Geometry(64, 8), Geometry(64, 4), Geometry(4, 4)),
}


@cache
def with_tlb(engine: Engine, tlb: str) -> Engine:
    """Return an engine with another TLB."""

    class Sized(engine):  # type: ignore[misc, valid-type]
        def __init__(self, memory: Memory, cpu: CpuFeatures) -> None:
            super().__init__(memory, cpu, TLBS[tlb])

    return Sized


class Listener:
    """Hears of every fault, so that Python must handle it."""

    @hookspecs.hookimpl
    def hvmmu_fault_handled(self) -> None:
        """Hear."""


def listening() -> RunHooks:
    """Return hooks that keep the fast lane away."""
    made = pluggy.PluginManager(hookspecs.PROJECT)
    made.add_hookspecs(hookspecs)
    made.register(Listener())
    return RunHooks(made)


def machine_of(draw: random.Random) -> MachineConfig:
    """Draw a machine, all but its engine: any backend, every parameter that counters depend on."""
    backend = BACKENDS[draw.choice(sorted(BACKENDS))]
    flags = {p.name: draw.random() < 0.6 for p in params_of(backend.params) if p.type is bool}
    mmu = drawn(MmuParams, draw)
    guest = GuestParams(memory=RAM, set_accessed_dirty=draw.random() < 0.7)
    cpu = CpuParams(nx=draw.random() < 0.8, gbpages=draw.random() < 0.5)
    return MachineConfig(backend, backend.params(**flags), mmu, cpu=cpu, guest=guest)


@attrs.define
class Program:
    """A random program that breaks no rule, until its last step perhaps."""

    random: random.Random
    steps: list[Step] = attrs.field(factory=list)
    mapped: dict[int, list[Gva]] = attrs.field(factory=lambda: {1: []})
    """By process, what it has mapped, with all permissions."""
    current: int = 1

    def accesses(self, starts: list[Gva], kinds: tuple[int, ...], count: int) -> None:
        """Access a few pages of some mappings, in runs as programs do, or all over them."""
        draw = self.random
        hot = [draw.choice(starts) + PAGE_SIZE * draw.randrange(PAGES) for _ in range(6)]
        spread, gva, kind = draw.choice((0.0, 0.02, 0.5)), array("Q"), array("B")
        page = dict.fromkeys(kinds, hot[0])
        for _ in range(count):
            how = draw.choice(kinds)
            if draw.random() < spread:
                page[how] = draw.choice(starts) + PAGE_SIZE * draw.randrange(PAGES)
            elif draw.random() < 0.1:
                page[how] = draw.choice(hot)
            gva.append(page[how] + draw.randrange(PAGE_SIZE))
            kind.append(how)
        self.steps.append(Accesses(gva, kind))

    def run(self) -> None:
        """Access what is mapped."""
        if starts := self.mapped[self.current]:
            (count,) = self.random.choices((1, 30, 900, 5000, 40_000), (8, 8, 8, 8, 1))
            self.accesses(starts, (FETCH, FETCH, READ, READ, WRITE), count)

    def map(self) -> None:
        """Map or unmap a place."""
        mapped, start = self.mapped[self.current], self.random.choice(STARTS)
        if start in mapped:
            mapped.remove(start)
            self.steps.append(Munmap(start, PAGES))
        else:
            mapped.append(start)
            self.steps.append(Mmap(start, PAGES, ALL, self.random.choice(list(Backing))))

    def protect(self) -> None:
        """Take permissions away, run within those left, and mostly give them back."""
        mapped, draw = self.mapped[self.current], self.random
        if not mapped:
            return
        start = draw.choice(mapped)
        self.steps.append(Mprotect(start, PAGES, PROT_READ | PROT_EXEC))
        self.accesses([start], (READ, FETCH), 300)
        if draw.random() < 0.9:
            self.steps.append(Mprotect(start, PAGES, ALL))

    def process(self) -> None:
        """Fork, switch, or end a process."""
        others = [pid for pid in self.mapped if pid != self.current]
        if not others or self.random.random() < 0.4:
            child = max(self.mapped) + 1
            self.mapped[child] = list(self.mapped[self.current])
            self.steps.append(Fork(child))
        elif self.random.random() < 0.8:
            self.current = self.random.choice(others)
            self.steps.append(SwitchTo(self.current))
        else:
            gone = self.random.choice(others)
            del self.mapped[gone]
            self.steps.append(ExitProcess(gone))

    def make(self) -> list[Step]:
        """Make it up."""
        does = (self.run, self.map, self.protect, self.process)
        self.map()
        for _ in range(self.random.randrange(3, 14)):
            self.random.choices(does, (8, 3, 2, 3))[0]()
            if self.random.random() < 0.05:
                self.steps.append(StartMeasuring("again"))
        self.run()
        return self.steps


def reduced(steps: list[Step], path: Path) -> Iterator[Step]:
    """Yield the steps with their accesses as they come out of an .hvt file."""
    for step in steps:
        if not isinstance(step, Accesses):
            yield step
            continue
        path.unlink(missing_ok=True)  # steps before this one still read the old file
        with path.open("wb") as file:
            writer = HvtWriter(file, "")
            writer.add(array("Q", step.gva), bytes(step.kind))
            writer.close()
        yield from (made for made in HvtTrace(path).steps() if isinstance(made, ReducedAccesses))


class WholeTail:
    """A span's tail of which C knows nothing: all its accesses are put back and run."""

    def __init__(self, made: Tail) -> None:
        self.next_kept = made.next_kept
        self.lru_fixup, self.remaining = made.lru_fixup, made.remaining


def with_whole_tails(step: Step) -> Step:
    """Return a step whose tails are run as a plugin's, not as a file's."""
    if not isinstance(step, ReducedAccesses):
        return step
    return attrs.evolve(step, tail=lambda at: WholeTail(step.tail(at)))


def printed(config: MachineConfig, steps: list[Step]) -> str:
    """Run a program; return the document, without the engine's name, or what was wrong."""
    machine = Machine(config)
    try:
        for step in steps:
            machine.step(step)
        result = machine.result(MODEL)
    except HvmmuError as error:
        return f"{type(error).__name__}: {error}"
    finally:
        machine.close()
    made = document(
        workload={"name": "made up", "kind": "synthetic"},
        config={"mmu": config.mmu, "cpu": config.cpu, "guest": config.guest},
        overrides={},
        runs=[attrs.evolve(result, engine="any")],
        model=MODEL,
    )
    return dumps(made)


def ways(config: MachineConfig, tlb: str) -> Iterator[tuple[str, MachineConfig]]:
    """Yield each way to run a program, the one to read first."""
    for engine in ENGINES:
        made = attrs.evolve(config, engine=with_tlb(engine, tlb))
        yield engine.name, made
        if engine is CompiledEngine:
            yield f"{engine.name}, out of the fast lane", attrs.evolve(made, hooks=listening())


def test_every_way_to_run_a_program(tmp_path: Path) -> None:
    """If it fails, a counter depends on how a program is run, and not only on the program."""
    whole_at_all = {"documents": 0}

    # Shrinking takes minutes, and what it shrinks is a seed.
    @settings(phases=(Generate.explicit, Generate.generate))
    @given(seed=st.integers(0, 2**64 - 1), tlb=st.sampled_from(sorted(TLBS)))
    def check(seed: int, tlb: str) -> None:
        draw = random.Random(seed)  # noqa: S311 - not for secrets
        config, steps = machine_of(draw), Program(draw).make()
        parts = list(reduced(steps, tmp_path / "x.hvt"))
        forms = (
            ("unreduced", steps),
            ("reduced", parts),
            ("run by whole tails", [with_whole_tails(step) for step in parts]),
        )
        expected = ""
        for name, way in ways(config, tlb):
            for form, form_steps in forms:
                found = printed(way, form_steps)
                expected = expected or found
                assert found == expected, f"{name}, {form}, on {config.backend.name}"
        whole_at_all["documents"] += expected.startswith("{")

    check()
    assert whole_at_all["documents"]  # and not errors alone


@pytest.mark.parametrize("engine", ENGINES)
def test_an_error_is_gone_when_nobody_has_it(engine: Engine, tmp_path: Path) -> None:
    """An error and a frame hold each other, and with them memoryviews of a reduced step.

    CPython before 3.12.4 crashes when it collects a cycle that a memoryview is in.
    """
    made = BACKENDS["native"]
    config = MachineConfig(made, made.params(), guest=GuestParams(memory=RAM), engine=engine)
    nowhere = Accesses(array("Q", [int(BORDER)] * 9), array("B", [READ] * 9))
    gc.disable()
    try:
        for step in (nowhere, *reduced([nowhere], tmp_path / "x.hvt")):
            machine = Machine(config)
            with pytest.raises(HvmmuError) as caught:
                machine.step(step)
            error = weakref.ref(caught.value)
            machine.close()
            del caught, machine
            assert error() is None
    finally:
        gc.enable()


@pytest.mark.parametrize("backend", sorted(BACKENDS))
def test_the_documents_tell_much(backend: str) -> None:
    """If it fails, the programs above do little, so that equal documents mean little."""
    seen: dict[str, Any] = {}
    made = BACKENDS[backend]
    for seed in range(8):
        config = MachineConfig(made, made.params(), guest=GuestParams(memory=RAM))
        steps = Program(random.Random(seed)).make()  # noqa: S311 - not for secrets
        told = printed(attrs.evolve(config, engine=ENGINES[-1]), steps)
        if told.startswith("{"):
            counted = json.loads(told)["runs"][0]["counters"]
            seen |= {name: value for name, value in counted.items() if value}
    expected = {"accesses", "guest_faults", "stlb_misses", "invlpg", "cr3_loads", "page_walk_refs"}
    if backend != "native":
        expected |= {"host_faults", "pt_writes_emulated", "guest_faults_injected"}
    assert expected <= set(seen)
