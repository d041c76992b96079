"""Running reduced accesses: what is run after a stop, and where it goes on."""

from __future__ import annotations

from array import array
from typing import TYPE_CHECKING

import attrs
import pytest

from hvmmu.guest.reduced import run_reduced
from hvmmu.guest.steps import Reduced

if TYPE_CHECKING:
    from hvmmu.guest.steps import Words
    from hvmmu.types import Buffer

WINDOW = 4
EVERY = array("Q", range(12))
KEPT = array("Q", (0, 2, 4, 7, 8))
STARTS = (0, 2, 4, 5)
"""Where among the kept ones each window of four starts."""


def rest(at: int) -> tuple[array[int], array[int], int]:
    """Return all from a kept one to the end of its window, and the next window's first."""
    end = KEPT[at] // WINDOW * WINDOW + WINDOW
    gva = EVERY[KEPT[at] : end]
    return gva, array("B", bytes(len(gva))), STARTS[end // WINDOW]


STEP = Reduced(array("H", range(5)), KEPT, bytes(5), 12, 16, rest)


@attrs.define
class Runner:
    """Writes down what it is asked to run."""

    stops: dict[int, bool]
    ran: list[int] = attrs.field(factory=list)

    def run_to_stop(
        self, kept: Words, site_gva: Words, site_kind: Buffer, start: int
    ) -> tuple[int, bool]:
        """Stop at the addresses in `stops`, completing the access if it says so."""
        del site_kind
        vas = [site_gva[site] for site in kept]
        for at in range(start, len(vas)):
            if vas[at] in self.stops:
                done = self.stops[vas[at]]
                self.ran += [vas[at]] * done
                return at, done
            self.ran.append(vas[at])
        return len(vas), False

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
    run_reduced(runner, STEP, lru_sets=16)
    assert runner.ran == ran


@pytest.mark.parametrize("lru_sets", [0, 8])
def test_too_few_sets(lru_sets: int) -> None:
    """An engine is given the reduced accesses though its TLB has fewer sets, or nobody knows."""
    runner = Runner({4: True})
    run_reduced(runner, STEP, lru_sets=lru_sets)
    assert runner.ran == list(EVERY)
