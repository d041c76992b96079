"""The ledger: every fault, exit and privileged operation of a run, counted by cause."""

from collections import Counter
from typing import NamedTuple

import attrs

from hvmmu.fault import Cause, FaultOutcome, Route


class Row(NamedTuple):
    """What makes two faults the same to the ledger."""

    route: str
    cause: str
    pfec: int
    level: int


@attrs.define
class Ledger:
    """Counts since the start, or since the last time it was cleared."""

    faults: Counter[Row] = attrs.field(factory=Counter)
    exits: Counter[str] = attrs.field(factory=Counter)
    """By the vendor's own name of the reason."""
    accesses: int = 0
    invlpg: int = 0
    cr3_loads: int = 0
    tlb_flushes: int = 0
    guest_walk_refs: int = 0
    """Entries of the guest's tables that the hypervisor's own walks read."""
    direct_switches: int = 0
    """Changes between the guest's user mode and its kernel that went past the hypervisor."""

    def clear(self) -> None:
        """Start again from zero."""
        self.faults.clear()
        self.exits.clear()
        self.accesses = self.invlpg = self.cr3_loads = self.tlb_flushes = 0
        self.guest_walk_refs = self.direct_switches = 0

    def record(self, handled: FaultOutcome) -> None:
        """Count one fault."""
        row = Row(handled.route.value, handled.cause.value, handled.pfec, handled.level)
        self.faults[row] += 1
        self.guest_walk_refs += handled.walk_refs

    def total(self, *routes: Route, cause: Cause | None = None) -> int:
        """Return how many faults took any of *routes*, of one cause if given."""
        wanted = {route.value for route in routes}
        return sum(
            count
            for row, count in self.faults.items()
            if row.route in wanted and (cause is None or row.cause == cause.value)
        )
