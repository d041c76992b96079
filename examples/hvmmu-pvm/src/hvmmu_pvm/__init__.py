"""The PVM backend of hvmmu: a para-virtual vendor without hardware help."""

from collections.abc import Iterable
from typing import Any

from hvmmu.backend import Backend
from hvmmu.costs import CostModel
from hvmmu.hookspecs import hookimpl
from hvmmu.results import RunResult
from hvmmu.vcpu import Vcpu
from hvmmu_pvm.backend import PvmBackend
from hvmmu_pvm.costs import DIRECT_SWITCHES, MODELS


@hookimpl
def hvmmu_backends() -> Iterable[type[Backend[Any]]]:
    """Offer the PVM backend."""
    return (PvmBackend,)


@hookimpl
def hvmmu_cost_models() -> Iterable[CostModel]:
    """Offer the paper's prices, on the host and nested."""
    return MODELS


@hookimpl
def hvmmu_report(vcpu: Vcpu, result: RunResult) -> dict[str, int] | None:
    """Count the world switches: those of the switcher alone, and those to and from us."""
    if result.backend != PvmBackend.name:
        return None
    return {
        DIRECT_SWITCHES: vcpu.ledger.direct_switches,
        "pvm.hypervisor_switches": 2 * result.counters["exits"]["total"],
    }
