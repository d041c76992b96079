"""Xen's fast fault path: a guest-not-present entry is known by its error code, without a walk."""

from collections.abc import Iterable
from typing import Any

from hvmmu.arch import pfec as pf
from hvmmu.backend import Backend
from hvmmu.fault import Cause, FaultOutcome, PageFault, Route
from hvmmu.flush import Flush
from hvmmu.hookspecs import hookimpl
from hvmmu.results import RunResult
from hvmmu.vcpu import Vcpu
from hvmmu_xen.backend import XenBackend

NO_LEVEL = 0
"""The level of the entry that decided: nobody walked to it."""


@hookimpl
def hvmmu_backends() -> Iterable[type[Backend[Any]]]:
    """Offer the Xen backend."""
    return (XenBackend,)


@hookimpl
def hvmmu_handle_fault(vcpu: Vcpu, fault: PageFault) -> tuple[FaultOutcome, Flush] | None:
    """Take the fast path at a magic entry, and leave every other fault to the core.

    RSVD can only come from a magic entry of ours. The shadow has no other entry with a reserved
    bit: where the guest's entry has one, the shadow's is not present, and the core's walk finds it.
    So the fault is the guest's, and its error code is hardware's without what the magic added.
    """
    if not isinstance(vcpu.backend, XenBackend) or not fault.pfec & pf.RSVD:
        return None
    pfec = fault.pfec & ~(pf.P | pf.RSVD)
    return FaultOutcome(Route.INJECT, Cause.NOT_PRESENT, pfec, NO_LEVEL), Flush.nothing()


@hookimpl
def hvmmu_report(vcpu: Vcpu, result: RunResult) -> dict[str, int] | None:
    """Count the faults that took the fast path, under the name of Xen's counter."""
    if not isinstance(vcpu.backend, XenBackend):
        return None
    fast = (
        row["count"]
        for row in result.counters["fault_outcomes"]
        if row["outcome"] == Route.INJECT.value and row["level"] == NO_LEVEL
    )
    return {"xen.fault_fast_gnp": sum(fast)}
