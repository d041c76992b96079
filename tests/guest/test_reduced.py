"""Running reduced accesses: what is run after a stop, and where it goes on."""

from __future__ import annotations

from array import array
from typing import TYPE_CHECKING

import attrs
import pytest

from hvmmu._trace.replay import run_reduced
from hvmmu.engine import EngineCaps
from hvmmu.steps import Accesses, Reduced, Rest

if TYPE_CHECKING:
    from collections.abc import Iterator

    from hvmmu.steps import Words
    from hvmmu.types import Buffer

WINDOW = 4
EVERY = array("Q", range(12))
KEPT = array("Q", (0, 2, 4, 7, 8))
STARTS = (0, 2, 4, 5)
"""Where among the kept ones each window of four starts."""


@attrs.frozen
class Whole(Rest):
    """The rest of a window, which is run whole."""

    at: int

    @property
    def following(self) -> int:
        """The next window's first."""
        return STARTS[KEPT[self.at] // WINDOW + 1]

    def before(self) -> Accesses:
        """Return nothing."""
        return Accesses(array("Q"), array("B"))

    def parts(self) -> Iterator[Accesses]:
        """Yield all from the kept one to the end of its window."""
        gva = EVERY[KEPT[self.at] : KEPT[self.at] // WINDOW * WINDOW + WINDOW]
        yield Accesses(gva, array("B", bytes(len(gva))))


STEP = Reduced(array("H", range(5)), KEPT, bytes(5), 12, 16, 1, Whole)


@attrs.frozen
class Nested(Rest):
    """The rest of a span of all windows: that of a window, and the others reduced."""

    at: int
    following: int = 2

    def before(self) -> Accesses:
        """Return an access that is told from all others."""
        return Accesses(array("Q", [100 + self.at]), array("B", [0]))

    def parts(self) -> Iterator[Accesses | Reduced]:
        """Yield the rest of the first window, and what the windows' filters keep of the others."""
        at = (0, 3)[self.at]
        yield from Whole(at).parts()
        start = Whole(at).following
        near = array("H", range(start, 5))

        @attrs.frozen
        class Others(Whole):
            @property
            def following(self) -> int:
                return STARTS[KEPT[self.at] // WINDOW + 1] - start

        if near:
            accesses = 12 - KEPT[start] // WINDOW * WINDOW
            yield Reduced(near, KEPT, bytes(5), accesses, 16, 1, lambda nth: Others(start + nth))


SPAN = Reduced(array("H", (0, 3)), KEPT, bytes(5), 12, 16, 4, Nested)
"""All windows as one span, whose filter keeps two of the five."""


@attrs.define
class Runner:
    """Writes down what it is asked to run."""

    stops: dict[int, bool]
    ran: list[int] = attrs.field(factory=list)
    stopped: int = -1

    def run_to_stop(self, kept: Words, site_gva: Words, site_kind: Buffer, start: int) -> int:
        """Stop at the addresses in `stops`."""
        del site_kind
        vas = [site_gva[site] for site in kept]
        for at in range(start, len(vas)):
            if vas[at] in self.stops:
                self.stopped = vas[at]
                return at
            self.ran.append(vas[at])
        return len(vas)

    def handle_stop(self, gva: Buffer, kind: Buffer) -> bool:
        """Complete the access if `stops` says so."""
        assert len(memoryview(gva)) == len(memoryview(kind))
        done = self.stops[self.stopped]
        self.ran += [*memoryview(gva), *[self.stopped] * done]
        return done

    def run_spans(self, step: object) -> bool:
        """Have no way of its own."""
        del step
        return False

    def run_on(self, gva: Buffer, kind: Buffer, start: int) -> None:
        """Run all."""
        assert len(memoryview(gva)) == len(memoryview(kind))
        self.ran += memoryview(gva)[start:]


@pytest.mark.parametrize("done", [False, True])
@pytest.mark.parametrize(
    ("stops", "ran"),
    [
        ([], [0, 2, 4, 7, 8]),
        ([0], [0, 1, 2, 3, 4, 7, 8]),
        ([2], [0, 2, 3, 4, 7, 8]),
        ([7], [0, 2, 4, 7, 8]),
        ([2, 4], [0, 2, 3, 4, 5, 6, 7, 8]),
        ([8], [0, 2, 4, 7, 8, 9, 10, 11]),
    ],
)
def test_what_is_run_after_a_stop(stops: list[int], ran: list[int], done: bool) -> None:
    """An access is run twice or never, or what was left out after a stop is not made up for."""
    runner = Runner(dict.fromkeys(stops, done))
    run_reduced(runner, STEP, EngineCaps(lru_sets=16, lru_ways=1))
    assert runner.ran == ran


@pytest.mark.parametrize("done", [False, True])
@pytest.mark.parametrize(
    ("stops", "ran"),
    [
        ([], [0, 7]),
        ([0], [100, 0, 1, 2, 3, 4, 7, 8]),
        ([7], [0, 101, 7, 8]),
        ([0, 4], [100, 0, 1, 2, 3, 4, 5, 6, 7, 8]),
        ([0, 8], [100, 0, 1, 2, 3, 4, 7, 8, 9, 10, 11]),
        ([7, 8], [0, 101, 7, 8, 9, 10, 11]),
    ],
)
def test_what_is_run_of_a_span_after_a_stop(stops: list[int], ran: list[int], done: bool) -> None:
    """What a span's filter left out is not run though something has stopped, or is run whole."""
    runner = Runner(dict.fromkeys(stops, done))
    run_reduced(runner, SPAN, EngineCaps(lru_sets=16, lru_ways=4))
    assert runner.ran == ran


@pytest.mark.parametrize(("lru_sets", "lru_ways"), [(0, 0), (8, 4), (16, 0)])
def test_too_few_sets(lru_sets: int, lru_ways: int) -> None:
    """An engine is given the reduced accesses though its TLB has fewer sets, or nobody knows."""
    for step in (STEP, SPAN):
        runner = Runner({4: True})
        run_reduced(runner, step, EngineCaps(lru_sets=lru_sets, lru_ways=lru_ways))
        assert runner.ran == list(EVERY)


def test_too_few_ways() -> None:
    """What only four ways make exact is left out with two, or all is run where windows would do."""
    runner = Runner({})
    run_reduced(runner, SPAN, EngineCaps(lru_sets=16, lru_ways=2))
    assert runner.ran == [0, 1, 2, 3, 4, 7, 8]
    assert list(SPAN.whole()) == [*STEP.whole()]
