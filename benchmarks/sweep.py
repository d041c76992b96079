"""What a sweep gains from two workers: 24 cells of equal work, with one and with two.

Both are whole commands of an installed hvmmu, start-up included; a cell takes about half a second.
Two CPUs are seldom wholly free, and two of one core are not two: so busy loops, which share
nothing, show in the same rounds what two processes gain here by running at once. A sweep can hardly
gain more, and what part of that it gains means something where the gain alone does not. All take
turns, and of each the fastest round counts: what else the machine does only makes a round slower.

    python benchmarks/sweep.py [PAGES] [ROUNDS]
"""

import shutil
import subprocess
import sys
import tempfile
import time
from pathlib import Path

from installed import environment

GRID = """\
workload = [{workloads}]
backend = "native"
guest.memory = "4G"
"""
CELLS = 24
JOBS = 1, 2
GOAL = 1.9
"""Of the 2 that two free CPUs gain."""
BUSY = "x = 0\nfor n in range({turns}): x += n"
SPIN = 4_000_000
"""Turns of a short loop; a long one lasts as the sweep with two workers does."""


def seconds(folder: Path, *commands: list[str]) -> float:
    """Return how long commands take that begin together."""
    environ = environment(folder)
    begun = time.perf_counter()
    running = [
        subprocess.Popen(one, stdout=subprocess.DEVNULL, env=environ)  # noqa: S603 - our own
        for one in commands
    ]
    codes = [one.wait() for one in running]
    took = time.perf_counter() - begun
    if any(codes):
        raise SystemExit(f"failed: {commands}")
    return took


def swept(folder: Path, jobs: int) -> float:
    """Return how long a sweep takes with so many workers."""
    cells = folder / "cells"
    shutil.rmtree(cells, ignore_errors=True)
    command = [sys.executable, "-m", "hvmmu", "sweep", str(folder / "grid.toml")]
    return seconds(folder, [*command, "-o", str(cells), "--jobs", str(jobs)])


def planned(folder: Path, pages: int) -> None:
    """Write the grid: each cell has as many pages as the others, and a seed of its own."""
    kinds = [f'"demand-zero:pages={pages},seed={seed}"' for seed in range(CELLS)]
    (folder / "grid.toml").write_text(GRID.format(workloads=", ".join(kinds)))


def busy(turns: int) -> list[str]:
    """Return the command of a loop."""
    return [sys.executable, "-c", BUSY.format(turns=turns)]


def measured(folder: Path, rounds: int) -> tuple[dict[int, float], dict[int, float]]:
    """Return the seconds of the sweep by workers, and of two loops by how many run at once."""
    swept(folder, 2)  # does not count: byte code is written
    spin = seconds(folder, busy(SPIN))
    loop = busy(max(int(SPIN * swept(folder, 2) / spin), SPIN))
    sweeps: dict[int, list[float]] = {jobs: [] for jobs in JOBS}
    loops: dict[int, list[float]] = {jobs: [] for jobs in JOBS}
    for _ in range(rounds):
        sweeps[1].append(swept(folder, 1))
        loops[1].append(seconds(folder, loop) + seconds(folder, loop))
        sweeps[2].append(swept(folder, 2))
        loops[2].append(seconds(folder, loop, loop))
    return {n: min(took) for n, took in sweeps.items()}, {n: min(took) for n, took in loops.items()}


def told(sweeps: dict[int, float], loops: dict[int, float]) -> str:
    """Return the figures in words."""
    gain, ceiling = sweeps[1] / sweeps[2], loops[1] / loops[2]
    return (
        f"{CELLS} cells: 1 worker {sweeps[1]:.2f} s, 2 workers {sweeps[2]:.2f} s:"
        f" {gain:.2f} times as fast (goal, on two free CPUs: {GOAL})\n"
        f"two busy loops: one after the other {loops[1]:.2f} s, at once {loops[2]:.2f} s:"
        f" {ceiling:.2f} times as fast\n"
        f"the sweep gains {gain / ceiling:.0%} of what the loops do (goal: {GOAL / 2:.0%})\n"
    )


def main(pages: str = "262144", rounds: str = "3") -> None:
    """Measure, and print."""
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        planned(folder, int(pages))
        print(told(*measured(folder, int(rounds))), end="")


if __name__ == "__main__":
    main(*sys.argv[1:])
