"""Prefetch: a fault builds the neighbours that the guest uses already, and no others."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

from hvmmu.arch import pte
from hvmmu.fault import Route

if TYPE_CHECKING:
    from collections.abc import Callable

    from conftest import Bench

VA = 0x7F00_0000_0000
FRAME = 0x10_0000
RW = pte.P | pte.W | pte.U
PAGES = 24


def mapped(build: Callable[..., Bench], prefetch: int, entry: int = RW | pte.A | pte.D) -> Bench:
    """Return a bench whose guest maps PAGES pages by like entries."""
    bench = build(prefetch=prefetch)
    for page in range(PAGES):
        bench.map(VA + (page << 12), FRAME + (page << 12) | entry)
    bench.load()
    return bench


@pytest.mark.parametrize("prefetch", range(9))
def test_one_fault_a_group(build: Callable[..., Bench], prefetch: int) -> None:
    """If wrong, the parameter changes nothing, or a group begins somewhere else."""
    bench = mapped(build, prefetch)
    faults = [bench.access(VA + (page << 12), bench.WRITE).routes for page in range(PAGES)]
    group = max(prefetch, 1)
    assert faults == [[] if page % group else [Route.INSTALL] for page in range(PAGES)]
    bench.audit()


def test_neighbours_that_are_not_accessed_stay_unbuilt(build: Callable[..., Bench]) -> None:
    """If wrong, the guest misses an accessed bit."""
    bench = mapped(build, 8, RW)
    for page in range(8):
        assert bench.access(VA + (page << 12), bench.READ).routes == [Route.INSTALL]
        assert bench.gpte(VA + (page << 12)) & pte.A
    assert not bench.gpte(VA + (8 << 12)) & pte.A


def test_a_clean_neighbour_is_built_read_only(build: Callable[..., Bench]) -> None:
    """If wrong, the guest misses a dirty bit."""
    bench = mapped(build, 8, RW | pte.A)
    assert bench.access(VA, bench.READ).routes == [Route.INSTALL]
    assert bench.access(VA + 0x1000, bench.READ).routes == []
    assert bench.access(VA + 0x1000, bench.WRITE).routes == [Route.ACCESSED_DIRTY]
    assert bench.gpte(VA + 0x1000) & pte.D


def test_absent_and_reserved_neighbours_stay_as_they_are(build: Callable[..., Bench]) -> None:
    """If wrong, an entry maps a page that the guest's own does not."""
    bench = mapped(build, 8)
    bench.map(VA + 0x1000, FRAME | RW & ~pte.P | pte.A)
    bench.map(VA + 0x2000, pte.ADDRESS | RW | pte.A)
    bench.access(VA, bench.READ)
    assert bench.access(VA + 0x1000, bench.READ).gpa is None
    assert bench.access(VA + 0x2000, bench.READ).gpa is None
    bench.audit()
