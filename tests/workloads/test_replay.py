"""Running a reduced step over any runner: the accesses run after a stop, and where it goes on."""

from __future__ import annotations

from array import array
from typing import TYPE_CHECKING

import attrs
import pytest

from hvmmu._trace.replay import run_reduced
from hvmmu.engine import EngineCaps
from hvmmu.steps import Accesses, ReducedAccesses, Tail

if TYPE_CHECKING:
    from collections.abc import Iterator

    from hvmmu.steps import Words
    from hvmmu.types import Buffer

EVERY = array("Q", range(12))
"""All addresses of a step with two spans of six accesses."""
KEPT = array("Q", (0, 3, 6, 8, 10))
STARTS = (0, 0, 2, 2, 2)
"""By kept access, the first kept access of its span."""
FIXUP = 100


@attrs.frozen
class SpanTail(Tail):
    """The rest of a span of six accesses."""

    at: int

    @property
    def next_kept(self) -> int:
        """The next span's first kept access, or the end."""
        return 2 if self.at < 2 else 5

    def lru_fixup(self) -> Accesses:
        """Return an access that no other one equals."""
        return Accesses(array("Q", [FIXUP + self.at]), array("B", [0]))

    def remaining(self) -> Iterator[Accesses]:
        """Yield all from the kept one to the end of its span, in two pieces."""
        start, end = KEPT[self.at], 6 if self.at < 2 else 12
        for gva in (EVERY[start : start + 2], EVERY[start + 2 : end]):
            yield Accesses(gva, array("B", bytes(len(gva))))


STEP = ReducedAccesses(array("H", range(5)), KEPT, bytes(5), 12, 16, 4, SpanTail)


@attrs.define
class Runner:
    """Records what it is called to run, and stops at the addresses in `stops`."""

    stops: dict[int, bool]
    ran: list[int] = attrs.field(factory=list)
    stopped: int = -1

    def run_until_stop(self, kept: Words, slot_gva: Words, slot_kind: Buffer, start: int) -> int:
        """Stop at the addresses in `stops`."""
        del slot_kind
        vas = [slot_gva[slot] for slot in kept]
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

    def run_span_tail(self, tail: object) -> bool:
        """Be asked for no tail but an .hvt file's."""
        raise AssertionError(tail)

    def run_all(self, gva: Buffer, kind: Buffer, start: int) -> None:
        """Run all."""
        assert len(memoryview(gva)) == len(memoryview(kind))
        self.ran += memoryview(gva)[start:]


@pytest.mark.parametrize("done", [False, True])
@pytest.mark.parametrize(
    ("stops", "ran"),
    [
        ([], [0, 3, 6, 8, 10]),
        ([0], [100, 0, 1, 2, 3, 4, 5, 6, 8, 10]),
        ([3], [0, 101, 3, 4, 5, 6, 8, 10]),
        ([0, 3], [100, 0, 1, 2, 3, 4, 5, 6, 8, 10]),
        ([8], [0, 3, 6, 103, 8, 9, 10, 11]),
        ([3, 6], [0, 101, 3, 4, 5, 102, 6, 7, 8, 9, 10, 11]),
    ],
)
def test_what_is_run_after_a_stop(stops: list[int], ran: list[int], done: bool) -> None:
    """An access runs twice or never, or one that the filter dropped does not run after a stop."""
    runner = Runner(dict.fromkeys(stops, done))
    run_reduced(runner, STEP, EngineCaps(lru_sets=16, lru_ways=4))
    assert runner.ran == ran


@pytest.mark.parametrize(("lru_sets", "lru_ways"), [(0, 0), (8, 4), (16, 0), (16, 3)])
def test_too_few_sets_or_ways(lru_sets: int, lru_ways: int) -> None:
    """An engine runs reduced accesses though its TLB is smaller than they need, or unknown."""
    runner = Runner({3: True})
    run_reduced(runner, STEP, EngineCaps(lru_sets=lru_sets, lru_ways=lru_ways))
    assert runner.ran == list(EVERY)
