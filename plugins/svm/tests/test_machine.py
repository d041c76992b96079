"""A whole machine on SVM: the fallback, where every page fault exits."""

from __future__ import annotations

import pytest

from hvmmu._guest.policy import GuestParams
from hvmmu._mmu_params import MmuParams
from hvmmu.costs import cost_model
from hvmmu.machine import Machine, MachineConfig
from hvmmu.workloads._synthetic import DemandZero
from hvmmu_svm.backend import SvmBackend, SvmParams

PAGES = 300


@pytest.mark.parametrize(
    ("update_on_write", "exits_a_fault"),
    [pytest.param(False, 3, id="classic"), pytest.param(True, 2, id="update-on-write")],
)
def test_exits_a_demand_zero_fault(update_on_write: bool, exits_a_fault: int) -> None:
    """If wrong, SVM's exits are not those of shadow paging without a filter."""
    mmu, guest = MmuParams(update_on_write=update_on_write), GuestParams(memory=32 << 20)
    machine = Machine(MachineConfig(SvmBackend, SvmParams(), mmu, guest=guest))
    for step in DemandZero(pages=PAGES).steps():
        machine.step(step)
    counted = machine.result(cost_model("nehalem")).counters
    machine.close()
    assert counted["guest_faults"] == counted["guest_faults_injected"] == PAGES
    assert counted["guest_faults_bypassed"] == 0
    assert counted["exits"] == {
        "total": exits_a_fault * PAGES,
        "by_reason": {"VMEXIT_EXCP14": exits_a_fault * PAGES},
    }
