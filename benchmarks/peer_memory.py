"""Peak memory of hvmmu by the length of a trace: one that is repeated, and cut."""

from __future__ import annotations

import subprocess
from typing import TYPE_CHECKING

import peer_programs as programs
from installed import environment
from peer_timing import Case, measure

if TYPE_CHECKING:
    from pathlib import Path

    from peer_tools import Recorded

LENGTHS = 20_000_000, 100_000_000, 200_000_000
"""References of the runs whose peak memory is taken."""


def memory(trace: Recorded, folder: Path, scale: float) -> dict[str, float]:
    """Return peak memory in MiB by length."""
    lengths = [max(int(length * scale), 1) for length in LENGTHS]
    joined = folder / f"joined-{trace.program.name}-{lengths[-1]}.hvt"
    if not joined.exists():
        repeat(trace, joined, lengths[-1])
    found = {}
    for length in lengths:
        run = programs.hvmmu("run", "--backend", "vmx", "--limit", str(length), joined)
        case = Case("memory", tuple(run), length, environment=environment(folder))
        found[str(length)] = measure(case).mebibytes
    return found


def repeat(trace: Recorded, joined: Path, length: int) -> None:
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
