"""What the switcher's filter saves: one world switch for each fault that the guest owns."""

from __future__ import annotations

import json
import subprocess
import sys
from functools import cache
from typing import Any

import pytest

WORKLOADS = {
    "demand-zero": ("demand-zero:pages=300",),
    "fork-cow": ("fork-cow:pages=40,rounds=2",),
    "mprotect": ("mprotect:pages=40",),
    "trace": (),
}


@cache
def compared(*workload: str) -> list[dict[str, Any]]:
    """Return the runs of a comparison with native, as anybody can see them."""
    command = ["-m", "hvmmu", "compare", "-b", "native", "-b", "pvm", "--json"]
    done = subprocess.run(
        [sys.executable, *command, "--costs", "pvm-nested", *workload],
        capture_output=True,
        check=True,
        text=True,
    )
    runs: list[dict[str, Any]] = json.loads(done.stdout)["runs"]
    return runs


def switches(run: dict[str, Any]) -> int:
    """Return all world switches of a run: the switcher's own, and those to and from us."""
    counters = run["counters"]
    total: int = counters["pvm.direct_switches"] + counters["pvm.hypervisor_switches"]
    return total


@pytest.mark.parametrize("workload", WORKLOADS)
def test_one_switch_saved_for_each_fault_kept(workload: str) -> None:
    """If wrong, the filter saves less, or more, than one switch for a fault that it keeps.

    Copy-on-write and protection faults come from present entries: it keeps none of those.
    """
    _, off, on = compared(*WORKLOADS[workload])
    assert [run["params"]["switcher_filter"] for run in (off, on)] == [False, True]
    kept = on["counters"]["guest_faults_bypassed"]
    assert off["counters"]["guest_faults_bypassed"] == 0
    assert bool(kept) is (workload in ("demand-zero", "trace"))
    assert switches(off) - switches(on) == kept
    assert off["counters"]["exits"]["total"] - on["counters"]["exits"]["total"] == kept


@pytest.mark.parametrize("workload", WORKLOADS)
def test_the_guest_cannot_tell(workload: str) -> None:
    """If wrong, a guest sees other faults, or ends with other tables, than on a bare machine."""
    native, off, on = compared(*WORKLOADS[workload])
    assert native["guest"] == off["guest"] == on["guest"]


def test_switches_of_a_demand_zero_fault() -> None:
    """If wrong, a fault takes another way than the paper's picture has it.

    Without the filter: to the hypervisor, and into the kernel; to the hypervisor with the store to
    the page table, and back; to user mode. With it the first two are one.
    """
    _, off, on = compared(*WORKLOADS["demand-zero"])
    faults = on["counters"]["guest_faults"]
    assert (switches(off), switches(on)) == (5 * faults, 4 * faults)
    assert off["counters"]["pvm.direct_switches"] == faults
    assert on["counters"]["pvm.direct_switches"] == 2 * faults


def test_the_price_of_direct_switches_is_in_the_estimate() -> None:
    """If wrong, the filter looks better than it is: what it adds costs nothing."""
    _, off, on = compared(*WORKLOADS["demand-zero"])
    for run in (off, on):
        direct, exits = run["counters"]["pvm.direct_switches"], run["counters"]["exits"]["total"]
        assert run["cycles"]["pvm.direct_switches"] == 448 * direct
        assert run["cycles"]["exits"] == 895 * exits
    assert on["cycles"]["total"] < off["cycles"]["total"]
