"""A whole machine on VMX: what the technique is for, counted."""

from __future__ import annotations

from typing import Any

import pytest

from hvmmu._guest.policy import GuestParams
from hvmmu._mmu_params import MmuParams
from hvmmu.costs import cost_model
from hvmmu.machine import Machine, MachineConfig
from hvmmu.workloads._synthetic import DemandZero
from hvmmu_vmx.backend import VmxBackend, VmxParams

PAGES = 300


def counters(params: VmxParams, mmu: MmuParams) -> dict[str, Any]:
    """Return the counters of a run of the demand-zero workload's measured phase."""
    config = MachineConfig(VmxBackend, params, mmu, guest=GuestParams(memory=32 << 20))
    machine = Machine(config)
    for step in DemandZero(pages=PAGES).steps():
        machine.step(step)
    result = machine.result(cost_model("nehalem"))
    machine.close()
    assert result.guest["faults"] == PAGES + 1  # the warm-up's is not in the counters
    return dict(result.counters)


@pytest.mark.parametrize(
    ("bypass", "update_on_write", "exits_a_fault"),
    [
        pytest.param(False, False, 3, id="classic"),
        pytest.param(False, True, 2, id="update-on-write"),
        pytest.param(True, True, 1, id="bypass"),
        pytest.param(True, False, 2, id="bypass-without-update-on-write"),
    ],
)
def test_exits_a_demand_zero_fault(bypass: bool, update_on_write: bool, exits_a_fault: int) -> None:
    """If wrong, the technique does not save the exit it is there to save."""
    counted = counters(
        VmxParams(bypass_guest_pf=bypass), MmuParams(update_on_write=update_on_write)
    )
    assert counted["guest_faults"] == PAGES
    assert counted["guest_faults_bypassed"] == (PAGES if bypass else 0)
    assert counted["exits"] == {
        "total": exits_a_fault * PAGES,
        "by_reason": {"EXCEPTION_NMI": exits_a_fault * PAGES},
    }


def test_without_vpid_the_same_happens_with_a_colder_tlb() -> None:
    """If wrong, VPID changes what the guest or the shadow MMU does, or costs no TLB miss."""
    tagged, untagged = (counters(VmxParams(vpid=vpid), MmuParams()) for vpid in (True, False))
    assert untagged["stlb_misses"] > tagged["stlb_misses"]
    assert untagged["tlb_flushes"] >= untagged["exits"]["total"]
    for same in ("guest_faults", "guest_faults_bypassed", "host_faults", "exits", "fault_outcomes"):
        assert untagged[same] == tagged[same]
