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
from hvmmu._trace.hvt import HvtTrace
from hvmmu._trace.hvt.reduction import PythonReducer, SpanFilter
from hvmmu._trace.hvt.writer import HvtWriter
from hvmmu._trace.span import Compact, InSpan
from hvmmu._trace.tokens import (
    FETCH,
    KINDS,
    READ,
    SECOND,
    SETS,
    SPAN_WINDOWS,
    WAYS,
    WINDOW,
    WRITE,
    DamagedError,
    Sites,
    no_sites,
    python_expand,
    python_open,
)
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
    Reduced,
    Rest,
    StartMeasuring,
    Step,
    SwitchTo,
)
from hvmmu.testing.settings import drawn
from hvmmu.tlb import Geometry, TlbGeometry
from hvmmu.types import Gva
from hvmmu.workloads import Limited

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator
    from pathlib import Path

    from hvmmu._trace.hvt.reduction import Reducer
    from hvmmu._trace.span import Span
    from hvmmu.engine import Engine
    from hvmmu.memory import Memory

BASE = 0x40_0000
PAGES = 96
GUEST = GuestParams(memory=16 << 20)
MODEL = cost_model("nehalem")
SPAN = SPAN_WINDOWS * WINDOW


ENGINES: list[type[ReferenceEngine | CompiledEngine]] = [
    ReferenceEngine,
    *([] if CompiledEngine.why_not else [CompiledEngine]),
]


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


def packed(step: Accesses, path: Path) -> list[Reduced]:
    """Return the accesses as they come out of an .hvt file."""
    path.unlink(missing_ok=True)  # steps before these still read the old file
    with path.open("wb") as file:
        writer = HvtWriter(file, "")
        writer.add(array("Q", step.gva), bytes(step.kind))
        writer.close()
    return [made for made in HvtTrace(path).steps() if isinstance(made, Reduced)]


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


def whole(step: Reduced) -> tuple[list[int], list[int]]:
    """Return all pages and kinds that a reduced step stands for."""
    parts = list(step.whole())
    pages = [gva >> 12 for part in parts for gva in part.gva]
    return pages, [kind for part in parts for kind in part.kind]


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


@pytest.mark.parametrize("engine", ENGINES)
@pytest.mark.parametrize("levels", TLBS, ids=str)
def test_every_tlb(
    levels: tuple[Geometry, Geometry],
    engine: Any,  # noqa: ANN401 - a class
    tmp_path: Path,
) -> None:
    """A TLB with fewer sets or ways than a filter has is run from what that filter keeps."""
    for config, steps in itertools.product(CONFIGS[:2], (program(0), bypassable(), seldom(0))):
        machine = attrs.evolve(config.values[0], engine=with_tlb(*levels, engine))
        assert outcome(machine, reduced(steps, tmp_path / "x")) == outcome(machine, steps)


@pytest.mark.skipif(bool(CompiledEngine.why_not), reason="no compiler where this was installed")
@pytest.mark.parametrize("config", CONFIGS)
def test_the_lane_runs_spans_as_python_does(
    config: MachineConfig, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The lane goes on elsewhere after a stop than the code that explains it, or never runs one."""
    from hvmmu._lane import Lane  # noqa: PLC0415 - needs what is compiled

    stops: list[int] = []
    run = Lane.run_spans

    def counting(lane: Lane, step: Reduced) -> bool:
        def rest(at: int) -> InSpan:
            stops.append(at)
            return step.rest(at)  # type: ignore[return-value]

        return run(lane, attrs.evolve(step, rest=rest))

    monkeypatch.setattr(Lane, "run_spans", counting)
    machine = attrs.evolve(config, engine=CompiledEngine)
    for steps in (seldom(1), program(1), program(2)):
        made = reduced(steps, tmp_path / "x")
        stops.clear()
        found = outcome(machine, made)
        in_spans = len(stops)
        with monkeypatch.context() as patch:
            patch.setattr(Lane, "run_spans", lambda lane, step: not (lane or step))
            assert outcome(machine, made) == found
        assert in_spans
        assert len(stops) == in_spans


def differs(steps: list[Step], changed: list[Step], **config: Any) -> bool:  # noqa: ANN401
    """Say whether any backend counts otherwise for the changed program."""
    for one in CONFIGS:
        machine = attrs.evolve(one.values[0], **config)
        if outcome(machine, steps) != outcome(machine, changed):
            return True
    return False


@attrs.frozen
class Rested(Rest):
    """What a careless reader would run after a stop."""

    following: int
    made: list[Accesses | Reduced]
    order: Accesses

    def before(self) -> Accesses:
        """Return what would be made up for."""
        return self.order

    def parts(self) -> list[Accesses | Reduced]:
        """Return it."""
        return self.made


def near_from(step: Reduced, span: Span, start: int, *, kept: bool = False) -> Accesses:
    """Return a span's near accesses from one on, or those of them that its filter keeps."""
    flags, near = SpanFilter(), span.columns.near
    for site in near:
        flags.add(step.site_gva[site] >> 12, memoryview(step.site_kind)[site])
    own = flags.end()
    sites = [site for at, site in enumerate(near) if at >= start and (own[at] or not kept)]
    gva = array("Q", (step.site_gva[site] for site in sites))
    return Accesses(gva, array("B", (memoryview(step.site_kind)[site] for site in sites)))


def careless(
    step: Step,
    run: Callable[[Reduced, InSpan], list[Accesses | Reduced]],
    before: Callable[[InSpan], Accesses] = InSpan.before,
) -> Step:
    """Return a step that after a stop runs what *run* makes of it and of what should be run.

    Before, it makes up for what *before* says.
    """
    if not isinstance(step, Compact):
        return step
    made = step

    def rest(at: int) -> Rest:
        should = made.rest(at)
        return Rested(should.following, run(made, should), before(should))

    # not Compact, of whose rests the lane knows more than it is told
    return Reduced(
        step.kept, step.site_gva, step.site_kind, step.accesses, step.sets, step.ways, rest
    )


PROGRAMS = 4
"""So many are run until counts differ: a bare machine's pager disturbs little."""


def test_why_the_rest_of_a_window_is_run_whole(tmp_path: Path) -> None:
    """The tests above would not notice if a stop were followed by near accesses at once."""

    def near(step: Reduced, rest: InSpan) -> list[Accesses | Reduced]:
        return [near_from(step, rest.frame.opened(), rest.frame.near_of(rest.nth))]

    for steps in map(program, range(PROGRAMS)):
        right = reduced(steps, tmp_path / "x")
        if differs(right, [careless(step, near) for step in right]):
            return
    pytest.fail("all programs count the same")


def test_why_the_rest_of_a_span_is_run_by_windows(tmp_path: Path) -> None:
    """The tests above would not notice if a window after a stop were followed by kept accesses."""

    def kept(step: Reduced, rest: InSpan) -> list[Accesses | Reduced]:
        window, *_ = rest.parts()
        span = rest.frame.opened()
        ends = span.columns.near_ends
        start = ends[bisect_right(ends, rest.frame.near_of(rest.nth))]
        return [window, near_from(step, span, start, kept=True)]

    for steps in map(program, range(PROGRAMS)):
        right = reduced(steps, tmp_path / "x")
        if differs(right, [careless(step, kept) for step in right]):
            return
    pytest.fail("all programs count the same")


def test_why_order_is_made_up_for_before_a_stop(tmp_path: Path) -> None:
    """The tests above would not notice if sets were left in the order of what was kept.

    Something that stops may touch any set.
    """

    def parts(_: Reduced, rest: InSpan) -> list[Accesses | Reduced]:
        return list(rest.parts())

    def nothing(_: InSpan) -> Accesses:
        return Accesses(array("Q"), array("B"))

    for steps in (seldom(0), *map(program, range(PROGRAMS))):
        right = reduced(steps, tmp_path / "x")
        if differs(right, [careless(step, parts, nothing) for step in right]):
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


def filled(gva: Iterable[int], kind: Iterable[int]) -> Sites:
    """Return sites that begin with these."""
    sites = no_sites()
    for at, (va, k) in enumerate(zip(gva, kind, strict=True)):
        sites.gva[at], sites.kind[at] = va, k
    return sites


def listed(made: Reducer) -> Sites:
    """Return the sites as a reader of the first chunk knows them."""
    sites = no_sites()
    for slot, va, k in zip(*made.listed, strict=True):
        sites.gva[slot], sites.kind[slot] = va, k
    return sites


@given(stream=STREAMS)
def test_a_window_can_be_had_back(stream: list[tuple[int, int, int, bool]]) -> None:
    """An access is lost, comes in another place, or as another kind, than it was recorded."""
    gva = array("Q", (page << 12 | offset for page, offset, _, _ in stream))
    kind = array("B", (k | (SECOND if second else 0) for _, _, k, second in stream))
    made = PythonReducer()
    made.window(gva, kind)
    sites = listed(made)
    kept, near, frame = made.end_span()
    columns = python_open(frame, 1, kept, sites)
    assert list(columns.near_ends) == [0, near]
    places = []
    for first, site in enumerate(columns.near):
        back = python_expand(
            columns.tokens, columns.near, sites, len(gva), first=first, mark=SECOND
        )
        back_gva, back_kind, place = back
        assert [va >> 12 for va in back_gva] == [va >> 12 for va in gva]
        assert back_kind == kind
        assert back_gva[place] == sites.gva[site]
        places.append(place)
    assert places == sorted(set(places))


@given(stream=STREAMS)
def test_the_first_touch_keeps_its_address(stream: list[tuple[int, int, int, bool]]) -> None:
    """The digest of the guest's faults changes, as they carry whole addresses."""
    made = PythonReducer()
    gva = array("Q", (page << 12 | offset for page, offset, _, _ in stream))
    made.window(gva, array("B", (k for _, _, k, _ in stream)))
    first: dict[tuple[int, int], int] = {}
    for page, offset, k, _ in stream:
        first.setdefault((page, k), page << 12 | offset)
    _, site_gva, site_kind = made.listed
    kept = {(va >> 12, k): va for va, k in zip(site_gva, site_kind, strict=True)}
    for (page, k), va in first.items():
        if (page, k) in kept and k != READ:
            assert kept[page, k] == va
        else:  # a read may have been granted by a write before it
            assert k == READ


@given(tokens=st.binary(max_size=40), kept=st.integers(0, 3), room=st.integers(1, 40))
def test_damaged_tokens(tokens: bytes, kept: int, room: int) -> None:
    """Tokens that nobody wrote give accesses out of nowhere, or too many of them."""
    sites, listed = filled([4096], [READ]), array("H", [0] * kept)
    try:
        back, kinds, place = python_expand(tokens, listed, sites, room, first=0, mark=SECOND)
    except DamagedError:
        return
    assert len(back) == len(kinds) == room
    assert place < room
    assert set(back) <= {4096}


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
        parts = step.whole() if isinstance(step, Reduced) else [step]
        pages += [gva >> 12 for part in parts if isinstance(part, Accesses) for gva in part.gva]
    assert pages == [gva >> 12 for gva in everything.gva[:limit]]
