"""hvmmu beside other tools, on the same programs and references, in CPU seconds.

Each program is recorded once; then hvmmu and every peer that is installed take turns, whole
processes, and of each the round that took least counts. Ratios mean something where absolute
numbers do not. What each peer does that hvmmu does not stands in docs/benchmarks.md.

    python benchmarks/peers.py [--write docs/benchmarks.md]

A quick try, of half a minute: --scale 0.01 --rounds 1 --programs sort. With --long the same
programs run ten times as long too, beside the peers that run a program whole.
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
import tempfile
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import TYPE_CHECKING, Any

import attrs
import peer_page
import peer_programs as programs
import peer_tools as tools
from peer_memory import memory
from peer_timing import Case, least, measure

from hvmmu._trace.hvt.reader import opened

if TYPE_CHECKING:
    from collections.abc import Iterator

HERE = Path(__file__).parent
PART = 1_000_000
"""Accesses that a slow peer gets."""
UNREDUCED = 20_000_000
"""Accesses of the unreduced run."""


def arguments(given: list[str]) -> argparse.Namespace:
    """Return what the command line asks for."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    add = parser.add_argument
    add("--programs", default=",".join(programs.PROGRAMS), help="some of %(default)s")
    add("--peers", default=",".join(tools.PEERS), help="some of %(default)s")
    add("--rounds", type=int, default=5, help="%(default)s by default")
    add("--scale", type=float, default=1.0, help="part of the programs' full sizes")
    add(
        "--long",
        type=float,
        nargs="?",
        const=10.0,
        metavar="TIMES",
        help="longer runs as well, %(const)g times the work by default; recording them takes long",
    )
    add(
        "--long-programs",
        default=",".join(programs.PROGRAMS),
        help="of --programs, those for --long",
    )
    add("--folder", type=Path, help="where traces are kept, and found at the next run")
    add("--dynamorio", type=Path, metavar="DIR", help="where a release of DynamoRIO is")
    add("--champsim", type=Path, metavar="BINARY", help="ChampSim's program")
    add("--json", type=Path, metavar="FILE", help="keep the figures here")
    add("--from", type=Path, metavar="FILE", dest="kept", help="measure nothing: figures kept")
    add("--write", type=Path, metavar="PAGE", help="put the figures between the page's marks")
    explicit = parser.parse_args(given)
    for option, known in (
        ("--programs", programs.PROGRAMS),
        ("--long-programs", programs.PROGRAMS),
        ("--peers", tools.PEERS),
    ):
        name = option.removeprefix("--").replace("-", "_")
        chosen = [one for one in getattr(explicit, name).split(",") if one]
        for one in set(chosen) - set(known):
            parser.error(f"{option}: {one!r} is none of {', '.join(known)}")
        setattr(explicit, name, chosen)
    return explicit


def run(explicit: argparse.Namespace, folder: Path) -> dict[str, Any]:
    """Measure everything that was asked for."""
    skipped: dict[str, str] = {}
    made: dict[str, Any] = {"programs": {}, "long": {}, "memory": {}, "skipped": skipped}
    longest = None
    for name in explicit.programs:
        try:
            trace = recorded(name, folder, explicit.scale)
            made["programs"][name] = figures(trace, folder, explicit, skipped)
        except programs.SkippedError as why:
            skipped[name] = str(why)
            continue
        if longest is None or trace.references > longest.references:
            longest = trace
    for name in explicit.long_programs if explicit.long else ():
        if name not in made["programs"]:
            continue
        try:
            trace = recorded(name, folder, explicit.scale * explicit.long, compared=False)
            made["long"][name] = whole(trace, folder, explicit, skipped)
        except programs.SkippedError as why:
            skipped[f"{name}, long"] = str(why)
    if longest is not None:
        tell("memory: a long trace")
        made["memory"] = memory(longest, folder, explicit.scale)
    return made | {
        "rounds": explicit.rounds,
        "runs": tools.OFTEN,
        "times": explicit.long,
        "versions": versions(),
    }


def recorded(name: str, folder: Path, scale: float, *, compared: bool = True) -> tools.Recorded:
    """Return a program of the benchmark, with its trace recorded, and its misses if *compared*."""
    make, size = programs.PROGRAMS[name]
    program = make(folder, max(int(size * scale), 1))
    tell(f"{name}: recording")
    programs.record(program)
    if not compared:
        with opened(program.trace) as file:
            return tools.Recorded(program, file.header.references, file.header.fetches, {})
    counted = program.trace.with_suffix(".json")
    if not counted.exists():
        tell(f"{name}: counting misses")
        made = _said(sys.executable, HERE / "misses.py", "--compare", name, program.size, folder)
        counted.write_text(json.dumps(made))
    misses = json.loads(counted.read_text())
    ours = misses["ours"]
    return tools.Recorded(program, ours["fetches"] + ours["data"], ours["fetches"], misses)


def figures(
    trace: tools.Recorded, folder: Path, explicit: argparse.Namespace, skipped: dict[str, str]
) -> dict[str, Any]:
    """Return what one program comes to with every tool."""
    cases = [tools.unreduced(trace, UNREDUCED), *tools.ours(trace, folder)]
    cases += theirs(trace, explicit.peers, explicit, skipped)
    return measured(trace, cases, explicit.rounds)


def whole(
    trace: tools.Recorded, folder: Path, explicit: argparse.Namespace, skipped: dict[str, str]
) -> dict[str, Any]:
    """Return what a long run comes to, with us and the peers that run the program themselves."""
    peers = [peer for peer in explicit.peers if peer in tools.LONG]
    cases = [*tools.ours(trace, folder), *theirs(trace, peers, explicit, skipped)]
    return measured(trace, cases, explicit.rounds)


def theirs(
    trace: tools.Recorded, peers: list[str], explicit: argparse.Namespace, skipped: dict[str, str]
) -> Iterator[Case]:
    """Yield the cases of *peers*; one that is missing is *skipped*, with the reason."""
    part = max(int(PART * min(explicit.scale * 10, 1)), 10_000)
    chosen = tools.Asked(explicit.dynamorio, explicit.champsim, part)
    for peer in peers:
        try:
            yield from tools.PEERS[peer](trace, chosen)
        except programs.SkippedError as why:
            skipped[peer] = str(why)


def measured(trace: tools.Recorded, cases: list[Case], rounds: int) -> dict[str, Any]:
    """Return what a program's cases take, and how many faults it has."""
    tell(f"{trace.program.name}: {trace.references:,} references, {rounds} rounds")
    for case in cases:
        if case.runs > 1:
            measure(case)  # does not count: byte code is written
    took = {name: attrs.asdict(one) for name, one in least(cases, rounds).items()}
    result = _said(*programs.hvmmu("run", "--backend", "vmx", "--json", trace.program.trace))
    return {
        "references": trace.references,
        "faults": result["runs"][0]["counters"]["guest_faults"],
        "misses": trace.misses,
        "cases": took,
    }


def versions() -> str:
    """Return the versions of what was measured."""
    names = [f"Python {sys.version.partition(' ')[0]}"]
    for package in ("hvmmu", "pycachesim", "unicorn"):
        try:
            names.append(f"{package} {version(package)}")
        except PackageNotFoundError:
            continue
    try:
        valgrind = programs.valgrind("--version")
        said = subprocess.run(valgrind, capture_output=True, text=True, check=True).stdout  # noqa: S603
        names.append(said.strip().replace("-", " "))
    except programs.SkippedError:
        pass
    return ", ".join(names)


def _said(*command: object) -> Any:  # noqa: ANN401 - whatever JSON it is
    ran = subprocess.run(list(map(str, command)), stdout=subprocess.PIPE, check=True)  # noqa: S603
    return json.loads(ran.stdout)


def tell(what: str) -> None:
    """Say what is going on."""
    print(what, file=sys.stderr, flush=True)


def main(given: list[str]) -> None:
    """Measure, print the table, and write what was asked for."""
    explicit = arguments(given)
    if explicit.kept is not None:
        made = json.loads(explicit.kept.read_text())
    else:
        with tempfile.TemporaryDirectory() as name:
            folder = (explicit.folder or Path(name)).resolve()
            folder.mkdir(parents=True, exist_ok=True)
            made = run(explicit, folder)
    if explicit.json is not None:
        explicit.json.write_text(json.dumps(made, indent=2) + "\n")
    shown = peer_page.text(made)
    print(shown, end="")
    if explicit.write is not None:
        peer_page.write(explicit.write, shown)


if __name__ == "__main__":
    main(sys.argv[1:])
