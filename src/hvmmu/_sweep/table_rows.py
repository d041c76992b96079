"""A cell as one flat row: nested keys joined by dots, every value a scalar."""

from collections.abc import Iterable, Iterator, Mapping
from typing import Any

from hvmmu._sweep.cells import canonical

Scalar = bool | int | float | str | None
FlatRow = dict[str, Scalar]

LEAD = ("cell", "hvmmu", "workload", "trace_sha256", "backend", "engine", "costs", "failure")
"""The first columns, in this order; then come params, counters, cycles and guest."""
_LAST = ("params", "counters", "cycles", "guest")
_OUTCOME = ("outcome", "cause", "pfec", "level")


def flat_row(cell: Mapping[str, Any]) -> FlatRow:
    """Return the row of one cell; one that failed has no counters.

    Raise TypeError, ValueError, LookupError or AttributeError for data of another shape.
    """
    identity, result = cell["identity"], cell["result"]
    row: FlatRow = {"cell": cell["cell"], "hvmmu": identity["hvmmu"]}
    row |= _flat("workload", identity["workload"])
    row |= {key: identity[key] for key in ("trace_sha256", "backend", "engine", "costs")}
    row |= _flat("failure", cell["failure"] or {"kind": None, "reason": None})
    row |= _flat("params", identity["config"])
    row |= _flat(f"params.{identity['backend']}", identity["params"])
    if result is not None:
        run = dict(result["runs"][0])
        counters = dict(run["counters"])
        row |= _flat("counters.fault_outcomes", _outcomes(counters.pop("fault_outcomes")))
        row |= _flat("counters", counters)
        row |= _flat("cycles", {k: v for k, v in run["cycles"].items() if k != "model"})
        row |= _flat("guest", run["guest"])
    if not all(isinstance(value, Scalar) for value in row.values()):
        raise TypeError("a value is no scalar")
    return row


def column_names(rows: Iterable[FlatRow]) -> list[str]:
    """Return the names of all columns in an order that only the names decide."""
    names = {name for row in rows for name in row}
    return sorted(names, key=_place)


def in_order(rows: Iterable[FlatRow]) -> list[FlatRow]:
    """Return rows by workload, backend and parameters."""
    return sorted(rows, key=_rank)


def _place(name: str) -> tuple[int, str]:
    head = name.partition(".")[0]
    order = (*LEAD, *_LAST)
    return (order.index(head), name)


def _rank(row: FlatRow) -> tuple[str, ...]:
    parts = ("workload", "backend", "params", "engine", "costs")
    texts = []
    for part in parts:
        own = {n: _sortable(v) for n, v in row.items() if n.partition(".")[0] == part}
        texts.append(canonical(own))
    return (*texts, str(row["cell"]))


def _sortable(value: Scalar) -> Scalar:
    """Return a value whose JSON sorts as it does: numbers of equal length."""
    is_count = isinstance(value, int) and not isinstance(value, bool)
    return f"{value:021d}" if is_count else value


def _flat(prefix: str, nested: Mapping[str, Any]) -> Iterator[tuple[str, Scalar]]:
    for key, value in nested.items():
        if isinstance(value, Mapping):
            yield from _flat(f"{prefix}.{key}", value)
        else:
            yield f"{prefix}.{key}", value


def _outcomes(rows: Iterable[Mapping[str, Any]]) -> dict[str, int]:
    """Return fault statistics as columns: `BYPASS.not present.4.1`, by outcome, cause and so on."""
    return {
        ".".join("-" if row[k] is None else str(row[k]) for k in _OUTCOME): row["count"]
        for row in rows
    }
