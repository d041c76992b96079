"""Real programs' traces: the guest's faults and page tables are the same whatever it runs on."""

from __future__ import annotations

import os
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from hvmmu._native import NativeBackend, NativeParams
from hvmmu.costs import cost_model
from hvmmu.machine import Machine, MachineConfig
from hvmmu.workloads import open_workload

if TYPE_CHECKING:
    from conftest import Variant

    from hvmmu.results import RunResult

TRACES = Path(__file__).parent.parent / "workloads" / "traces"
FAULTS = {"python.lackey.xz": 150, "sort.lackey.xz": 150}
"""Guest faults that there are at least in the first part of each, so that it shows something."""
PART = 200_000
"""References; the whole traces have some three million."""
NIGHTLY = os.environ.get("HYPOTHESIS_PROFILE") == "nightly"

whole = pytest.mark.skipif(not NIGHTLY, reason="whole traces: HYPOTHESIS_PROFILE=nightly")
Bare = "Callable[[str, int | None], RunResult]"


def run(config: MachineConfig, trace: str, limit: int | None) -> RunResult:
    """Run a trace, up to a number of references, and close the machine."""
    machine = Machine(config)
    for step in open_workload(str(TRACES / trace), limit=limit).steps():
        machine.step(step)
    result = machine.result(cost_model("nehalem"))
    machine.close()
    return result


@pytest.fixture(scope="module")
def bare() -> Bare:
    """Return the function that says what a trace comes to on the bare machine."""
    results: dict[tuple[str, int | None], RunResult] = {}

    def ran(trace: str, limit: int | None) -> RunResult:
        if (trace, limit) not in results:
            config = MachineConfig(NativeBackend, NativeParams())
            results[trace, limit] = run(config, trace, limit)
        return results[trace, limit]

    return ran


@pytest.mark.parametrize("trace", FAULTS)
@pytest.mark.parametrize("limit", [PART, pytest.param(None, marks=whole, id="whole")])
def test_the_guest_cannot_tell(
    bare: Bare, hypervised: Variant, trace: str, limit: int | None
) -> None:
    """If wrong, a real program's faults, error codes or page tables differ under a hypervisor."""
    expected = bare(trace, limit)
    assert expected.guest["faults"] >= FAULTS[trace]
    result = run(MachineConfig(hypervised.backend, hypervised.params), trace, limit)
    assert result.guest == expected.guest
    for same in ("accesses", "guest_faults", "invlpg", "cr3_loads"):
        assert result.counters[same] == expected.counters[same]
