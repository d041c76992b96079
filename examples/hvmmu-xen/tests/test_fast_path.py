"""The fast fault path: taken where it may be, and worth what it is said to be."""

import json
import subprocess
import sys
from types import SimpleNamespace
from typing import Any

import pytest

from hvmmu.arch import pfec as pf
from hvmmu.arch.regs import CpuFeatures
from hvmmu.errors import BackendUnavailableError
from hvmmu.fault import Cause, PageFault, Route
from hvmmu.generic import GenericBackend
from hvmmu.spte import Nonpresent
from hvmmu_xen import NO_LEVEL, hvmmu_handle_fault
from hvmmu_xen.backend import MAGIC, XenBackend, XenParams

GVA = 0x40_0000
KINDS = [user | how for user in (0, pf.U) for how in (pf.READ, pf.WRITE, pf.FETCH)]
LEVELS = 4


def compared(*arguments: str) -> list[dict[str, Any]]:
    """Return the counters of the backend without and with its fast path, as anybody gets them."""
    command = [sys.executable, "-m", "hvmmu", "compare", "-b", "native", "-b", "xen", "--json"]
    ended = subprocess.run(
        [*command, *arguments], capture_output=True, text=True, timeout=120, check=True
    )
    runs = [run for run in json.loads(ended.stdout)["runs"] if run["backend"] == "xen"]
    assert [run["params"] for run in runs] == [{"fast_fault_path": on} for on in (False, True)]
    return [run["counters"] for run in runs]


def injected(counters: dict[str, Any]) -> list[dict[str, Any]]:
    """Return the rows of not-present faults that the hypervisor injected."""
    wanted = (Route.INJECT.value, Cause.NOT_PRESENT.value)
    return [row for row in counters["fault_outcomes"] if (row["outcome"], row["cause"]) == wanted]


def test_the_handler_is_shorter_by_a_walk() -> None:
    """If wrong, the magic entry does not save what it is for, or saves an exit, which it cannot."""
    pages = 300
    slow, fast = compared(f"demand-zero:pages={pages}")
    assert slow["exits"] == fast["exits"]
    assert (slow["xen.fault_fast_gnp"], fast["xen.fault_fast_gnp"]) == (0, pages)
    assert slow["guest_pte_reads"] - fast["guest_pte_reads"] == LEVELS * pages


@pytest.mark.parametrize("setting", ["mmu.update_on_write=0", "mmu.large_pages=0"])
def test_each_fault_saves_its_own_walk(setting: str) -> None:
    """If wrong, a program's run is billed for walks that nobody made, or spared ones made."""
    slow, fast = compared("--limit", "200000", "-p", setting)
    assert slow["exits"] == fast["exits"]
    by_level = {row["level"]: 0 for row in injected(slow)}
    for row in injected(slow):
        by_level[row["level"]] += row["count"]
    for row in injected(fast):
        if row["level"] != NO_LEVEL:
            by_level[row["level"]] -= row["count"]
    assert sum(by_level.values()) == fast["xen.fault_fast_gnp"] > 0
    saved = sum((LEVELS + 1 - level) * count for level, count in by_level.items())
    assert slow["guest_pte_reads"] - fast["guest_pte_reads"] == saved


def answer(pfec: int, backend: GenericBackend) -> Any:  # noqa: ANN401 - a pair, or None
    """Return what the hook says of a fault with this error code."""
    vcpu: Any = SimpleNamespace(backend=backend)
    return hvmmu_handle_fault(vcpu, PageFault(GVA, pfec))


@pytest.mark.parametrize("kind", KINDS)
def test_the_guest_gets_its_own_error_code(kind: int) -> None:
    """If wrong, the guest sees what the magic entry added to the code, or misses what it did."""
    backend = XenBackend(XenParams(), CpuFeatures(), frozenset())
    handled, flush = answer(kind | pf.P | pf.RSVD, backend)
    assert (handled.route, handled.cause, handled.pfec) == (Route.INJECT, Cause.NOT_PRESENT, kind)
    assert (handled.walk_refs, flush.scope) == (0, None)


@pytest.mark.parametrize("kind", KINDS)
def test_other_faults_are_left_to_the_core(kind: int) -> None:
    """If wrong, a fault is injected that the hypervisor should have resolved."""
    backend = XenBackend(XenParams(), CpuFeatures(), frozenset())
    assert answer(kind, backend) is None
    assert answer(kind | pf.P, backend) is None


def test_machines_of_others_are_left_alone() -> None:
    """If wrong, another backend's reserved bits are taken for this one's magic."""
    assert answer(pf.P | pf.RSVD, GenericBackend(None, CpuFeatures(), frozenset())) is None


@pytest.mark.parametrize(
    ("cpu", "works"),
    [
        pytest.param(CpuFeatures(maxphyaddr=51), True, id="one bit reserved"),
        pytest.param(CpuFeatures(maxphyaddr=52), False, id="none"),
        pytest.param(CpuFeatures(maxphyaddr=52, nx=False), True, id="NX reserved"),
    ],
)
def test_no_magic_without_a_reserved_bit(cpu: CpuFeatures, works: bool) -> None:
    """If wrong, a magic entry is a mapping of memory that is not the guest's."""
    backend = XenBackend(XenParams(), cpu, frozenset())
    assert backend.effective.fast_fault_path is works
    assert backend.nonpresent() == (Nonpresent(0, MAGIC) if works else Nonpresent())
    if not works:
        with pytest.raises(BackendUnavailableError, match=r"^xen\.fast_fault_path=1: with MAXPHYA"):
            XenBackend(XenParams(), cpu, frozenset({"fast_fault_path"}))
