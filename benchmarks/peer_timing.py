"""Processor seconds and peak memory of whole processes; of several rounds, the least counts."""

from __future__ import annotations

import json
import os
import subprocess
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


@attrs.frozen
class Measured:
    """What a case took."""

    seconds: float
    """Processor time, user's and system's."""
    references: int
    mebibytes: float
    """Most memory that was resident."""


def measure(case: Case) -> Measured:
    """Run it once; raise SystemExit with its last words if it fails."""
    with tempfile.TemporaryFile() as out, tempfile.TemporaryFile() as err:
        process = subprocess.Popen(  # noqa: S603
            case.command,
            cwd=case.folder,
            env=None if case.environment is None else dict(case.environment),
            stdin=subprocess.DEVNULL,
            stdout=out,
            stderr=err,
        )
        _, status, used = os.wait4(process.pid, 0)
        process.returncode = os.waitstatus_to_exitcode(status)
        if process.returncode:
            raise SystemExit(f"{case.name}: exit code {process.returncode}: {_text(err)[-500:]}")
        said = json.loads(_text(out)) if case.says else {}
    seconds = said.get("seconds", used.ru_utime + used.ru_stime)
    references = said.get("references", case.references)
    return Measured(seconds, references, used.ru_maxrss / 1024)


def least(cases: Sequence[Case], rounds: int) -> dict[str, Measured]:
    """Measure cases in turns, so that what else the machine does falls on all of them."""
    best: dict[str, Measured] = {}
    for _ in range(rounds):
        for case in cases:
            made = measure(case)
            if case.name not in best or made.seconds < best[case.name].seconds:
                best[case.name] = made
    return best


def _text(file: IO[bytes]) -> str:
    file.seek(0)
    return file.read().decode(errors="replace")
