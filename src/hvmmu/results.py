"""The results of runs: counters, estimated cycles, and digests of the guest's view."""

from collections.abc import Mapping
from typing import Any, NamedTuple

from attrs import frozen

from hvmmu.engine import TlbCounts
from hvmmu.fault import Cause, Route
from hvmmu.ledger import Ledger


@frozen
class RunResult:
    """One backend with one setting of its parameters, after one workload."""

    backend: str
    params: Mapping[str, bool | int | str]
    """The effective module parameters."""
    engine: str
    counters: Mapping[str, Any]
    cycles: Mapping[str, int | str]
    guest: Mapping[str, int | str]
    mmu: str = ""
    """The MMU's name; nothing for the built-in one, and where there is none."""

    def to_json(self) -> dict[str, Any]:
        """Return its part of the result document."""
        return {
            "backend": self.backend,
            **({"mmu": self.mmu} if self.mmu else {}),
            "params": dict(self.params),
            "engine": self.engine,
            "counters": dict(self.counters),
            "cycles": dict(self.cycles),
            "guest": dict(self.guest),
        }


class RunFailure(NamedTuple):
    """One backend with one setting of its parameters, whose run ended with an exception."""

    backend: str
    params: Mapping[str, bool | int | str]
    plugin: str
    """The plugin's name, empty if it is not known."""
    hook: str
    """The hook that failed; empty if none did."""
    error: str
    mmu: str = ""
    """As in `RunResult`."""

    def to_json(self) -> dict[str, Any]:
        """Return its part of the result document: null for an unknown plugin or hook."""
        return {
            "backend": self.backend,
            **({"mmu": self.mmu} if self.mmu else {}),
            "params": dict(self.params),
            "plugin": self.plugin or None,
            "hook": self.hook or None,
            "error": self.error,
        }


def counters(
    ledger: Ledger, tlb: TlbCounts, *, walk_refs: int, shadow_pages: int, shadow_zapped: int
) -> dict[str, Any]:
    """Return the counters of a run; the docs' glossary describes each."""
    bypassed, injected = ledger.total(Route.BYPASS), ledger.total(Route.INJECT)
    return {
        "accesses": ledger.accesses,
        "guest_faults": bypassed + injected,
        "guest_faults_bypassed": bypassed,
        "guest_faults_injected": injected,
        "host_faults": ledger.total(Route.INSTALL, Route.ACCESSED_DIRTY),
        "pt_writes_emulated": ledger.total(Route.EMULATE, cause=Cause.TABLE_WRITE),
        "other_writes_emulated": ledger.total(Route.EMULATE, cause=Cause.WRITE_PROTECT_OFF),
        "mmio": ledger.total(Route.MMIO),
        "spurious_faults": ledger.total(Route.SPURIOUS),
        "invlpg": ledger.invlpg,
        "cr3_loads": ledger.cr3_loads,
        "tlb_flushes": ledger.tlb_flushes,
        "exits": {
            "total": sum(ledger.exits.values()),
            "by_reason": dict(sorted(ledger.exits.items())),
        },
        "itlb_misses": tlb.instruction_misses,
        "dtlb_misses": tlb.data_misses,
        "stlb_misses": tlb.misses,
        "page_walk_refs": walk_refs,
        "guest_pte_reads": ledger.guest_walk_refs,
        "shadow_pages": shadow_pages,
        "shadow_pages_zapped": shadow_zapped,
        "fault_outcomes": [
            {"outcome": row.route, "cause": row.cause, "pfec": row.pfec, "level": row.level}
            | {"count": count}
            for row, count in sorted(ledger.faults.items())
        ],
    }
