"""The figures as a table, each with its goal, and the page of the docs that has it in it."""

from __future__ import annotations

import textwrap
from typing import TYPE_CHECKING, Any, TypeAlias

import attrs

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from pathlib import Path

BEGIN, END = "<!-- figures: begin -->", "<!-- figures: end -->"

Measured: TypeAlias = "dict[str, dict[str, float]]"
"""By case: seconds, references, mebibytes."""

_GOALS = {"sqlite3": 3e9, "sort": 3e9, "python": 2e9, "hash-table": 1e9}


@attrs.frozen
class Row:
    """A figure of each program; *goal* is what a program's is to be at least, if there is one."""

    label: str
    figure: Callable[[dict[str, Any]], list[float]]
    shown: Callable[[float], str]
    goal: Callable[[str], float | None] = lambda _: None


def rate(cases: Measured, name: str, less: str | None = None) -> float:
    """Return references a CPU second of a case, without what case *less* takes."""
    case = cases[name]
    seconds = case["seconds"] - (cases[less]["seconds"] if less else 0)
    return case["references"] / max(seconds, 1e-4)


def ratio(cases: Measured, peer: str) -> list[float]:
    """Return how many times a peer's rate ours is, on both backends, whole processes."""
    return [rate(cases, backend) / rate(cases, peer) for backend in BACKENDS]


BACKENDS = ("native", "vmx")


def count(value: float) -> str:
    """Return a whole number for people."""
    return f"{value:,.0f}"


def seconds(value: float) -> str:
    """Return seconds."""
    return f"{value:.2f} s"


def per_second(value: float) -> str:
    """Return a rate."""
    return f"{value / 1e9:.2f} G/s" if value >= 1e9 else f"{value / 1e6:,.1f} M/s"


def times(value: float) -> str:
    """Return a ratio."""
    return f"{value:,.0f} x" if value >= 20 else f"{value:.1f} x"


def _both(program: dict[str, Any], what: Callable[[Measured, str], float]) -> list[float]:
    return [what(program["cases"], backend) for backend in BACKENDS]


def _over(peer: str, label: str, goal: float | None = None, table: float | None = None) -> Row:
    def wanted(program: str) -> float | None:
        return table if table and program == "hash-table" else goal

    return Row(label, lambda program: ratio(program["cases"], peer), times, wanted)


ROWS = (
    Row("references", lambda p: [p["references"]], count),
    Row("guest page faults", lambda p: [p["faults"]], count),
    Row("CPU seconds, whole process", lambda p: _both(p, lambda c, b: c[b]["seconds"]), seconds),
    Row(
        "references a CPU second, whole process",
        lambda p: _both(p, rate),
        per_second,
        _GOALS.__getitem__,
    ),
    Row(
        "the same, start-up subtracted",
        lambda p: _both(p, lambda c, b: rate(c, b, f"{b}, start-up")),
        per_second,
    ),
    Row(
        "unreduced path, the run alone",
        lambda p: [rate(p["cases"], "unreduced")],
        per_second,
        lambda _: 350e6,
    ),
    Row("cachegrind, CPU seconds", lambda p: [p["cases"]["cachegrind"]["seconds"]], seconds),
    _over("cachegrind", "over cachegrind as a TLB, whole processes", 30, 8),
    _over("DynamoRIO", "over DynamoRIO's TLB simulator, whole processes", 1000, 200),
    _over("ChampSim", "over ChampSim, whole process, first instructions"),
    _over("Unicorn, loads and stores", "over Unicorn with hooks on loads and stores", 2000),
    _over("Unicorn, all references", "over Unicorn with hooks on all references"),
    _over("pycachesim, by call", "over pycachesim, by call", 1000),
    _over("pycachesim, batch", "over pycachesim, in one batch", 15),
    Row("peak memory, MiB", lambda p: _both(p, lambda c, b: c[b]["mebibytes"]), count),
)


def table(programs: dict[str, dict[str, Any]]) -> str:
    """Return the figures as a Markdown table; what was not measured is left out."""
    head = ["", "goal", *programs]
    lines = [head, ["---"] * len(head), *_lines(programs)]
    return "".join(f"| {' | '.join(line)} |\n" for line in lines)


def _lines(programs: dict[str, dict[str, Any]]) -> Iterator[list[str]]:
    for row in ROWS:
        cells = [_cell(row, name, program) for name, program in programs.items()]
        if any(cells):
            goals = [_goal(row, name) for name in programs]
            yield [row.label, goals[0] if len(set(goals)) == 1 else ", ".join(goals), *cells]
    yield ["misses equal cachegrind's", "yes", *map(_equal, programs.values())]


def _cell(row: Row, name: str, program: dict[str, Any]) -> str:
    try:
        found = row.figure(program)
    except KeyError:  # this case was not run
        return ""
    goal = row.goal(name)
    made = " / ".join(map(row.shown, found))
    return made if goal is None or max(found) >= goal else f"{made} ✗"


def _goal(row: Row, name: str) -> str:
    goal = row.goal(name)
    return "" if goal is None else f"≥ {row.shown(goal)}"


def _equal(program: dict[str, Any]) -> str:
    made = program.get("misses", {})
    if "cachegrind" not in made:
        return "not compared"
    ours, theirs = made["ours"], made["cachegrind"]
    wrong = [
        f"{name} {ours[name]:,}, not {theirs[name]:,}"
        for name in ours
        if ours[name] != theirs[name]
    ]
    return ", ".join(wrong) or "yes"


def memory(lengths: dict[str, float]) -> str:
    """Return one line on peak memory by length of the trace, in references."""
    made = ", ".join(
        f"{int(n) // 10**6} M references {most:.0f} MiB" for n, most in lengths.items()
    )
    return f"Peak memory (goal: at most 70 MB, whatever the length): {made}."


def text(results: dict[str, Any]) -> str:
    """Return all figures."""
    parts = [table(results["programs"])]
    if results["memory"]:
        parts.append(_wrapped(memory(results["memory"])))
    parts.extend(_wrapped(f"{name}: {why}.") for name, why in results["skipped"].items())
    parts.append(_wrapped(f"Least of {results['rounds']} rounds. {results['versions']}."))
    return "\n".join(parts)


def _wrapped(line: str) -> str:
    return textwrap.fill(line, 100) + "\n"


def write(page: Path, figures: str) -> None:
    """Put the figures between the page's two marks; raise SystemExit if it has none."""
    old = page.read_text(encoding="utf-8")
    before, begin, rest = old.partition(BEGIN)
    _, end, after = rest.partition(END)
    if not begin or not end:
        raise SystemExit(f"{page}: has no lines {BEGIN} and {END}; add them where figures go")
    page.write_text(f"{before}{BEGIN}\n\n{figures}\n{END}{after}", encoding="utf-8")
