"""hvmmu beside other tools, on the same programs and references, in CPU seconds.

Each program is recorded once; then hvmmu and every peer that is installed take turns, whole
processes, and of each the round that took least counts. Ratios mean something where absolute
numbers do not. What each peer does that hvmmu does not stands in docs/benchmarks.md.

    python benchmarks/peers.py [--write docs/benchmarks.md]

A quick try, of half a minute: --scale 0.01 --rounds 1 --programs sort.
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
import tempfile
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

import attrs
import peer_page
import peer_programs as programs
import peer_tools as tools
from peer_timing import Case, least, measure

HERE = Path(__file__).parent
LENGTHS = 20_000_000, 100_000_000, 200_000_000
"""References of the runs whose peak memory is taken."""
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
    add("--folder", type=Path, help="where traces are kept, and found at the next run")
    add("--dynamorio", type=Path, metavar="DIR", help="where a release of DynamoRIO is")
    add("--champsim", type=Path, metavar="BINARY", help="ChampSim's program")
    add("--json", type=Path, metavar="FILE", help="keep the figures here")
    add("--from", type=Path, metavar="FILE", dest="kept", help="measure nothing: figures kept")
    add("--write", type=Path, metavar="PAGE", help="put the figures between the page's marks")
    asked = parser.parse_args(given)
    for name, known in (("programs", programs.PROGRAMS), ("peers", tools.PEERS)):
        chosen = [one for one in getattr(asked, name).split(",") if one]
        for one in set(chosen) - set(known):
            parser.error(f"--{name}: {one!r} is none of {', '.join(known)}")
        setattr(asked, name, chosen)
    return asked


def run(asked: argparse.Namespace, folder: Path) -> dict[str, Any]:
    """Measure everything that was asked for."""
    made: dict[str, Any] = {"programs": {}, "memory": {}, "skipped": {}, "rounds": asked.rounds}
    longest = None
    for name in asked.programs:
        try:
            trace = recorded(name, folder, asked.scale)
            made["programs"][name] = figures(trace, asked, made["skipped"])
        except programs.SkippedError as why:
            made["skipped"][name] = str(why)
            continue
        if longest is None or trace.references > longest.references:
            longest = trace
    if longest is not None:
        made["memory"] = memory(longest, folder, asked.scale)
    made["versions"] = versions()
    return made


def recorded(name: str, folder: Path, scale: float) -> tools.Recorded:
    """Return a program of the benchmark, with its trace recorded."""
    make, size = programs.PROGRAMS[name]
    program = make(folder, max(int(size * scale), 1))
    tell(f"{name}: recording")
    programs.record(program)
    counted = program.trace.with_suffix(".json")
    if not counted.exists():
        tell(f"{name}: counting misses")
        made = _said(sys.executable, HERE / "misses.py", "--compare", name, program.size, folder)
        counted.write_text(json.dumps(made))
    compared = json.loads(counted.read_text())
    ours = compared["ours"]
    references = ours["fetches"] + ours["data"]
    return tools.Recorded(program, references, ours["fetches"], compared)


def figures(
    trace: tools.Recorded, asked: argparse.Namespace, skipped: dict[str, str]
) -> dict[str, Any]:
    """Return what one program comes to with every tool."""
    nothing = trace.program.traces / "nothing.hvt"
    if not nothing.exists():
        text = "kind,address\nfetch,0x401000\n"
        command = programs.hvmmu("trace", "import", "-", "-o", nothing)
        subprocess.run(command, input=text.encode(), check=True, capture_output=True)  # noqa: S603
    part = max(int(PART * min(asked.scale * 10, 1)), 10_000)
    chosen = tools.Asked(asked.dynamorio, asked.champsim, part)
    cases = tools.ours(trace, nothing, UNREDUCED)
    for peer in asked.peers:
        try:
            cases.extend(tools.PEERS[peer](trace, chosen))
        except programs.SkippedError as why:
            skipped[peer] = str(why)
    tell(f"{trace.program.name}: {trace.references:,} references, {asked.rounds} rounds")
    measured = {name: attrs.asdict(one) for name, one in least(cases, asked.rounds).items()}
    result = _said(*programs.hvmmu("run", "--backend", "vmx", "--json", trace.program.trace))
    faults = result["runs"][0]["counters"]["guest_faults"]
    return {
        "references": trace.references,
        "faults": faults,
        "misses": trace.misses,
        "cases": measured,
    }


def memory(trace: tools.Recorded, folder: Path, scale: float) -> dict[str, float]:
    """Return peak memory in MiB by length: a trace repeated, and cut."""
    lengths = [max(int(length * scale), 1) for length in LENGTHS]
    joined = folder / f"joined-{trace.program.name}-{lengths[-1]}.hvt"
    tell(f"memory: a trace of {lengths[-1]:,} references")
    if not joined.exists():
        repeat(trace, joined, lengths[-1])
    found = {}
    for length in lengths:
        run = programs.hvmmu("run", "--backend", "vmx", "--limit", str(length), joined)
        found[str(length)] = measure(Case("memory", tuple(run), length)).mebibytes
    return found


def repeat(trace: tools.Recorded, joined: Path, length: int) -> None:
    """Make a trace of *length* references: another one again and again."""
    importing = programs.hvmmu(
        "trace", "import", "-", "-o", joined, "--format", "lackey", "--limit", str(length)
    )
    export = programs.hvmmu("trace", "export", trace.program.trace)
    made = subprocess.Popen(importing, stdin=subprocess.PIPE, stdout=subprocess.DEVNULL)  # noqa: S603
    assert made.stdin is not None
    for _ in range(-(-length // trace.references)):
        # The last export ends when the import has enough.
        subprocess.run(export, stdout=made.stdin, stderr=subprocess.DEVNULL, check=False)  # noqa: S603
    made.stdin.close()
    if made.wait():
        raise SystemExit("memory: the trace could not be made")


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
    asked = arguments(given)
    if asked.kept is not None:
        made = json.loads(asked.kept.read_text())
    else:
        with tempfile.TemporaryDirectory() as name:
            folder = (asked.folder or Path(name)).resolve()
            folder.mkdir(parents=True, exist_ok=True)
            made = run(asked, folder)
    if asked.json is not None:
        asked.json.write_text(json.dumps(made, indent=2) + "\n")
    shown = peer_page.text(made)
    print(shown, end="")
    if asked.write is not None:
        peer_page.write(asked.write, shown)


if __name__ == "__main__":
    main(sys.argv[1:])
