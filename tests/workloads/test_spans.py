"""The two filters themselves: what they keep leaves every TLB as the whole trace would."""

from __future__ import annotations

import copy
import itertools
import random
from array import array
from typing import TYPE_CHECKING, Any

import attrs
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from hvmmu._trace import span as spans
from hvmmu._trace.hvt import accelerated as fastest
from hvmmu._trace.hvt.reduction import PythonReducer, Ring
from hvmmu._trace.span import Span
from hvmmu._trace.tokens import (
    FETCH,
    KINDS,
    MESSAGES,
    READ,
    SECOND,
    SETS,
    SPAN_WINDOWS,
    WAYS,
    WINDOW,
    WRITE,
    Columns,
    DamagedError,
    Sites,
    near_of,
    no_sites,
    python_expand,
    python_open,
)
from hvmmu.arch import pfec as pf
from hvmmu.spec.tlb import Tlb, TlbEntry, tag_of
from hvmmu.tlb import Geometry, TlbGeometry
from hvmmu.types import PAGE_SIZE

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator

    from hvmmu._trace.hvt.reduction import Reducer

in_c = pytest.mark.skipif(
    fastest.compiled is None or spans.compiled is None,
    reason="no compiler where this was installed",
)
Access = tuple[int, int]
"""A page and a kind."""


def stream(rng: random.Random, count: int) -> list[Access]:
    """Make accesses by chance: runs in few pages, of few sets or of many, now and then of others.

    Up to nine pages share a set: more than the filter has ways, and as many as the widest TLB.
    """
    made: list[Access] = []
    while len(made) < count:
        sets = rng.sample(range(2 * SETS), rng.choice((1, 1, 2, 6)))
        pages = [s + 2 * SETS * n for s in sets for n in range(1, rng.choice((2, 3, 4, 5, 6, 10)))]
        kinds = rng.choice((KINDS, (FETCH, READ), (READ, WRITE), (READ, READ, READ, WRITE)))
        for _ in range(rng.choice((3, 20, 60, 200))):
            made += [(rng.choice(pages), rng.choice(kinds))] * rng.choice((1, 1, 1, 3))
    return made[:count]


def columns_of(accesses: list[Access]) -> tuple[array[int], array[int]]:
    """Return accesses as a reducer takes them."""
    gva = array("Q", (page * PAGE_SIZE + n % PAGE_SIZE for n, (page, _) in enumerate(accesses)))
    return gva, array("B", (kind for _, kind in accesses))


def near_places(accesses: list[Access], window: int) -> list[int]:
    """Return where the windows' filter keeps an access, as docs/workloads.md says it."""
    places: list[int] = []
    for start in range(0, len(accesses), window):
        latest: dict[tuple[bool, int], int] = {}
        allowed: dict[tuple[bool, int], int] = {}
        for at, (page, kind) in enumerate(accesses[start : start + window], start):
            key = kind == FETCH, page % SETS
            if latest.get(key) == page and allowed[key] | kind == allowed[key]:
                continue
            allowed[key] = kind | (allowed[key] if latest.get(key) == page else 0)
            latest[key] = page
            places.append(at)
    return places


@attrs.define
class Kept:
    """A span as a reducer made it, and where in it both filters keep something."""

    accesses: list[Access]
    near: list[int]
    own: list[int]
    span: Span


def kept(accesses: list[Access], window: int, reducer: Reducer) -> Kept:
    """Reduce a span of windows shorter than a file's."""
    gva, kind = columns_of(accesses)
    for start in range(0, len(gva), window):
        reducer.window(gva[start : start + window], kind[start : start + window])
    sites, near, frame = reducer.end_span()
    slots, vas, kinds = reducer.listed
    known = no_sites()
    for slot, va, k in zip(slots, vas, kinds, strict=True):
        known.gva[slot], known.kind[slot] = va, k
    places = near_places(accesses, window)
    assert len(places) == near
    mask = frame[4 * -(-len(accesses) // window) :]
    own = [at for n, at in enumerate(places) if mask[n // 8] >> n % 8 & 1]
    assert len(own) == len(sites)
    slot_of = {(va // PAGE_SIZE, k): slot for slot, va, k in zip(slots, vas, kinds, strict=True)}
    near_slots = array("H", (slot_of[accesses[at]] for at in places))
    columns = Columns(near_slots, array("I"), array("I"), b"")
    return Kept(accesses, places, own, Span(columns, known, len(accesses), ValueError))


class Cached:
    """The readable TLB, and nothing else: every page is there, and allows what is asked."""

    def __init__(self, instruction: Geometry, data: Geometry) -> None:
        self.tlb = Tlb(TlbGeometry(instruction, data, Geometry(16, 6)))
        self.changes = 0

    def access(self, page: int, kind: int) -> bool:
        """Access a page; return if it was a first level's hit with nothing to grant."""
        va, fetch = page * PAGE_SIZE, kind == FETCH
        misses = list(self.tlb.first_misses)
        found = self.tlb.find(va, fetch=fetch)
        if found is None or (kind == WRITE and not found.dirty):
            entry = TlbEntry(
                tag_of(va, 0),
                va,
                mask=PAGE_SIZE - 1,
                access=kind,
                pkey=0,
                dirty=kind == WRITE,
                is_global=False,
            )
            self.tlb.fill(va, entry, fetch=fetch)
        plain = misses == self.tlb.first_misses
        self.changes += not plain
        return plain

    def state(self) -> tuple[Any, ...]:
        """Return all sets in their order, and what was counted."""
        levels = (self.tlb.instruction, self.tlb.data, self.tlb._second)
        sets = [[[(e.tag, e.dirty) for e in ways] for ways in level] for level in levels]
        return sets, list(self.tlb.first_misses), self.tlb.second_misses


LEVELS = [
    (Geometry(16, 4), Geometry(16, 4)),
    (Geometry(32, 4), Geometry(16, 5)),
    (Geometry(16, 8), Geometry(64, 4)),
    (Geometry(128, 12), Geometry(16, 7)),
]
NARROW = [(Geometry(16, 1), Geometry(16, 1)), (Geometry(32, 2), Geometry(16, 3))]


def pair(
    rng: random.Random, levels: tuple[Geometry, Geometry], before: list[Access]
) -> tuple[Cached, Cached]:
    """Return two TLBs that hold the same, whatever it is."""
    one, two = Cached(*levels), Cached(*levels)
    for page, kind in before[: rng.randrange(len(before) + 1)]:
        one.access(page, kind)
        two.access(page, kind)
    return one, two


def asks(accesses: list[Access]) -> list[int]:
    """Return which accesses may be more than a hit, whatever the TLB held before.

    A page is none of the four most recent ones of its set, or is written and was not since it was
    one of them.
    """
    sets: dict[tuple[bool, int], list[int]] = {}
    written: dict[tuple[bool, int], bool] = {}
    places: list[int] = []
    for at, (page, kind) in enumerate(accesses):
        key = kind == FETCH, page % SETS
        recent = sets.setdefault(key, [])
        known = page in recent[:WAYS]
        if not known or (kind == WRITE and not written[key[0], page]):
            places.append(at)
        written[key[0], page] = kind == WRITE or (known and written[key[0], page])
        if page in recent:
            recent.remove(page)
        recent.insert(0, page)
    return places


def check_span(made: Kept, rng: random.Random, before: list[Access]) -> None:
    """Run all accesses of a span beside those that its filter keeps, on every TLB of four ways.

    Where one may stop, what is made up for then must leave the same too.
    """
    own, asking = set(made.own), set(asks(made.accesses))
    assert asking <= own <= set(made.near)
    stopping = set(rng.sample(sorted(asking), min(len(asking), 8)))
    for levels in LEVELS:
        whole, some = pair(rng, levels, before)
        for at, (page, kind) in enumerate(made.accesses):
            if at in stopping:
                order = made.span.order(made.near.index(at))
                ready = copy.deepcopy(some)
                for va, k in zip(order.gva, order.kind, strict=True):
                    assert ready.access(va // PAGE_SIZE, k), f"made up for before {at}: no hit"
                assert ready.state() == whole.state(), f"before {at}, which may stop, on {levels}"
            plain = whole.access(page, kind)
            assert plain or at in own, f"{at} is no hit and not kept, on {levels}"
            if at in own:
                assert some.access(page, kind) == plain
        assert some.state() == whole.state(), f"at the end, on {levels}"


@given(seed=st.integers(0, 1 << 32), size=st.integers(1, 600))
def test_what_a_span_keeps_leaves_the_same_tlb(seed: int, size: int) -> None:
    """A set is in another order when something may stop, or a miss is not counted.

    Whatever the TLB holds when the span begins, and from four ways and 16 sets up.
    """
    rng = random.Random(seed)  # noqa: S311 - not for secrets
    accesses, window = stream(rng, size), rng.choice((size, size, 90, 200))
    window = max(window, -(-size // SPAN_WINDOWS))
    check_span(kept(accesses, window, PythonReducer()), rng, stream(rng, 200))


def test_a_long_span_leaves_the_same_tlb() -> None:
    """A filter's pages or orders are mixed up in spans as long as those of files."""
    rng = random.Random(0)  # noqa: S311 - not for secrets
    accesses = [(rng.randrange(WAYS * SETS), rng.choice(KINDS)) for _ in range(3 * WINDOW)]
    for at in range(0, len(accesses), 500):
        accesses[at] = 1000 + at, READ
    made = kept(accesses, WINDOW, fastest.make_reducer())
    assert len(made.own) < len(made.near) / 2
    check_span(made, rng, stream(rng, 500))


@given(seed=st.integers(0, 1 << 32), size=st.integers(1, 600))
def test_what_windows_keep_leaves_the_same_tlb(seed: int, size: int) -> None:
    """After a stop something else is counted: near accesses must do from any window on.

    Here from a TLB of any ways up, and with the accesses before a window on one side only.
    """
    rng = random.Random(seed)  # noqa: S311 - not for secrets
    accesses, window = stream(rng, size), max(60, -(-size // SPAN_WINDOWS))
    near = set(kept(accesses, window, PythonReducer()).near)
    start = rng.randrange(size)
    rest = min(-(-(start + 1) // window) * window, size)
    for levels in LEVELS + NARROW:
        whole, some = pair(rng, levels, stream(rng, 200))
        for at, (page, kind) in enumerate(accesses[start:], start):
            before = some.state() == whole.state()
            assert before
            plain = whole.access(page, kind)
            if at < rest or at in near:
                assert some.access(page, kind) == plain


def test_what_is_kept_for_order_alone_is_little() -> None:
    """The filter keeps all that is near, and the tests above find nothing wrong with it."""
    rng = random.Random(0)  # noqa: S311 - not for secrets
    pages = [1, 17, 33, 49]
    accesses = [(rng.choice(pages), READ) for _ in range(2000)]
    made = kept(accesses, WINDOW, PythonReducer())
    assert len(made.near) > 1000
    # each page's first; before it what orders those before; all at the end
    assert len(made.own) <= 4 + 1 + 2 + 3
    last = {accesses[at][0]: at for at in made.near}
    assert set(made.own[-3:]) < set(last.values())


# C and Python.


def reduced(reducer: Reducer, windows: Iterable[list[Access]]) -> Iterator[Any]:
    """Yield all that a reducer tells, span by span, of windows in chunks as a writer's are."""
    for nth, window in enumerate(windows, 1):
        if not reducer.has_room:
            yield reducer.end_span(), reducer.listed, reducer.tally
            reducer.next_chunk()
        reducer.window(*columns_of(window))
        if nth % SPAN_WINDOWS == 0:
            yield reducer.end_span(), reducer.has_room
    yield reducer.end_span(), reducer.listed, reducer.tally


@in_c
@settings(deadline=None)
@given(seed=st.integers(0, 1 << 32), sizes=st.lists(st.integers(1, 400), min_size=1, max_size=20))
def test_compiled_reduces_as_python(seed: int, sizes: list[int]) -> None:
    """C and Python disagree about what may be left out, or about how it is told."""
    rng = random.Random(seed)  # noqa: S311 - not for secrets
    windows = [
        [(page, kind | SECOND * (rng.random() < 0.01)) for page, kind in stream(rng, size)]
        for size in sizes
    ]
    python, compiled = PythonReducer(), fastest.make_reducer()
    assert list(reduced(python, windows)) == list(reduced(compiled, windows))


def sweep(rng: random.Random, first: int, count: int) -> list[Access]:
    """Make a window of so many new pages, and some that may be known or forgotten by now."""
    made = [(page, READ) for page in range(first, first + count)]
    return made + [(rng.randrange(first + 1), READ) for _ in range(WINDOW - count)]


@in_c
def test_the_ring_of_sites_in_c_and_python() -> None:
    """C and Python disagree about which site gives way, or C no longer finds those that stay."""
    rng = random.Random(3)  # noqa: S311 - not for secrets
    windows = [sweep(rng, n * 4000, 4000) for n in range(40)]
    python, compiled = PythonReducer(), fastest.make_reducer()
    chunks = 0
    for one, two in itertools.zip_longest(reduced(python, windows), reduced(compiled, windows)):
        assert one == two
        chunks += len(one) == 3
    assert chunks > 2


def test_a_chunk_ends_before_its_sites_do() -> None:
    """A window is taken for whose pages a chunk has no sites, or one is sent away too early."""
    for reducer in (PythonReducer(), fastest.make_reducer()):
        for window in range(16):
            assert reducer.has_room, window
            reducer.window(*columns_of(sweep(random, window * WINDOW, WINDOW)))  # type: ignore[arg-type]
            if window % SPAN_WINDOWS == SPAN_WINDOWS - 1:
                reducer.end_span()
        assert not reducer.has_room
        slots, gva, _ = reducer.listed
        assert list(slots) == list(range(16 * WINDOW))
        reducer.next_chunk()
        assert reducer.has_room
        reducer.window(*columns_of([(5, READ), (16 * WINDOW, READ), (0, READ), (7, WRITE)]))
        sites, _, _ = reducer.end_span()
        slots, gva, kinds = reducer.listed
        # 5 and 0 are known; the first new one takes the place of page 0, which is listed again
        assert [va // PAGE_SIZE for va in gva] == [16 * WINDOW, 0, 7]
        assert list(slots) == [0, 1, 2]
        assert list(kinds) == [READ, READ, WRITE]
        assert list(sites) == [5, 0, 1, 2]


def test_a_site_in_use_does_not_give_way() -> None:
    """An access of a chunk is read as one of a page that came later in it."""
    ring = Ring()
    for key in range(1 << 16):
        ring.site(key, key, READ)
    ring.next_chunk()
    used = [ring.site(key, key, READ) for key in (0, 1, 3)]
    assert used == [0, 1, 3]
    assert [ring.site(1 << 20 | n, n, READ) for n in range(3)] == [2, 4, 5]
    assert ring.used == 6


@in_c
def test_windows_that_c_refuses() -> None:
    """A span of too many windows, or an empty one, is written past the end of its arrays."""
    reducer = fastest.make_reducer()
    gva, kind = columns_of([(1, READ)])
    for _ in range(SPAN_WINDOWS):
        reducer.window(gva, kind)
    for wrong in ((gva, kind), (gva[:0], kind[:0]), (gva * (WINDOW + 1), kind * (WINDOW + 1))):
        with pytest.raises(ValueError, match="no room"):
            reducer.window(*wrong)
    reducer.end_span()
    with pytest.raises(ValueError, match="no room"):
        reducer.window(gva[:0], kind[:0])
    with pytest.raises(ValueError, match="no room"):
        reducer.window(gva * (WINDOW + 1), kind * (WINDOW + 1))


def told(make: Callable[[], Any]) -> Any:  # noqa: ANN401 - what it makes
    """Return what is made, or what is wrong with what it is made of."""
    try:
        return make()
    except DamagedError as error:
        return str(error)


def listed(pages: list[Access]) -> Sites:
    """Return sites that begin with these."""
    sites = no_sites()
    for at, (page, kind) in enumerate(pages):
        sites.gva[at], sites.kind[at] = page * PAGE_SIZE, kind
    return sites


TOKENS = st.binary(max_size=40) | st.lists(
    st.sampled_from([0, 1, 17, 40, 224, 225, 231, 237, 238, 239, 240, 241]), max_size=40
).map(bytes)
PAGES = st.lists(st.tuples(st.integers(1, 40), st.sampled_from(KINDS)), max_size=4)


@in_c
@given(tokens=TOKENS, pages=PAGES, room=st.integers(1, 60), first=st.integers(0, 4))
def test_compiled_expands_as_python(
    tokens: bytes, pages: list[Access], room: int, first: int
) -> None:
    """C believes tokens that Python refuses, writes past its arrays, or makes other accesses."""
    sites, near = listed(pages), array("H", range(len(pages)))
    columns = Columns(near, array("I", (0, len(near))), array("I", (0, len(tokens))), tokens)
    one = told(
        lambda: spans.compiled.expanded(columns, sites, room, 0, first=first, mark=SECOND)  # type: ignore[union-attr]
    )
    two = told(lambda: python_expand(tokens, near, sites, room, first=first, mark=SECOND))
    assert one == two


@in_c
@given(
    windows=st.integers(1, 3),
    frame=st.lists(
        st.sampled_from([bytes(2), b"\1\0", b"\2\0", b"\3\0", b"\0\x10", b"\1\x10"])
        | st.binary(min_size=1, max_size=3),
        max_size=30,
    ).map(b"".join),
    own=st.lists(st.integers(0, 5), max_size=6),
)
def test_compiled_opens_as_python(windows: int, frame: bytes, own: list[int]) -> None:
    """C reads past a frame that tells of more than it holds, or believes what Python does not."""
    sites, sites_kept = listed([(n, READ) for n in range(1, 5)]), array("H", own)
    one = told(lambda: spans.compiled.opened(frame, windows, sites_kept, sites))  # type: ignore[union-attr]
    two = told(lambda: python_open(frame, windows, sites_kept, sites))
    assert one == two
    if not isinstance(two, str):
        for nth in range(len(own)):
            at = near_of(frame, windows, nth)
            assert spans.compiled.near_of(frame, windows, nth) == at  # type: ignore[union-attr]
            assert two.near[at] == own[nth]


def test_every_message_can_be_had() -> None:
    """Something that a span may have wrong is not found, or told as something else."""
    sites, one = listed([(1, READ)]), array("H", [0])
    said = {
        told(lambda: python_expand(bytes([231 + 1]), one, sites, 9, first=0, mark=0)),
        told(lambda: python_expand(bytes([0]), one, sites, 9, first=0, mark=0)),
        told(lambda: python_expand(bytes([224, 224]), one, sites, 9, first=0, mark=0)),
        told(lambda: python_expand(bytes([224, 1]), one, sites, 1, first=0, mark=0)),
        told(lambda: python_expand(b"", one, sites, 1, first=0, mark=0)),
        told(lambda: python_open(b"", 1, one, sites)),
        told(lambda: python_open(bytes(4), 1, one, sites)),
        told(lambda: python_open(b"\1\0\0\0\1", 1, array("H", [9]), sites)),
    }
    assert said == {message for message in MESSAGES if message}
    assert pf.U == READ  # whose numbers the tokens above are of
