"""The ledger: every fault, exit and privileged operation of a run, counted by cause."""

from collections import Counter
from typing import Any, NamedTuple

from hvmmu._core.binding import ffi, lib
from hvmmu.fault import Cause, FaultOutcome, Route

_ROUTES, _CAUSES = list(Route), list(Cause)
_ROUTE_NUMBER = {route: at for at, route in enumerate(Route)}
_CAUSE_NUMBER = {cause: at for at, cause in enumerate(Cause)}
COUNTS = (
    "accesses",
    "invlpg",
    "cr3_loads",
    "tlb_flushes",
    "guest_walk_refs",
    "direct_switches",
    "remote_flushes",
)


class Row(NamedTuple):
    """What makes two faults the same to the ledger."""

    route: str
    cause: str
    pfec: int
    level: int


def row_of(key: int) -> tuple[Route, Cause, int, int]:
    """Return the route, cause, error code and level that C counts under *key*."""
    return _ROUTES[key & 7], _CAUSES[key >> 3 & 15], key >> 7 & 0xFF, key >> 15


class Ledger:
    """Counts since the start, or since the last time it was cleared; they lie in C.

    `accesses`, `invlpg` and `cr3_loads` are the guest's own operations. `tlb_flushes` counts what
    hardware was made to flush, `guest_walk_refs` the guest PTEs that the hypervisor's own walks
    read, `direct_switches` the changes between a deprivileged guest's user mode and its kernel that
    did not exit, `remote_flushes` those flushes that changes by other vCPUs have caused.
    """

    accesses: int
    invlpg: int
    cr3_loads: int
    tlb_flushes: int
    guest_walk_refs: int
    direct_switches: int
    remote_flushes: int

    def __init__(self, **counts: int) -> None:
        self.handle: Any = ffi.new("hv_ledger *")
        self.exit_names: list[str] = []
        """The names of exits by the number that C has for each."""
        self._wide: Counter[Row] = Counter()
        for name, count in counts.items():
            setattr(self, name, count)

    @property
    def faults(self) -> Counter[Row]:
        """Return how often each kind of fault was counted."""
        made = Counter(self._wide)
        counted = self.handle
        for key in counted.used[0 : counted.used_count]:
            route, cause, pfec, level = row_of(key)
            made[Row(route.value, cause.value, pfec, level)] += counted.faults[key]
        return made

    @property
    def exits(self) -> Counter[str]:
        """Return the exits by the vendor's own name of the reason."""
        made: Counter[str] = Counter()
        for name, count in zip(self.exit_names, self.handle.exits, strict=False):
            if count:
                made[name] += count
        return made

    def exit_number(self, name: str) -> int:
        """Return the number under which C counts exits of this name."""
        if name not in self.exit_names:
            self.exit_names.append(name)
        number = self.exit_names.index(name)
        if number >= lib.HV_LEDGER_EXITS:
            raise ValueError(f"more than {lib.HV_LEDGER_EXITS} names of exits, {name!r} among them")
        return number

    def count_exit(self, name: str, count: int = 1) -> None:
        """Count exits."""
        self.handle.exits[self.exit_number(name)] += count

    def clear(self) -> None:
        """Start again from zero."""
        counted = self.handle
        for key in counted.used[0 : counted.used_count]:
            counted.faults[key] = 0
        counted.used_count = 0
        counted.exits = [0] * lib.HV_LEDGER_EXITS
        self._wide.clear()
        for name in COUNTS:
            setattr(counted, name, 0)

    def record(self, outcome: FaultOutcome) -> None:
        """Count one fault."""
        counted, number = self.handle, _ROUTE_NUMBER[outcome.route]
        counted.guest_walk_refs += outcome.walk_refs
        row = Row(outcome.route.value, outcome.cause.value, outcome.pfec, outcome.level)
        key = number | _CAUSE_NUMBER[outcome.cause] << 3 | outcome.pfec << 7 | outcome.level << 15
        full = counted.used_count == lib.HV_LEDGER_ROWS
        if outcome.pfec > 0xFF or outcome.level > 7 or (full and not counted.faults[key]):
            self._wide[row] += 1
            return
        if not counted.faults[key]:
            counted.used[counted.used_count] = key
            counted.used_count += 1
        counted.faults[key] += 1

    def total(self, *routes: Route, cause: Cause | None = None) -> int:
        """Return how many faults took any of *routes*, of one cause if given."""
        wanted = {route.value for route in routes}
        return sum(
            count
            for row, count in self.faults.items()
            if row.route in wanted and (cause is None or row.cause == cause.value)
        )

    def __eq__(self, other: object) -> bool:
        """Say whether both have counted the same."""
        return isinstance(other, Ledger) and self._counted() == other._counted()

    __hash__ = None  # type: ignore[assignment]  # counts change

    def _counted(self) -> tuple[object, ...]:
        return self.faults, self.exits, *(getattr(self, name) for name in COUNTS)


def _count(name: str) -> Any:  # noqa: ANN401 - a property
    def read(ledger: Ledger) -> int:
        return int(getattr(ledger.handle, name))

    def write(ledger: Ledger, count: int) -> None:
        setattr(ledger.handle, name, count)

    return property(read, write)


for _name in COUNTS:
    setattr(Ledger, _name, _count(_name))
