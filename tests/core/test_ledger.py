"""The ledger, and the counters a run comes to."""

from __future__ import annotations

from hvmmu.arch import pfec as pf
from hvmmu.engine import TlbCounts
from hvmmu.fault import Cause, FaultOutcome, Route
from hvmmu.ledger import Ledger, Row
from hvmmu.results import RunResult, counters

FAULTS = [
    FaultOutcome(Route.INJECT, Cause.NOT_PRESENT, pf.U, 1),
    FaultOutcome(Route.INJECT, Cause.NOT_PRESENT, pf.U, 1, gpa=7),  # where it lands makes no row
    FaultOutcome(Route.INJECT, Cause.NOT_PRESENT, pf.U, 2),
    FaultOutcome(Route.BYPASS, Cause.NOT_PRESENT, pf.W | pf.U, 1),
    FaultOutcome(Route.INSTALL, Cause.UNBUILT, pf.P | pf.RSVD, 1),
    FaultOutcome(Route.ACCESSED_DIRTY, Cause.DIRTY, pf.P | pf.W, 1),
    FaultOutcome(Route.EMULATE, Cause.TABLE_WRITE, pf.P | pf.W, 1),
    FaultOutcome(Route.EMULATE, Cause.TABLE_WRITE, pf.P | pf.W, 1),
    FaultOutcome(Route.EMULATE, Cause.WRITE_PROTECT_OFF, pf.P | pf.W, 1),
    FaultOutcome(Route.MMIO, Cause.NO_MEMORY, 0, 1, walk_refs=4),
    FaultOutcome(Route.SPURIOUS, Cause.STALE, pf.U, 1, walk_refs=8),
]


def ledger() -> Ledger:
    """Return a ledger with every route in it."""
    made = Ledger(accesses=100, invlpg=3, cr3_loads=2, tlb_flushes=5)
    for fault in FAULTS:
        made.record(fault)
    made.count_exit("ZETA", 2)
    made.count_exit("ALPHA", 9)
    return made


def test_faults_are_counted_by_what_they_were() -> None:
    """If wrong, two kinds of fault share a row, or one kind has two."""
    made = ledger()
    assert made.faults[Row("inject", "not present", pf.U, 1)] == 2
    assert made.faults[Row("inject", "not present", pf.U, 2)] == 1
    assert sum(made.faults.values()) == len(FAULTS)


def test_totals() -> None:
    """If wrong, a sum leaves out a route, or takes one in that was not asked for."""
    made = ledger()
    assert made.total() == 0
    assert made.total(Route.INJECT) == 3
    assert made.total(Route.INJECT, Route.BYPASS) == 4
    assert made.total(Route.EMULATE) == 3
    assert made.total(Route.EMULATE, cause=Cause.TABLE_WRITE) == 2
    assert made.total(Route.MMIO, cause=Cause.STALE) == 0
    assert made.total(*Route) == len(FAULTS)


def test_clearing() -> None:
    """If wrong, what was counted before a measurement is in it."""
    made = ledger()
    made.clear()
    assert made == Ledger()


def test_counters_of_a_run() -> None:
    """If wrong, a result document says something else than the ledger."""
    tlb = TlbCounts(instruction_misses=4, data_misses=6, misses=8)
    made = counters(ledger(), tlb, walk_refs=32, shadow_pages=7, shadow_zapped=1)
    routes = made.pop("fault_outcomes")
    assert made == {
        "accesses": 100,
        "guest_faults": 4,
        "guest_faults_bypassed": 1,
        "guest_faults_injected": 3,
        "host_faults": 2,
        "pt_writes_emulated": 2,
        "other_writes_emulated": 1,
        "mmio": 1,
        "spurious_faults": 1,
        "invlpg": 3,
        "cr3_loads": 2,
        "tlb_flushes": 5,
        "exits": {"total": 11, "by_reason": {"ALPHA": 9, "ZETA": 2}},
        "stlb_misses": 8,
        "itlb_misses": 4,
        "dtlb_misses": 6,
        "page_walk_refs": 32,
        "guest_pte_reads": 12,
        "shadow_pages": 7,
        "shadow_pages_zapped": 1,
    }
    assert list(made["exits"]["by_reason"]) == ["ALPHA", "ZETA"]
    assert routes[0] == {
        "outcome": "accessed/dirty",
        "cause": "dirty bit clear",
        "pfec": 3,
        "level": 1,
        "count": 1,
    }
    keys = [(row["outcome"], row["cause"], row["pfec"], row["level"]) for row in routes]
    assert keys == sorted(keys)
    assert sum(row["count"] for row in routes) == len(FAULTS)


def test_a_result_as_json() -> None:
    """If wrong, the document shares its parts with the result, or leaves one out."""
    parts = {"params": {"a": True}, "counters": {"b": 1}, "cycles": {"c": 2}, "guest": {"d": 3}}
    result = RunResult(backend="x", engine="y", **parts)
    made = result.to_json()
    assert made == {"backend": "x", "engine": "y", **parts}
    assert list(made) == ["backend", "params", "engine", "counters", "cycles", "guest"]
    made["counters"]["b"] = 9
    assert result.counters == {"b": 1}
