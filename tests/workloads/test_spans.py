"""The two filters themselves: what they keep leaves every TLB as the whole trace would."""

from __future__ import annotations

import copy
import random
import struct
from array import array
from typing import TYPE_CHECKING, Any

import attrs
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from hvmmu._trace.grammar import (
    FETCH_TOKEN,
    KEPT,
    MESSAGES,
    RUN,
    SECOND_NEXT,
    SETS,
    SPAN_WINDOWS,
    STRADDLES,
    WAYS,
    WINDOW,
)
from hvmmu._trace.hvt.layout import DamagedError
from hvmmu._trace.hvt.reducer import Reducer
from hvmmu._trace.page_slots import PageSlots
from hvmmu._trace.span import PackedSpan, Span
from hvmmu.arch.pfec import USER_FETCH as FETCH
from hvmmu.arch.pfec import USER_READ as READ
from hvmmu.arch.pfec import USER_WRITE as WRITE
from hvmmu.spec.tlb import Tlb, TlbEntry, tag_of
from hvmmu.tlb import Geometry, TlbGeometry
from hvmmu.types import PAGE_SIZE

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable

KINDS = (READ, WRITE, FETCH)
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
    """A span as the reducer made it, and where in it each filter keeps an access."""

    accesses: list[Access]
    near: list[int]
    own: list[int]
    span: Span


def listed(reducer: Reducer, slots: PageSlots | None = None) -> PageSlots:
    """Return page slots with the pairs that the reducer's chunk lists."""
    made = slots or PageSlots.empty()
    made.list_pairs(*reducer.listed)
    return made


def kept(accesses: list[Access], window: int) -> Kept:
    """Reduce a span of windows shorter than a file's."""
    reducer, (gva, kind) = Reducer(), columns_of(accesses)
    starts = range(0, len(gva), window)
    for start in starts:
        reducer.add_window(gva[start : start + window], kind[start : start + window])
    span_kept, window_kept, stored = reducer.end_span()
    places = near_places(accesses, window)
    assert len(places) == window_kept
    packed = PackedSpan(stored, span_kept, listed(reducer), len(starts) * WINDOW, DamagedError)
    span = packed.unpacked()
    own = [places[span.window_kept_of(nth)] for nth in range(len(span_kept))]
    slots = packed.slots
    assert [(slots.gva[slot] // PAGE_SIZE, slots.kind[slot]) for slot in span.window_kept] == [
        accesses[at] for at in places
    ]
    return Kept(accesses, places, own, span)


class Cached:
    """The reference TLB alone: every page is mapped, and allows every access."""

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
                order = made.span.lru_fixup(made.near.index(at))
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
    check_span(kept(accesses, window), rng, stream(rng, 200))


def test_a_long_span_leaves_the_same_tlb() -> None:
    """A filter's pages or orders are mixed up in spans as long as those of files."""
    rng = random.Random(0)  # noqa: S311 - not for secrets
    accesses = [(rng.randrange(WAYS * SETS), rng.choice(KINDS)) for _ in range(3 * WINDOW)]
    for at in range(0, len(accesses), 500):
        accesses[at] = 1000 + at, READ
    made = kept(accesses, WINDOW)
    assert len(made.own) < len(made.near) / 2
    check_span(made, rng, stream(rng, 500))


@given(seed=st.integers(0, 1 << 32), size=st.integers(1, 600))
def test_what_windows_keep_leaves_the_same_tlb(seed: int, size: int) -> None:
    """After a stop something else is counted: near accesses must do from any window on.

    Here from a TLB of any ways up, and with the accesses before a window on one side only.
    """
    rng = random.Random(seed)  # noqa: S311 - not for secrets
    accesses, window = stream(rng, size), max(60, -(-size // SPAN_WINDOWS))
    near = set(kept(accesses, window).near)
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
    made = kept(accesses, WINDOW)
    assert len(made.near) > 1000
    # each page's first; before it what orders those before; all at the end
    assert len(made.own) <= 4 + 1 + 2 + 3
    last = {accesses[at][0]: at for at in made.near}
    assert set(made.own[-3:]) < set(last.values())


# Page slots.


def sweep(rng: random.Random, first: int, count: int) -> list[Access]:
    """Make a window of so many new pages, and some that may be known or forgotten by now."""
    made = [(page, READ) for page in range(first, first + count)]
    return made + [(rng.randrange(first + 1), READ) for _ in range(WINDOW - count)]


def test_slots_that_are_taken_over() -> None:
    """A slot is taken from a page that its chunk still uses, or a page is not found again."""
    rng = random.Random(3)  # noqa: S311 - not for secrets
    reducer, slots = Reducer(), PageSlots.empty()
    windows: list[list[Access]] = []
    spans: list[tuple[list[Access], array[int], bytes]] = []
    chunks = 0

    def end_span() -> None:
        span_kept, _, stored = reducer.end_span()
        spans.append(([access for window in windows for access in window], span_kept, stored))
        windows.clear()

    def end_chunk() -> None:
        listed(reducer, slots)
        for accesses, span_kept, stored in spans:
            span = PackedSpan(stored, span_kept, slots, len(accesses), DamagedError).unpacked()
            pages = [gva // PAGE_SIZE for n in range(span.windows) for gva in span.expanded(n).gva]
            assert pages == [page for page, _ in accesses]
        spans.clear()
        reducer.next_chunk()

    for nth in range(40):
        if not reducer.has_room:
            if windows:
                end_span()
            end_chunk()
            chunks += 1
        windows.append(sweep(rng, (nth + 1) * 4000, 4000))
        reducer.add_window(*columns_of(windows[-1]))
        if len(windows) == SPAN_WINDOWS:
            end_span()
    assert chunks > 1


def test_a_chunk_ends_before_its_slots_do() -> None:
    """A chunk takes a window although it has too few slots, or a page is sent away too early."""
    reducer = Reducer()
    for window in range(16):
        assert reducer.has_room, window
        reducer.add_window(*columns_of(sweep(random, window * WINDOW, WINDOW)))  # type: ignore[arg-type]
        if window % SPAN_WINDOWS == SPAN_WINDOWS - 1:
            reducer.end_span()
    assert not reducer.has_room
    slots, gva, _ = reducer.listed
    assert list(slots) == list(range(16 * WINDOW))
    reducer.next_chunk()
    assert reducer.has_room
    reducer.add_window(*columns_of([(5, READ), (16 * WINDOW, READ), (0, READ), (7, WRITE)]))
    sites, _, _ = reducer.end_span()
    slots, gva, kinds = reducer.listed
    # 5 and 0 are known; the first new one takes the place of page 0, which is listed again
    assert [va // PAGE_SIZE for va in gva] == [16 * WINDOW, 0, 7]
    assert list(slots) == [0, 1, 2]
    assert list(kinds) == [READ, READ, WRITE]
    assert list(sites) == [5, 0, 1, 2]


def test_a_slot_in_use_does_not_give_way() -> None:
    """An access of a chunk is read as one to a page that came later in it."""
    reducer = Reducer()
    for window in range(16):
        reducer.add_window(*columns_of(sweep(random, window * WINDOW, WINDOW)))  # type: ignore[arg-type]
        if window % SPAN_WINDOWS == SPAN_WINDOWS - 1:
            reducer.end_span()
    reducer.next_chunk()
    new = [(1 << 20 | n, READ) for n in range(3)]
    reducer.add_window(*columns_of([(0, READ), (1, READ), (3, READ), *new]))
    assert list(reducer.listed.slots) == [2, 4, 5]


def test_windows_that_are_refused() -> None:
    """A span of too many windows, or an empty one, is written past the end of its arrays."""
    reducer = Reducer()
    gva, kind = columns_of([(1, READ)])
    for _ in range(SPAN_WINDOWS):
        assert reducer.add_window(gva, kind) == 1
    with pytest.raises(ValueError, match="no room"):
        reducer.add_window(gva, kind)
    reducer.end_span()
    for vas, kinds, start in ((gva[:0], kind[:0], 0), (gva, kind, 1), (gva, kind * 2, 0)):
        with pytest.raises(ValueError, match="addresses with"):
            reducer.add_window(vas, kinds, start)
    assert reducer.add_window(gva * (WINDOW + 9), kind * (WINDOW + 9), 5) == WINDOW


# Tokens.


def slots_of(pages: Iterable[Access]) -> PageSlots:
    """Return page slots that begin with these pairs."""
    slots = PageSlots.empty()
    for at, (page, kind) in enumerate(pages):
        slots.gva[at], slots.kind[at] = page * PAGE_SIZE, kind
    return slots


def span_of(
    windows: list[tuple[int, bytes]], slots: PageSlots, accesses: int, own: bytes = b""
) -> PackedSpan:
    """Return a span of windows, each with so many kept accesses and these tokens.

    The kept ones have slots 0, 1, 2... A bit of *own* says that the span filter keeps one too.
    """
    total = sum(count for count, _ in windows)
    mask = own.ljust(-(-total // 8), b"\0")
    flags = [mask[n // 8] >> n % 8 & 1 for n in range(total)]
    others = array("H", (n for n in range(total) if not flags[n]))
    counts = [number for count, tokens in windows for number in (count, len(tokens))]
    stored = struct.pack(f"<{len(counts)}H", *counts) + mask + others.tobytes()
    stored += b"".join(tokens for _, tokens in windows)
    kept = array("H", (n for n in range(total) if flags[n]))
    return PackedSpan(stored, kept, slots, accesses, DamagedError)


TOKENS = st.binary(max_size=40) | st.lists(
    st.sampled_from([0, 1, 17, 40, 224, 225, 231, 237, 238, 239, 240, 241]), max_size=40
).map(bytes)
PAGES = st.lists(st.tuples(st.integers(1, 40), st.sampled_from(KINDS)), min_size=1, max_size=4)


@given(tokens=TOKENS, pages=PAGES, room=st.integers(1, 60), at=st.integers(0, 4))
def test_tokens_that_no_reduction_made(
    tokens: bytes, pages: list[Access], room: int, at: int
) -> None:
    """Damaged tokens give accesses to other pages, or another number of them."""
    span = span_of([(len(pages), tokens)], slots_of(pages), room).unpacked()
    try:
        gva, kind, where = span.expanded(0, at, STRADDLES)
    except DamagedError as error:
        assert str(error) in MESSAGES[1:]  # noqa: PT017 - some tokens are good
        return
    assert len(gva) == len(kind) == room
    assert where < room
    assert [va // PAGE_SIZE for va in gva if va // PAGE_SIZE not in dict(pages)] == []
    assert {k & ~STRADDLES for k in kind} <= set(KINDS)


@settings(deadline=None)
@given(
    windows=st.integers(1, 3),
    stored=st.lists(
        st.sampled_from([bytes(2), b"\1\0", b"\2\0", b"\3\0", b"\0\x10", b"\1\x10"])
        | st.binary(min_size=1, max_size=3),
        max_size=30,
    ).map(b"".join),
    own=st.lists(st.integers(0, 5), max_size=6),
)
def test_spans_that_no_reduction_made(windows: int, stored: bytes, own: list[int]) -> None:
    """A span with counts beyond its size is read past its end."""
    slots = slots_of((n, READ) for n in range(1, 5))
    packed = PackedSpan(stored, array("H", own), slots, windows * WINDOW, DamagedError)
    try:
        span = packed.unpacked()
    except DamagedError as error:
        assert str(error) in MESSAGES[1:]  # noqa: PT017 - some are good
        return
    assert [span.window_kept[span.window_kept_of(nth)] for nth in range(len(own))] == own
    assert all(slot < 4 for slot in span.window_kept)


ONE = slots_of([(1, READ)])
DAMAGED: dict[str, Callable[[], Any]] = {
    "a fetch repeats none": lambda: span_of([(1, bytes([RUN + 1]))], ONE, 9).unpacked().expanded(0),
    "a data access repeats none": lambda: span_of([(1, b"\0")], ONE, 9).unpacked().expanded(0),
    "more accesses are kept than there are": (
        lambda: span_of([(1, bytes([KEPT, KEPT]))], ONE, 9).unpacked().expanded(0)
    ),
    "a window has too many accesses": (
        lambda: span_of([(1, bytes([KEPT, 1]))], ONE, 1).unpacked().expanded(0)
    ),
    "a window has too few accesses": lambda: span_of([(1, b"")], ONE, 1).unpacked().expanded(0),
    "a span has another size than its counts say": (
        lambda: PackedSpan(b"", array("H"), ONE, 1, DamagedError).unpacked()
    ),
    "a window keeps no access": lambda: span_of([(0, b"")], ONE, 1).unpacked(),
    "an access is to a page that is not listed": lambda: span_of([(2, b"")], ONE, 9).unpacked(),
}


def test_every_kind_of_damage() -> None:
    """Damage is not found, or a message is of another kind of damage."""
    assert set(DAMAGED) == set(MESSAGES[1:])
    for message, read in DAMAGED.items():
        with pytest.raises(DamagedError, match=f"^{message}$"):
            read()


def test_each_token() -> None:
    """A token stands for other accesses than the format says."""
    pages = [(2, FETCH), (3, READ), (5, WRITE)]
    tokens = [
        (KEPT, [(2, FETCH)]),
        (RUN + 3, [(2, FETCH)] * 3),
        (KEPT + 2, [(2, FETCH)] * 2 + [(3, READ)]),
        (FETCH_TOKEN + 2, [(2, FETCH)]),
        (SECOND_NEXT, []),
        (KEPT, [(5, WRITE | STRADDLES)]),
        (6 * 2 * SETS + 3, [(2, FETCH)] * 6 + [(3, READ)]),
        (SECOND_NEXT, []),
        (2 * SETS + SETS + 5, [(2, FETCH | STRADDLES), (5, WRITE)]),
    ]
    expected = [access for _, some in tokens for access in some]
    raw = bytes(token for token, _ in tokens)
    span = span_of([(3, raw)], slots_of(pages), len(expected)).unpacked()
    for at, where in enumerate((0, 6, 8)):
        found = span.expanded(0, at, STRADDLES)
        assert [
            (va // PAGE_SIZE, k) for va, k in zip(found.gva, found.kind, strict=True)
        ] == expected
        assert found.where == where
    assert list(span.expanded(0).kind) == [kind & ~STRADDLES for _, kind in expected]


def test_the_rest_of_a_span() -> None:
    """Accesses are lost or run twice behind a kept one, or at a window's edge."""
    rng = random.Random(5)  # noqa: S311 - not for secrets
    reducer, accesses = Reducer(), stream(rng, 2 * WINDOW + 90)
    gva, kind = columns_of(accesses)
    for start in range(0, len(gva), WINDOW):
        reducer.add_window(gva, kind, start)
    span_kept, _, stored = reducer.end_span()
    packed = PackedSpan(stored, span_kept, listed(reducer), len(gva), DamagedError)
    span, places = packed.unpacked(), near_places(accesses, WINDOW)
    assert span.windows == 3
    for at in {*range(0, len(places), 37), *span.kept_ends[:-1], len(places) - 1}:
        rest = [
            (va // PAGE_SIZE, k)
            for part in span.from_kept(at)
            for va, k in zip(part.gva, part.kind, strict=True)
        ]
        assert rest == accesses[places[at] :]
