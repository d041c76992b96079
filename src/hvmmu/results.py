"""What a run comes to: counters, estimated cycles, and what the guest saw."""

from collections.abc import Mapping
from typing import Any

from attrs import frozen

from hvmmu.engine import TlbCounts
from hvmmu.fault import Cause, Route
from hvmmu.ledger import Ledger


@frozen
class RunResult:
    """One backend with one setting of its parameters, after one workload."""

    backend: str
    params: Mapping[str, bool | int | str]
    """Module parameters as they were in force."""
    engine: str
    counters: Mapping[str, Any]
    cycles: Mapping[str, int | str]
    guest: Mapping[str, int | str]
    mmu: str = ""
    """The MMU's name; nothing for the built-in one, and where there is none."""

    def to_json(self) -> dict[str, Any]:
        """Return it as the result document has it."""
        return {
            "backend": self.backend,
            **({"mmu": self.mmu} if self.mmu else {}),
            "params": dict(self.params),
            "engine": self.engine,
            "counters": dict(self.counters),
            "cycles": dict(self.cycles),
            "guest": dict(self.guest),
        }


@frozen
class Failure:
    """One backend with one setting of its parameters, whose run a plugin ended."""

    backend: str
    params: Mapping[str, bool | int | str]
    plugin: str
    """The plugin's name, empty if it is not known."""
    hook: str
    """The hook that failed; empty if it was none."""
    error: str
    mmu: str = ""
    """As in `RunResult`."""

    def to_json(self) -> dict[str, Any]:
        """Return it as the result document has it: null for what is not known."""
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
    """Return the counters of a run; the glossary of the docs says what each counts."""
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
        "tlb_misses": tlb.misses,
        "tlb_misses_instruction": tlb.instruction_misses,
        "tlb_misses_data": tlb.data_misses,
        "walk_refs": walk_refs,
        "guest_walk_refs": ledger.guest_walk_refs,
        "shadow_pages": shadow_pages,
        "shadow_pages_zapped": shadow_zapped,
        "routes": [
            {**row._asdict(), "count": count} for row, count in sorted(ledger.faults.items())
        ],
    }
