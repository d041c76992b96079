"""A cell as one row: nested keys joined by dots, every value a plain one."""

from collections.abc import Iterable, Iterator, Mapping
from typing import Any

from hvmmu._sweep.cells import canonical

Scalar = bool | int | float | str | None
Row = dict[str, Scalar]

LEAD = ("cell", "hvmmu", "workload", "trace_sha256", "backend", "engine", "costs", "failure")
"""What the columns begin with, in this order; then params, counters, cycles and guest."""
_LAST = ("params", "counters", "cycles", "guest")


def row(cell: Mapping[str, Any]) -> Row:
    """Return the row of one cell; one that failed has no counters."""
    identity, result = cell["identity"], cell["result"]
    made: Row = {"cell": cell["cell"], "hvmmu": identity["hvmmu"]}
    made |= _flat("workload", identity["workload"])
    made |= {key: identity[key] for key in ("trace_sha256", "backend", "engine", "costs")}
    made |= _flat("failure", cell["failure"] or {"kind": None, "reason": None})
    made |= _flat("params", identity["config"])
    made |= _flat(f"params.{identity['backend']}", identity["params"])
    if result is not None:
        run = dict(result["runs"][0])
        counters = dict(run["counters"])
        made |= _flat("counters.routes", _routes(counters.pop("routes")))
        made |= _flat("counters", counters)
        made |= _flat("cycles", {k: v for k, v in run["cycles"].items() if k != "model"})
        made |= _flat("guest", run["guest"])
    return made


def columns(rows: Iterable[Row]) -> list[str]:
    """Return the names of all columns in an order that only the names decide."""
    names = {name for one in rows for name in one}
    return sorted(names, key=_place)


def in_order(rows: Iterable[Row]) -> list[Row]:
    """Return rows by workload, backend and parameters, which only they decide."""
    return sorted(rows, key=_rank)


def _place(name: str) -> tuple[int, str]:
    head = name.partition(".")[0]
    order = (*LEAD, *_LAST)
    return (order.index(head), name)


def _rank(one: Row) -> tuple[str, ...]:
    parts = ("workload", "backend", "params", "engine", "costs")
    texts = []
    for part in parts:
        own = {n: _sortable(v) for n, v in one.items() if n.partition(".")[0] == part}
        texts.append(canonical(own))
    return (*texts, str(one["cell"]))


def _sortable(value: Scalar) -> Scalar:
    """Return a value whose JSON sorts as it does: numbers of equal length."""
    is_count = isinstance(value, int) and not isinstance(value, bool)
    return f"{value:021d}" if is_count else value


def _flat(prefix: str, made: Mapping[str, Any]) -> Iterator[tuple[str, Scalar]]:
    for key, value in made.items():
        if isinstance(value, Mapping):
            yield from _flat(f"{prefix}.{key}", value)
        else:
            yield f"{prefix}.{key}", value


def _routes(rows: Iterable[Mapping[str, Any]]) -> dict[str, int]:
    """Return the ledger as columns: `BYPASS.not present.4.1` is route, cause, pfec and level."""
    return {
        ".".join("-" if row[k] is None else str(row[k]) for k in _LEDGER): row["count"]
        for row in rows
    }


_LEDGER = ("route", "cause", "pfec", "level")
