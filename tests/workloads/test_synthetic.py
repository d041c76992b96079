"""Synthetic workloads: the same steps for ever, and the counts that each promises."""

from __future__ import annotations

import hashlib
from collections import Counter
from typing import TYPE_CHECKING, Any

import pytest

from hvmmu.errors import ConfigError
from hvmmu.params import params_of
from hvmmu.steps import (
    PROT_READ,
    Accesses,
    ExitProcess,
    Fork,
    Mmap,
    Mprotect,
    StartMeasuring,
    Step,
    SwitchTo,
)
from hvmmu.workloads import WORKLOADS, open_workload
from hvmmu.workloads._synthetic import KINDS

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable

READ, WRITE, FETCH = 4, 6, 0x14
SMALL = {
    "demand-zero": "demand-zero:pages=1000,seed=7",
    "fork-cow": "fork-cow:pages=40,rounds=3,seed=7",
    "mprotect": "mprotect:pages=40,rounds=3,seed=7",
    "random": "random:pages=100,refs=70000,seed=7",
    "context-switch": "context-switch:processes=3,pages=20,rounds=5,seed=7",
}
# SHA-256 of the steps, as `digest` writes them.
GOLDEN = {
    "demand-zero": "107031884273836c6c3830753d49503a86a001910a9ac7381ca113d144b377c7",
    "fork-cow": "6183a35ebe1743fd929b64313d145f7e9c34e8af578f3f6527e0260b21c16d32",
    "mprotect": "d6d2cb8e33166ff724c5f0afbccf96e0e09a77d383f72f1fc5d801f48687188e",
    "random": "87828d7c24170496502660bbe4453dc77f3f3e848577d611ce09ba5b87bc8069",
    "context-switch": "af8787959943cb2fecc93373ca0784903178a19a31b1a812388c4234d2015fc8",
}


def steps(spec: str) -> list[Step]:
    """Return a workload's steps."""
    return list(open_workload(spec).steps())


def measured(spec: str) -> list[Step]:
    """Return the steps after the warm-up."""
    all_steps = steps(spec)
    (start,) = [at for at, step in enumerate(all_steps) if isinstance(step, StartMeasuring)]
    return all_steps[start + 1 :]


def touched(some: Iterable[Step]) -> Counter[tuple[int, int]]:
    """Count accesses by page and kind."""
    found: Counter[tuple[int, int]] = Counter()
    for step in some:
        if isinstance(step, Accesses):
            found.update((gva >> 12, kind) for gva, kind in zip(step.gva, step.kind, strict=True))
    return found


def digest(some: Iterable[Step]) -> str:
    """Return the SHA-256 of the steps, one line each, accesses as gva and kind."""
    written = hashlib.sha256()
    for step in some:
        line = repr(step)
        if isinstance(step, Accesses):
            pairs = zip(step.gva, step.kind, strict=True)
            line = " ".join(f"{gva:x}/{kind:x}" for gva, kind in pairs)
        written.update(f"{line}\n".encode())
    return written.hexdigest()


def test_every_kind_can_be_named() -> None:
    """A workload is listed and cannot be made, or can be made and nobody learns of it."""
    assert list(WORKLOADS) == list(KINDS) == [kind.name for kind in KINDS.values()]
    assert all(type(made.open(None)) is KINDS[name] for name, made in WORKLOADS.items())


@pytest.mark.parametrize("name", KINDS)
def test_steps_are_the_same_on_every_python(name: str) -> None:
    """Two people with two Pythons compare numbers of two workloads."""
    assert digest(steps(SMALL[name])) == GOLDEN[name]


@pytest.mark.parametrize("name", KINDS)
def test_the_seed_matters_and_steps_can_be_had_again(name: str) -> None:
    """A second run of one workload sees other steps, or the seed changes nothing."""
    workload = open_workload(SMALL[name])
    assert digest(workload.steps()) == digest(workload.steps())
    assert digest(steps(SMALL[name].replace("seed=7", "seed=8"))) != GOLDEN[name]


@pytest.mark.parametrize("name", KINDS)
def test_facts_name_every_option(name: str) -> None:
    """The result document does not tell two workloads apart."""
    facts = open_workload(SMALL[name]).facts()
    options = dict(part.split("=") for part in SMALL[name].partition(":")[2].split(","))
    assert facts == {"name": name, "kind": "synthetic"} | {k: int(v) for k, v in options.items()}
    assert set(options) == {option.name for option in params_of(KINDS[name])}


@pytest.mark.parametrize("name", KINDS)
def test_no_process_touches_what_it_may_not(name: str) -> None:
    """A workload asks for what its own mappings forbid, and the guest would have to kill it."""
    prots: dict[int, dict[int, int]] = {1: {}}
    pid = 1
    for step in steps(SMALL[name]):
        match step:
            case Accesses():
                needs = {READ: 1, WRITE: 2, FETCH: 4}
                for gva, kind in zip(step.gva, step.kind, strict=True):
                    assert prots[pid][gva >> 12] & needs[kind]
            case Mmap() | Mprotect():
                pages = range(step.start >> 12, (step.start >> 12) + step.pages)
                prots[pid].update(dict.fromkeys(pages, step.prot))
            case Fork():
                assert step.child not in prots
                prots[step.child] = dict(prots[pid])
            case SwitchTo():
                pid = step.pid
                assert pid in prots
            case ExitProcess():
                assert step.pid != pid
                del prots[step.pid]


@pytest.mark.parametrize("pages", [1, 2, 510, 511, 512, 1022, 1023, 4096])
def test_demand_zero_measures_one_first_write_a_page(pages: int) -> None:
    """Measured faults are not as many as asked, or a leaf table is missing when they begin."""
    spec = f"demand-zero:pages={pages}"
    fresh = touched(measured(spec))
    assert len(fresh) == pages
    assert set(fresh.values()) == {1}
    assert {kind for _, kind in fresh} == {WRITE}
    warm = {page for page, _ in touched(steps(spec))} - {page for page, _ in fresh}
    assert {page >> 9 for page, _ in fresh} == {page >> 9 for page in warm}


def test_fork_cow_writes_each_page_on_both_sides() -> None:
    """A page is not copied, or is written before there is anything to copy."""
    some = measured("fork-cow:pages=40,rounds=3")
    assert set(touched(some).values()) == {6}
    shape = [type(step) for step in some]
    assert shape == [Fork, SwitchTo, Accesses, SwitchTo, Accesses, ExitProcess] * 3
    assert [step.child for step in some if isinstance(step, Fork)] == [2, 3, 4]


def test_mprotect_goes_and_comes() -> None:
    """Pages are never protected, or stay so."""
    some = measured("mprotect:pages=40,rounds=3")
    prots = [step.prot for step in some if isinstance(step, Mprotect)]
    assert prots == [PROT_READ, PROT_READ | 2] * 3
    assert set(touched(some).values()) == {3}


def test_random_mixes_kinds_over_the_footprint() -> None:
    """References are too few, too narrow, or of one kind."""
    found = touched(steps("random:pages=100,refs=70000"))
    kinds: Counter[int] = Counter()
    for (_, kind), count in found.items():
        kinds[kind] += count
    assert kinds.total() == 70_000
    assert 0.48 < kinds[READ] / 70_000 < 0.52
    assert 0.23 < kinds[WRITE] / 70_000 < 0.27
    assert len({page for page, kind in found if kind == FETCH}) == 25
    assert len({page for page, kind in found if kind != FETCH}) == 100


def test_context_switch_takes_turns() -> None:
    """A process is left out, or runs twice in a row."""
    some = measured("context-switch:processes=3,pages=20,rounds=5")
    assert [step.pid for step in some if isinstance(step, SwitchTo)] == [1, 2, 3] * 5
    assert sum(touched(some).values()) == 3 * 20 * 5


BAD = [
    ("demand-zero:page=1", ["'page' is not an option", "did you mean 'pages'?"]),
    ("demand-zero:colour=1", ["'colour'", "its options are pages, seed"]),
    ("demand-zero:pages", ["'pages' is not an option=value"]),
    ("demand-zero:", ["'' is not an option=value"]),
    ("demand-zero:pages=", ["pages", "'' is not a whole number"]),
    ("demand-zero:pages=many", ["pages", "'many' is not a whole number"]),
    ("demand-zero:pages=1e3", ["'1e3'"]),
    ("demand-zero:pages=0", ["1 to 262144"]),
    ("demand-zero:pages=-1", ["1 to 262144"]),
    ("demand-zero:pages=999999999", ["1 to 262144"]),
    ("demand-zero:seed=0x10000000000000000", ["seed"]),
    ("demand-zero:pages=1,pages=2", ["pages is given twice"]),
    ("demand-zero:pages=x,seed=y", ["'x'", "'y'"]),
    ("context-switch:processes=1", ["2 to 1024"]),
]


@pytest.mark.parametrize(("spec", "said"), BAD)
def test_wrong_options(spec: str, said: list[str]) -> None:
    """A wrong option is ignored, or the message does not say which and what may be."""
    with pytest.raises(ConfigError) as caught:
        open_workload(spec)
    assert all(part in str(caught.value) for part in said), str(caught.value)
    assert all("demand-zero" in line or "context-switch" in line for line in caught.value.problems)


def test_hexadecimal_options() -> None:
    """Numbers are not read by the grammar that every parameter has."""
    assert open_workload("demand-zero:pages=0x10").facts()["pages"] == 16


def test_limit_cuts_inside_a_batch(flat: Callable[[Iterable[Step]], Any]) -> None:
    """A limited run makes more or other references than the first of the whole one."""
    whole = flat(open_workload("fork-cow:pages=40,rounds=3").steps())
    for limit in (1, 39, 40, 41, 100, 280, 281):
        part = open_workload("fork-cow:pages=40,rounds=3", limit=limit)
        assert part.facts()["limit"] == limit
        assert part.name == "fork-cow"
        assert flat(part.steps()).gva == whole.gva[:limit]
