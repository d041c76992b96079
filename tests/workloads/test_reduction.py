"""The reduction is exact: a run without what changes nothing counts the same as the whole run."""

from __future__ import annotations

import itertools
import random
from array import array
from bisect import bisect_right
from typing import TYPE_CHECKING, Any

import attrs
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from hvmmu import _plugins as plugins
from hvmmu._core.engine import CompiledEngine
from hvmmu._guest.policy import GuestParams
from hvmmu._mmu_params import MmuParams
from hvmmu._trace.grammar import SETS, SPAN, STRADDLES, WAYS, WINDOW
from hvmmu._trace.hvt import HvtTrace
from hvmmu._trace.hvt.layout import DamagedError
from hvmmu._trace.hvt.reducer import Reducer
from hvmmu._trace.hvt.writer import HvtWriter
from hvmmu._trace.page_slots import PageSlots
from hvmmu._trace.span import PackedSpan, SpanTail
from hvmmu.arch.pfec import USER_FETCH as FETCH
from hvmmu.arch.pfec import USER_READ as READ
from hvmmu.arch.pfec import USER_WRITE as WRITE
from hvmmu.costs import cost_model
from hvmmu.machine import Machine, MachineConfig
from hvmmu.spec.engine import ReferenceEngine
from hvmmu.steps import (
    PROT_READ,
    Accesses,
    Backing,
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
from hvmmu.types import Gva
from hvmmu.workloads import Limited

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from pathlib import Path

    from hvmmu.engine import Engine
    from hvmmu.memory import Memory

BASE = 0x40_0000
PAGES = 96
GUEST = GuestParams(memory=16 << 20)
MODEL = cost_model("nehalem")
KINDS = (READ, WRITE, FETCH)

ENGINES: list[type[ReferenceEngine | CompiledEngine]] = [ReferenceEngine, CompiledEngine]


def with_tlb(
    instruction: Geometry,
    data: Geometry,
    engine: type[ReferenceEngine | CompiledEngine] = ReferenceEngine,
) -> type[Engine]:
    """Return an engine with such first levels."""
    geometry = TlbGeometry(instruction, data, Geometry(32, 2))

    class Small(engine):  # type: ignore[misc, valid-type]
        def __init__(self, memory: Memory) -> None:
            super().__init__(memory, geometry)

    return Small


def configs() -> Iterator[Any]:
    """Yield every backend, both ways in each boolean parameter, with what makes the MMU busy."""
    for name, backend in plugins.load().backends.items():
        over = [p for p, value in attrs.asdict(backend.params()).items() if isinstance(value, bool)]
        for values in itertools.product((False, True), repeat=len(over)):
            params = backend.params(**dict(zip(over, values, strict=True)))
            told = "".join(f"-{p}={v:d}" for p, v in zip(over, values, strict=True))
            yield pytest.param(MachineConfig(backend, params, guest=GUEST), id=name + told)


CONFIGS = list(configs())
MMUS = [MmuParams(), *(drawn(MmuParams, random.Random(seed)) for seed in range(2))]  # noqa: S311


def accesses(rng: random.Random, count: int) -> Accesses:
    """Make a stream with runs in one page, pages that share a set, and all kinds.

    Now and then it goes over to other pages: if they are new, a long stream stops in its middle.
    """
    gva, kind, pages = array("Q"), array("B"), range(1)
    page = dict.fromkeys(KINDS, 0)
    for n in range(count):
        if n % 6000 == 0:
            pages = rng.choice([[0, 16, 32], range(4), range(0, PAGES, 16), range(PAGES)])
            page = {k: rng.choice(pages) for k in KINDS}
        k = rng.choices((FETCH, READ, WRITE), (6, 3, 1))[0]
        if rng.random() < 0.1:
            page[k] = rng.choice(pages)
        gva.append(BASE + page[k] * 4096 + rng.randrange(4096))
        kind.append(k)
    return Accesses(gva, kind)


def program(seed: int) -> list[Step]:
    """Make a program: accesses, and between them all that flushes or changes permissions."""
    rng = random.Random(seed)  # noqa: S311 - not for secrets
    mapped = Mmap(Gva(BASE), PAGES, 7, Backing.INFERRED)
    steps: list[Step] = [mapped]
    pids = [1]
    for _ in range(rng.randrange(2, 8)):
        steps.append(accesses(rng, rng.choice([1, 50, 700, WINDOW, 14_000, SPAN + 9000])))
        start, pages = Gva(BASE + rng.randrange(PAGES - 40) * 4096), rng.choice([1, 5, 40])
        choice = rng.randrange(6)
        if choice == 0:
            steps += [Munmap(start, pages), Mmap(start, pages, 7, Backing.INFERRED)]
        elif choice == 1:
            steps += [Mprotect(start, pages, PROT_READ), Mprotect(start, pages, 7)]
        elif choice == 2:
            pids.append(len(pids) + 1)
            steps.append(Fork(pids[-1]))
        elif choice == 3:
            steps.append(SwitchTo(rng.choice(pids)))
        elif choice == 4:
            steps.append(StartMeasuring("again"))
    return [*steps, accesses(rng, 300)]


def bypassable() -> list[Step]:
    """Make a program whose last two thirds stop nowhere: four pages a set, all touched before."""
    rng = random.Random(1)  # noqa: S311 - not for secrets
    made = Accesses(array("Q"), array("B"))
    for _ in range(3 * SPAN):
        page = rng.randrange(WAYS * SETS) if rng.random() < 0.3 else 0
        fetch = rng.random() < 0.5
        made.gva.append(BASE + (page + PAGES // 3 * fetch) * 4096)
        made.kind.append(FETCH if fetch else WRITE)
    return [Mmap(Gva(BASE), PAGES, 7, Backing.INFERRED), made]


def seldom(seed: int) -> list[Step]:
    """Make a program that stops once a span or so: four pages a set, and now and then a new one."""
    rng, made = random.Random(seed), Accesses(array("Q"), array("B"))  # noqa: S311 - not for secrets
    for n in range(3 * SPAN):
        page = rng.randrange(WAYS * SETS) if n % 9000 else 100 + n // 9000
        made.gva.append(BASE + page * 4096)
        made.kind.append(WRITE)
    return [Mmap(Gva(BASE), 200, 7, Backing.INFERRED), made]


def packed(step: Accesses, path: Path) -> list[ReducedAccesses]:
    """Return the accesses as they come out of an .hvt file."""
    path.unlink(missing_ok=True)  # steps before these still read the old file
    with path.open("wb") as file:
        writer = HvtWriter(file, "")
        writer.add(array("Q", step.gva), bytes(step.kind))
        writer.close()
    return [made for made in HvtTrace(path).steps() if isinstance(made, ReducedAccesses)]


def reduced(steps: list[Step], path: Path) -> list[Step]:
    """Return the program with its accesses reduced."""
    made: list[Step] = []
    for step in steps:
        made += packed(step, path) if isinstance(step, Accesses) else [step]
    return made


def outcome(config: MachineConfig, steps: list[Step]) -> dict[str, Any]:
    """Run a program; return all that a result document would hold."""
    machine = Machine(config)
    try:
        for step in steps:
            machine.step(step)
        return machine.result(MODEL).to_json()
    finally:
        machine.close()


@pytest.mark.parametrize("config", CONFIGS)
def test_reduced_counts_as_unreduced(config: MachineConfig, tmp_path: Path) -> None:
    """A counter, a route, an accessed or dirty bit or a fault depends on the trace's form.

    Faults and exits come in the middle of windows, and flushes between them.
    """

    @settings(deadline=None, max_examples=5)
    @given(
        seed=st.integers(0, 1 << 32),
        mmu=st.sampled_from(MMUS),
        touched=st.booleans(),
        engine=st.sampled_from(ENGINES),
    )
    def check(seed: int, mmu: MmuParams, touched: bool, engine: type[Engine]) -> None:
        guest = attrs.evolve(GUEST, set_accessed_dirty=touched)
        machine = attrs.evolve(config, mmu=mmu, guest=guest, engine=engine)
        steps = program(seed)
        assert outcome(machine, reduced(steps, tmp_path / "x")) == outcome(machine, steps)

    check()


TLBS = [
    (Geometry(16, 4), Geometry(16, 4)),
    (Geometry(64, 4), Geometry(32, 4)),
    (Geometry(8, 4), Geometry(16, 4)),
    (Geometry(16, 4), Geometry(8, 4)),
    (Geometry(1, 4), Geometry(1, 4)),
    (Geometry(16, 2), Geometry(16, 2)),
    (Geometry(16, 3), Geometry(16, 8)),
    (Geometry(16, 4), Geometry(32, 3)),
    (Geometry(32, 8), Geometry(16, 8)),
    (Geometry(64, 1), Geometry(16, 5)),
]


@pytest.mark.parametrize(
    ("levels", "engine"),
    [(levels, CompiledEngine) for levels in TLBS] + [(TLBS[n], ReferenceEngine) for n in (0, 1, 5)],
    ids=str,
)
def test_every_tlb(
    levels: tuple[Geometry, Geometry],
    engine: Any,  # noqa: ANN401 - a class
    tmp_path: Path,
) -> None:
    """A TLB of another shape than the filters have counts otherwise on a reduced trace."""
    for config, steps in itertools.product(CONFIGS[:2], (program(0), bypassable(), seldom(0))):
        machine = attrs.evolve(config.values[0], engine=with_tlb(*levels, engine))
        assert outcome(machine, reduced(steps, tmp_path / "x")) == outcome(machine, steps)


@pytest.mark.parametrize("config", CONFIGS)
def test_c_runs_the_rest_of_spans(
    config: MachineConfig, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The tests above never run a span's rest in C, as every user does: Python puts it back."""
    stops: list[int] = []

    def counting(step: Step) -> Step:
        if not isinstance(step, ReducedAccesses):
            return step

        def tail(at: int) -> Tail:
            stops.append(at)
            return step.tail(at)

        return attrs.evolve(step, tail=tail)

    monkeypatch.setattr(SpanTail, "remaining", None)
    monkeypatch.setattr(SpanTail, "lru_fixup", None)
    machine = attrs.evolve(config, engine=CompiledEngine)
    for steps in (seldom(1), program(1)):
        stops.clear()
        found = outcome(machine, [counting(step) for step in reduced(steps, tmp_path / "x")])
        assert found == outcome(machine, steps)
        assert stops


def differs(steps: list[Step], changed: list[Step], **config: Any) -> bool:  # noqa: ANN401
    """Say whether any backend counts otherwise for the changed program."""
    for one in CONFIGS:
        machine = attrs.evolve(one.values[0], **config)
        if outcome(machine, steps) != outcome(machine, changed):
            return True
    return False


@attrs.frozen
class CarelessTail(Tail):
    """What a careless reader would run after a stop."""

    next_kept: int
    made: list[Accesses]
    fixup: Accesses

    def lru_fixup(self) -> Accesses:
        """Return what would be promoted."""
        return self.fixup

    def remaining(self) -> list[Accesses]:
        """Return what would be run."""
        return self.made


def kept_from(packed: PackedSpan, start: int, *, by_span: bool = False) -> Accesses:
    """Return the accesses of a span that a filter keeps, from one on of those the windows keep."""
    span, made = packed.unpacked(), Accesses(array("Q"), array("B"))
    own = {span.window_kept_of(nth) for nth in range(len(packed.span_kept))}
    for at, slot in enumerate(span.window_kept):
        if at >= start and (at in own or not by_span):
            made.gva.append(packed.slots.gva[slot])
            made.kind.append(packed.slots.kind[slot])
    return made


def careless(
    step: Step,
    run: Callable[[SpanTail], list[Accesses]],
    fixup: Callable[[SpanTail], Accesses] = SpanTail.lru_fixup,
) -> Step:
    """Return a step that runs after a stop what *run* makes of the right tail."""
    if not isinstance(step, ReducedAccesses):
        return step
    made = step

    def tail(at: int) -> Tail:
        should = made.tail(at)
        assert isinstance(should, SpanTail)
        return CarelessTail(should.next_kept, run(should), fixup(should))

    return ReducedAccesses(
        step.kept, step.slot_gva, step.slot_kind, step.accesses, step.sets, step.ways, tail
    )


PROGRAMS = 4
"""So many are run until counts differ: a bare machine's pager disturbs little."""


def test_why_the_rest_of_a_window_is_run_whole(tmp_path: Path) -> None:
    """The tests above would not notice if only what the window filter keeps ran after a stop."""

    def near(tail: SpanTail) -> list[Accesses]:
        return [kept_from(tail.packed, tail.packed.unpacked().window_kept_of(tail.nth))]

    for steps in map(program, range(PROGRAMS)):
        right = reduced(steps, tmp_path / "x")
        if differs(right, [careless(step, near) for step in right]):
            return
    pytest.fail("all programs count the same")


def test_why_the_rest_of_a_span_is_run_by_windows(tmp_path: Path) -> None:
    """The tests above would not notice if the span filter held for windows after a stop."""

    def kept(tail: SpanTail) -> list[Accesses]:
        window, *_ = tail.remaining()
        span = tail.packed.unpacked()
        start = bisect_right(span.kept_ends, span.window_kept_of(tail.nth))
        return [window, kept_from(tail.packed, span.kept_ends[start], by_span=True)]

    for steps in map(program, range(PROGRAMS)):
        right = reduced(steps, tmp_path / "x")
        if differs(right, [careless(step, kept) for step in right]):
            return
    pytest.fail("all programs count the same")


def test_why_order_is_made_up_for_before_a_stop(tmp_path: Path) -> None:
    """The tests above would not notice if sets were left in the order of what was kept.

    Something that stops may touch any set.
    """

    def rest(tail: SpanTail) -> list[Accesses]:
        return list(tail.remaining())

    def nothing(_: SpanTail) -> Accesses:
        return Accesses(array("Q"), array("B"))

    for steps in (seldom(0), *map(program, range(PROGRAMS))):
        right = reduced(steps, tmp_path / "x")
        if differs(right, [careless(step, rest, nothing) for step in right]):
            return
    pytest.fail("all programs count the same")


@pytest.mark.parametrize(
    ("levels", "caps"),
    [
        ((Geometry(1, 4), Geometry(1, 4)), {"lru_sets": SETS}),
        ((Geometry(8, 4), Geometry(8, 4)), {"lru_sets": SETS}),
        ((Geometry(16, 3), Geometry(16, 3)), {"lru_ways": WAYS}),
        ((Geometry(16, 1), Geometry(16, 1)), {"lru_ways": WAYS}),
    ],
)
def test_why_fewer_sets_and_ways_need_more(
    levels: tuple[Geometry, Geometry], caps: dict[str, int], tmp_path: Path
) -> None:
    """The tests above would not notice if a small TLB were run from what the filters keep."""

    class Overrated(with_tlb(*levels)):  # type: ignore[misc]
        def __init__(self, memory: Memory) -> None:
            super().__init__(memory)
            self.caps = attrs.evolve(self.caps, **caps)

    steps = bypassable()
    assert differs(steps, reduced(steps, tmp_path / "x"), engine=Overrated)


STREAMS = st.lists(
    st.tuples(
        st.sampled_from([1, 2, 3, 17, 18, 33, 1 << 30]),
        st.integers(0, 4095),
        st.sampled_from(KINDS),
        st.booleans(),
    ),
    min_size=1,
    max_size=200,
)


@given(stream=STREAMS)
def test_a_window_can_be_had_back(stream: list[tuple[int, int, int, bool]]) -> None:
    """An access is lost, comes in another place, or as another kind, than it was recorded."""
    gva = array("Q", (page << 12 | offset for page, offset, _, _ in stream))
    kind = array("B", (k | (STRADDLES if second else 0) for _, _, k, second in stream))
    made, slots = Reducer(), PageSlots.empty()
    made.add_window(gva, kind)
    slots.list_pairs(*made.listed)
    span_kept, window_kept, stored = made.end_span()
    span = PackedSpan(stored, span_kept, slots, len(gva), DamagedError).unpacked()
    assert span.kept_ends == [0, window_kept]
    places = []
    for at, slot in enumerate(span.window_kept):
        back = span.expanded(0, at, STRADDLES)
        assert [va >> 12 for va in back.gva] == [va >> 12 for va in gva]
        assert back.kind == kind
        assert back.gva[back.where] == slots.gva[slot]
        places.append(back.where)
    assert places == sorted(set(places))


@given(stream=STREAMS)
def test_the_first_touch_keeps_its_address(stream: list[tuple[int, int, int, bool]]) -> None:
    """The digest of the guest's faults changes, as they carry whole addresses."""
    made = Reducer()
    gva = array("Q", (page << 12 | offset for page, offset, _, _ in stream))
    made.add_window(gva, array("B", (k for _, _, k, _ in stream)))
    first: dict[tuple[int, int], int] = {}
    for page, offset, k, _ in stream:
        first.setdefault((page, k), page << 12 | offset)
    _, slot_gva, slot_kind = made.listed
    kept = {(va >> 12, k): va for va, k in zip(slot_gva, slot_kind, strict=True)}
    for (page, k), va in first.items():
        if (page, k) in kept and k != READ:
            assert kept[page, k] == va
        else:  # a read may have been granted by a write before it
            assert k == READ


@pytest.mark.parametrize(
    "limit", [1, WINDOW, WINDOW + 1, SPAN, SPAN + 1, 3 * SPAN - 1, 3 * SPAN, 1 << 30]
)
def test_a_limited_workload_may_be_reduced(tmp_path: Path, limit: int) -> None:
    """A limit is ignored where a plugin's workload gives reduced steps."""
    steps = bypassable()
    everything = steps[-1]
    assert isinstance(everything, Accesses)

    @attrs.frozen
    class Made:
        name: str = "made"

        def facts(self) -> dict[str, Any]:
            return {}

        def steps(self) -> Iterator[Step]:
            yield from reduced(steps, tmp_path / "x")

    pages: list[int] = []
    for step in Limited(Made(), limit).steps():
        parts = step.whole() if isinstance(step, ReducedAccesses) else [step]
        pages += [gva >> 12 for part in parts if isinstance(part, Accesses) for gva in part.gva]
    assert pages == [gva >> 12 for gva in everything.gva[:limit]]
