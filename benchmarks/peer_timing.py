"""Processor seconds and peak memory of whole processes; of several rounds, the least counts."""

from __future__ import annotations

import json
import subprocess
import sys
import tempfile
from typing import IO, TYPE_CHECKING

import attrs

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence
    from pathlib import Path


@attrs.frozen
class Case:
    """A process to measure.

    What it simulates is *references*, or what it says in one JSON line, together with the seconds
    that this alone took.
    """

    name: str
    command: tuple[str, ...]
    references: int | None = None
    folder: Path | None = None
    environment: Mapping[str, str] | None = None
    says: bool = False
    runs: int = 1
    """In each round. The first counts; the others are for differences, which need many."""


@attrs.frozen
class Measured:
    """What a case took."""

    seconds: float
    """Processor time, user's and system's."""
    references: int
    mebibytes: float
    """Most memory that was resident."""
    floor: float = float("nan")
    """Least seconds of all runs, not the first of each round alone."""
    apart: float = 0.0
    """How far the least of every other run is from that of the rest: what a floor is worth."""


_LAUNCH = """
import json, os, sys
child = os.posix_spawnp(sys.argv[2], sys.argv[2:], os.environ)
_, status, used = os.wait4(child, 0)
told = os.waitstatus_to_exitcode(status), used.ru_utime + used.ru_stime, used.ru_maxrss
os.write(int(sys.argv[1]), json.dumps(told).encode())
"""
"""Starts a command from a small process: peak memory includes what its parent had when it began."""


def measure(case: Case) -> Measured:
    """Run it once; raise SystemExit with its last words if it fails."""
    with (
        tempfile.TemporaryFile() as out,
        tempfile.TemporaryFile() as err,
        tempfile.TemporaryFile() as used,
    ):
        launch = sys.executable, "-I", "-S", "-c", _LAUNCH, str(used.fileno())
        subprocess.run(  # noqa: S603
            (*launch, *case.command),
            cwd=case.folder,
            env=None if case.environment is None else dict(case.environment),
            stdin=subprocess.DEVNULL,
            stdout=out,
            stderr=err,
            pass_fds=(used.fileno(),),
            check=False,
        )
        told = _text(used)
        code, seconds, kibibytes = json.loads(told) if told else (None, 0.0, 0)
        if code != 0:
            raise SystemExit(f"{case.name}: exit code {code}: {_text(err)[-500:]}")
        said = json.loads(_text(out)) if case.says else {}
    references = said.get("references", case.references)
    return Measured(said.get("seconds", seconds), references, kibibytes / 1024)


def least(cases: Sequence[Case], rounds: int) -> dict[str, Measured]:
    """Measure cases in turns, so that what else the machine does falls on all of them."""
    runs: dict[str, list[Measured]] = {case.name: [] for case in cases}
    for _ in range(rounds):
        for nth in range(max(case.runs for case in cases)):
            for case in cases:
                if nth < case.runs:
                    runs[case.name].append(measure(case))
    return {case.name: _least(runs[case.name], case.runs) for case in cases}


def _least(runs: Sequence[Measured], a_round: int) -> Measured:
    best = min(runs[::a_round], key=lambda run: run.seconds)
    seconds = [run.seconds for run in runs]
    rest = seconds[1::2] or seconds
    apart = abs(min(seconds[::2]) - min(rest))
    return attrs.evolve(best, floor=min(seconds), apart=apart)


def _text(file: IO[bytes]) -> str:
    file.seek(0)
    return file.read().decode(errors="replace")
