"""How each tool is run on a program: its command lines, and how to get it where it is missing."""

from __future__ import annotations

import importlib.util
import json
import subprocess
import sys
from pathlib import Path
from typing import TYPE_CHECKING

import attrs
import peer_programs as programs
from installed import environment
from peer_timing import Case

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

HERE = Path(__file__).parent
CACHES = (
    "--cache-sim=yes",
    "--I1=262144,4,4096",
    "--D1=262144,4,4096",
    "--LL=6291456,12,4096",
)
"""cachegrind's caches as a TLB: 64 entries each for instructions and data, 1,536 shared behind."""

DYNAMORIO = (
    *("-simulator_type", "TLB", "-cores", "1", "-page_size", "4096"),
    *("-TLB_L1I_entries", "64", "-TLB_L1I_assoc", "4"),
    *("-TLB_L1D_entries", "64", "-TLB_L1D_assoc", "4"),
    *("-TLB_L2_entries", "1536", "-TLB_L2_assoc", "12"),
)
"""The same TLB for DynamoRIO's simulator, but for LRU: older releases replace by frequency only."""

OFTEN = 5
"""Runs of ours in each round: start-up is subtracted, and what is left is small beside both."""


@attrs.frozen
class Asked:
    """What the user asked for."""

    dynamorio: Path | None = None
    champsim: Path | None = None
    part: int = 1_000_000
    """Accesses that a slow peer gets."""


@attrs.frozen
class Recorded:
    """A program and what its trace holds."""

    program: programs.Program
    references: int
    fetches: int
    misses: Mapping[str, Mapping[str, int]]
    """Counted by `ours` and, where it is installed, by `cachegrind`."""

    @property
    def density(self) -> float:
        """Loads and stores by the instruction."""
        return (self.references - self.fetches) / self.fetches


def cachegrind(trace: Recorded, explicit: Asked) -> list[Case]:
    """Return the program under cachegrind, whose caches are the TLB, and `true` for start-up."""
    del explicit
    valgrind = programs.valgrind("--tool=cachegrind", "--cachegrind-out-file=/dev/null", *CACHES)
    whole = _online("cachegrind", valgrind, trace)
    command = (*valgrind, programs.found("true"))
    start = attrs.evolve(whole, name="cachegrind, start-up", command=command, runs=OFTEN)
    return [whole, start]


def dynamorio(trace: Recorded, explicit: Asked) -> list[Case]:
    """Return the program under DynamoRIO's TLB simulator."""
    if explicit.dynamorio is None:
        todo = "unpack a release of github.com/DynamoRIO/dynamorio, and pass --dynamorio DIR"
        raise programs.SkippedError(f"not installed: {todo}")
    drrun = explicit.dynamorio / "bin64" / "drrun"
    if not drrun.is_file():
        raise programs.SkippedError(f"{drrun} is not there: DIR is where the release was unpacked")
    return [_online("DynamoRIO", [str(drrun), "-t", "drcachesim", *DYNAMORIO, "--"], trace)]


def champsim(trace: Recorded, explicit: Asked) -> list[Case]:
    """Return ChampSim over the first instructions of the trace, in its own format."""
    if explicit.champsim is None:
        todo = "build github.com/ChampSim/ChampSim, and pass --champsim BINARY"
        raise programs.SkippedError(f"not installed: {todo}")
    if not explicit.champsim.is_file():
        raise programs.SkippedError(f"{explicit.champsim} is missing: BINARY is ChampSim's program")
    made = trace.program.trace.with_suffix(".champsim.gz")
    command = [*_child("champsim"), str(trace.program.trace), str(explicit.part // 2), str(made)]
    said = subprocess.run(command, check=True, capture_output=True)  # noqa: S603
    written = json.loads(said.stdout)
    run = (str(explicit.champsim.resolve()), "-w", "0", "-i", str(written["instructions"] - 1))
    return [Case("ChampSim", (*run, str(made)), written["references"])]


def pycachesim(trace: Recorded, explicit: Asked) -> list[Case]:
    """Return pycachesim, fed with the first accesses from Python's memory."""
    _need("cachesim", "pycachesim")
    start = (*_child("pycachesim"), str(trace.program.trace))
    return [
        Case("pycachesim, by call", (*start, str(explicit.part // 2), "call"), says=True),
        Case("pycachesim, batch", (*start, str(explicit.part), "batch"), says=True),
    ]


def unicorn(trace: Recorded, explicit: Asked) -> list[Case]:
    """Return Unicorn with a loop of the program's density of loads and stores."""
    _need("unicorn", "unicorn")
    start = (*_child("unicorn"), str(explicit.part), f"{trace.density:.3f}")
    return [
        Case("Unicorn, loads and stores", (*start, "memory"), says=True),
        Case("Unicorn, all references", (*start, "all"), says=True),
    ]


PEERS: dict[str, Callable[[Recorded, Asked], list[Case]]] = {
    "cachegrind": cachegrind,
    "dynamorio": dynamorio,
    "champsim": champsim,
    "unicorn": unicorn,
    "pycachesim": pycachesim,
}
"""What runs each peer; raises SkippedError, with the way to install it, where it is missing."""


LONG = ("cachegrind", "dynamorio")
"""Peers that run the program itself, whole: those of the long runs."""


def ours(trace: Recorded, folder: Path) -> list[Case]:
    """Return hvmmu's whole commands, as installed, and the same with one reference: start-up."""
    cases = []
    for backend in ("native", "vmx"):
        for name, path, count in (
            (backend, trace.program.trace, trace.references),
            (f"{backend}, start-up", nothing(folder), 1),
        ):
            run = tuple(programs.hvmmu("run", "--backend", backend, path))
            cases.append(Case(name, run, count, environment=environment(folder), runs=OFTEN))
    return cases


def nothing(folder: Path) -> Path:
    """Return a trace of one reference, made if it is not there."""
    made = folder / "nothing.hvt"
    if not made.exists():
        text = b"kind,address\nfetch,0x401000\n"
        command = programs.hvmmu("trace", "import", "-", "-o", made)
        subprocess.run(command, input=text, check=True, capture_output=True)  # noqa: S603
    return made


def unreduced(trace: Recorded, most: int) -> Case:
    """Return the path that leaves nothing out, over a part of the trace in memory."""
    command = (*_child("unreduced"), str(trace.program.trace), str(most))
    return Case("unreduced", command, says=True)


def _online(name: str, tool: list[str], trace: Recorded) -> Case:
    """Return the program under a tool that needs no trace."""
    program = trace.program
    command = (*tool, *program.command)
    return Case(name, command, trace.references, program.folder, program.environment)


def _need(module: str, package: str) -> None:
    if importlib.util.find_spec(module) is None:
        raise programs.SkippedError(f"not installed: pip install {package}")


def _child(name: str) -> tuple[str, str]:
    return sys.executable, str(HERE / f"peer_{name}.py")
