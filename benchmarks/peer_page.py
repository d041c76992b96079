"""The figures as tables, each with its goal, and the page of the docs that has them in it."""

from __future__ import annotations

import math
import textwrap
from typing import TYPE_CHECKING, Any

from peer_rows import LONG, ROWS

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence
    from pathlib import Path

    from peer_rows import Row

BEGIN, END = "<!-- figures: begin -->", "<!-- figures: end -->"


def table(programs: dict[str, dict[str, Any]], rows: Sequence[Row]) -> str:
    """Return the figures as a Markdown table; what was not measured is left out."""
    head = ["", "goal", *programs]
    lines = [head, ["---"] * len(head), *_lines(programs, rows)]
    return "".join(f"| {' | '.join(line)} |\n" for line in lines)


def _lines(programs: dict[str, dict[str, Any]], rows: Sequence[Row]) -> Iterator[list[str]]:
    for row in rows:
        cells = [_cell(row, name, program) for name, program in programs.items()]
        if any(cells):
            goals = [_goal(row, name) for name in programs]
            yield [row.label, goals[0] if len(set(goals)) == 1 else ", ".join(goals), *cells]
    if any(program["misses"] for program in programs.values()):
        yield ["misses equal cachegrind's", "yes", *map(_equal, programs.values())]


def _cell(row: Row, name: str, program: dict[str, Any]) -> str:
    try:
        found = row.figure(program)
    except KeyError:  # this case was not run
        return ""
    goal = row.goal(name)
    made = " / ".join("within noise" if math.isnan(one) else row.shown(one) for one in found)
    return made if goal is None or any(one >= goal for one in found) else f"{made} ✗"


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
    parts = [table(results["programs"], ROWS)]
    if results.get("long"):
        parts.append(_wrapped(f"The same programs with {results['times']:g} times the work:"))
        parts.append(table(results["long"], LONG))
    if results["memory"]:
        parts.append(_wrapped(memory(results["memory"])))
    parts.extend(_wrapped(f"{name}: {why}.") for name, why in results["skipped"].items())
    runs = f"where start-up is subtracted, of {results['rounds'] * results['runs']} runs"
    told = f"Minimum of {results['rounds']} rounds; {runs}. {results['versions']}."
    parts.append(_wrapped(told))
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
