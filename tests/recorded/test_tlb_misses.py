"""The TLB's misses against cachegrind's of the same programs, to the unit."""

from __future__ import annotations

import json
import shutil
import sys
from pathlib import Path
from typing import TYPE_CHECKING

import attrs
import pytest

from hvmmu._engines import DEFAULT
from hvmmu._native import NativeBackend
from hvmmu._plugins import load
from hvmmu.arch import pfec as pf
from hvmmu.spec.engine import ReferenceEngine

sys.path.insert(0, str(Path(__file__).parents[2] / "benchmarks"))

import misses
import peer_programs

if TYPE_CHECKING:
    from collections.abc import Iterable

RECORDED = Path(__file__).with_name("tlb")
CACHEGRIND = {
    name: misses.Counts(**counts)
    for name, counts in json.loads((RECORDED / "cachegrind.json").read_text()).items()
}
PROGRAMS = ["sort", "sqlite3", "hash-table"]
BACKENDS = ["native", "svm", "vmx"]


def trace(name: str) -> Path:
    """Return the recorded trace of a program."""
    return RECORDED / f"{name}.hvt.xz"


@pytest.mark.parametrize("backend", BACKENDS)
@pytest.mark.parametrize("name", PROGRAMS)
def test_recorded_programs(name: str, backend: str) -> None:
    """A TLB of ours that misses more or less often than a cache of its shape is no LRU TLB."""
    known = load().backends
    if backend not in known:
        pytest.skip(f"the backend {backend} is not installed")
    assert misses.ours(trace(name), known[backend]) == CACHEGRIND[name]


def test_no_reference_missed_twice() -> None:
    """If one had in these programs, equal numbers would come of two mistakes."""
    assert {misses.doubles(trace(name)) for name in PROGRAMS} == {misses.Doubles()}


def test_unreduced() -> None:
    """The accesses that the compact trace leaves out would miss after all."""
    for name in PROGRAMS:
        assert misses.ours(trace(name), reduced=False) == CACHEGRIND[name]


def test_readable_engine() -> None:
    """The engine that explains the TLB would explain another one."""
    counts = misses.ours(trace("sort"), NativeBackend, ReferenceEngine)
    assert counts == CACHEGRIND["sort"]


class Cache:
    """One level of cachegrind's, of lines as long as a page: within a set the latest is first."""

    def __init__(self, sets: int, ways: int) -> None:
        """Start empty."""
        self.ways: list[list[int]] = [[] for _ in range(sets)]
        self.limit = ways

    def misses(self, page: int) -> bool:
        """Make *page* the latest, and tell if it was not there."""
        ways = self.ways[page % len(self.ways)]
        if ways and ways[0] == page:
            return False
        hit = page in ways
        if hit:
            ways.remove(page)
        elif len(ways) == self.limit:
            ways.pop()
        ways.insert(0, page)
        return not hit


def model(references: Iterable[tuple[int, list[int]]], *, asks_for_both: bool) -> misses.Counts:
    """Return what references, each a kind and its pages, miss.

    *asks_for_both* is cachegrind's rule: where one page of two misses in the first level, the last
    one is asked for both. A TLB asks only for the page that missed.
    """
    first, last = {False: Cache(16, 4), True: Cache(16, 4)}, Cache(128, 12)
    made, missed, missed_last = [0, 0], [0, 0], 0
    for kind, pages in references:
        fetch = bool(kind & pf.ID)
        made[fetch] += 1
        which = [page for page in pages if first[fetch].misses(page)]
        missed[fetch] += bool(which)
        explicit = pages if which and asks_for_both else which
        missed_last += sum(last.misses(page) for page in explicit) > 0
    return misses.Counts(made[1], made[0], missed[1], missed[0], missed_last)


def references(path: Path) -> list[tuple[int, list[int]]]:
    """Return kind and pages of each reference of a trace."""
    found = []
    for gva, kind, crosses in misses.pieces(path):
        pages = [va >> 12 for va in gva]
        if crosses:
            found.append((kind[0], pages))
        else:
            found.extend((k, [page]) for k, page in zip(kind, pages, strict=True))
    return found


def test_references_across_pages() -> None:
    """What is said of the only difference, words across two pages, would not explain it."""
    read = references(trace("crossing"))
    ours, doubles = misses.ours(trace("crossing")), misses.doubles(trace("crossing"))
    assert doubles.data_misses > 1_000  # it is about these
    counted = misses.as_references(ours, doubles)
    assert counted == model(read, asks_for_both=False)
    assert model(read, asks_for_both=True) == CACHEGRIND["crossing"]
    assert counted.misses - CACHEGRIND["crossing"].misses == 2
    assert attrs.evolve(counted, misses=CACHEGRIND["crossing"].misses) == CACHEGRIND["crossing"]


@pytest.mark.skipif(shutil.which("valgrind") is None, reason="valgrind is not installed")
def test_live(tmp_path: Path) -> None:
    """The numbers that were recorded could be those of one lucky system."""
    program = peer_programs.sort(tmp_path, 100)
    peer_programs.record(program)
    counts = misses.as_references(misses.ours(program.trace), misses.doubles(program.trace))
    assert counts == misses.cachegrind(program)


def test_cachegrind_without_numbers() -> None:
    """A program that valgrind cannot run would be compared with nothing."""
    with pytest.raises(ValueError, match="has not said its fetches"):
        misses.parsed("valgrind: ./nothing: No such file or directory")


def test_a_page_that_faults_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    """Faults would put the kernel's own pages into the TLB, and nobody would be told."""
    monkeypatch.setattr(misses, "_sites", lambda step: [(0x400000, pf.U)] if len(step) else [])
    with pytest.raises(AssertionError, match="not mapped before"):
        misses.ours(trace("sort"), NativeBackend, DEFAULT)
