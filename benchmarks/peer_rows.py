"""What is shown of each program: rows of figures, ours on both backends, each with its goal."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, TypeAlias

import attrs

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

Measured: TypeAlias = "dict[str, dict[str, float]]"
"""By case, the fields of `peer_timing.Measured`."""

_GOALS = {"sqlite3": 3e9, "sort": 3e9, "python": 2e9, "hash-table": 1e9}


@attrs.frozen
class Row:
    """A figure of each program; *goal* is what a program's is to be at least, if there is one."""

    label: str
    figure: Callable[[dict[str, Any]], list[float]]
    shown: Callable[[float], str]
    goal: Callable[[str], float | None] = lambda _: None


def rate(cases: Measured, name: str) -> float:
    """Return references a CPU second of a case."""
    return cases[name]["references"] / cases[name]["seconds"]


def _seconds(cases: Measured, name: str) -> float:
    return cases[name]["seconds"]


def work(cases: Measured, name: str) -> float:
    """Return the seconds of a case without its start-up: all that the trace makes it do.

    Not a number where that is no more than two runs of the same may differ by.
    """
    left = cases[name]["floor"] - cases[f"{name}, start-up"]["floor"]
    return left if left > doubt(cases, name) else float("nan")


def doubt(cases: Measured, name: str) -> float:
    """Return by how many seconds the work may be wrong, by what its two parts say of themselves."""
    return cases[name]["apart"] + cases[f"{name}, start-up"]["apart"]


def work_rate(cases: Measured, name: str) -> float:
    """Return references a CPU second of a case, its start-up subtracted."""
    return cases[name]["references"] / work(cases, name)


BACKENDS = ("native", "vmx")


def count(value: float) -> str:
    """Return a whole number for people."""
    return f"{value:,.0f}"


def seconds(value: float) -> str:
    """Return seconds."""
    return f"{value:.2f} s" if value >= 1 else f"{value:.3f} s"


def per_second(value: float) -> str:
    """Return a rate."""
    return f"{value / 1e9:.2f} G/s" if value >= 1e9 else f"{value / 1e6:,.1f} M/s"


def times(value: float) -> str:
    """Return a ratio."""
    return f"{value:,.0f} x" if value >= 20 else f"{value:.1f} x"


def percent(value: float) -> str:
    """Return a part as a percentage."""
    return f"{100 * value:.0f}%"


def both(what: Callable[[Measured, str], float]) -> Callable[[dict[str, Any]], list[float]]:
    """Return a figure of both backends."""
    return lambda program: [what(program["cases"], backend) for backend in BACKENDS]


def _one(what: Callable[[Measured, str], float], name: str) -> Callable[[Any], list[float]]:
    return lambda program: [what(program["cases"], name)]


def _over(
    peer: str,
    label: str,
    goal: float | None = None,
    table: float | None = None,
    ours: Callable[[Measured, str], float] = rate,
) -> Row:
    """Return the row that says how many times a peer's rate ours is."""

    def wanted(program: str) -> float | None:
        return table if table and program == "hash-table" else goal

    return Row(label, both(lambda c, b: ours(c, b) / rate(c, peer)), times, wanted)


def _own(peer: str, label: str, goal: float | None = None) -> Iterator[Row]:
    """Yield rows of a peer whose own work alone is timed: beside ours alone, and our whole run."""
    yield _over(peer, f"{label}, both without start-up", goal, ours=work_rate)
    yield _over(peer, f"{label}, ours with start-up")


_OURS = (
    Row("references", lambda p: [p["references"]], count),
    Row("guest page faults", lambda p: [p["faults"]], count),
    Row("CPU seconds, whole process", both(_seconds), seconds),
    Row("CPU seconds, start-up alone", both(lambda c, b: _seconds(c, f"{b}, start-up")), seconds),
    Row(
        "references per CPU second, start-up subtracted",
        both(work_rate),
        per_second,
        _GOALS.__getitem__,
    ),
    Row("uncertainty", both(lambda c, b: doubt(c, b) / work(c, b)), percent),
    Row("references per CPU second, whole process", both(rate), per_second),
)
_WHOLE = (
    Row("cachegrind, CPU seconds", _one(_seconds, "cachegrind"), seconds),
    Row("cachegrind, start-up alone", _one(_seconds, "cachegrind, start-up"), seconds),
    _over("cachegrind", "speed-up over cachegrind as a TLB simulator, whole processes", 30, 8),
    Row(
        "speed-up over cachegrind as a TLB simulator, both without start-up",
        both(lambda c, b: work_rate(c, b) / work_rate(c, "cachegrind")),
        times,
    ),
    _over("DynamoRIO", "speed-up over DynamoRIO's TLB simulator, whole processes", 1000, 200),
)
_MEMORY = Row("peak memory, MiB", both(lambda c, b: c[b]["mebibytes"]), count)

ROWS = (
    *_OURS,
    Row("unreduced path, the run alone", _one(rate, "unreduced"), per_second, lambda _: 350e6),
    *_WHOLE,
    _over("ChampSim", "speed-up over ChampSim, whole process, first instructions"),
    *_own(
        "Unicorn, loads and stores", "speed-up over Unicorn with hooks on loads and stores", 2000
    ),
    *_own("Unicorn, all references", "speed-up over Unicorn with hooks on all references"),
    *_own("pycachesim, by call", "speed-up over pycachesim, by call", 1000),
    *_own("pycachesim, batch", "speed-up over pycachesim, in one batch", 15),
    _MEMORY,
)
"""What is shown of each program."""

LONG = (*_OURS, *_WHOLE, _MEMORY)
"""What is shown of its long run."""
