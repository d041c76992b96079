"""What a sweep gains from two workers: 24 cells of equal work, with one and with two.

Both are whole commands, start-up included. They take turns, and of each the fastest round counts:
what else the machine does only makes a round slower. The ratio means something only where two
CPUs are free; a probe with two busy loops says how free they were.

    python benchmarks/sweep.py [PAGES] [ROUNDS]
"""

import shutil
import subprocess
import sys
import tempfile
import time
from pathlib import Path

GRID = """\
workload = [{workloads}]
backend = "native"
guest.memory = "1G"
"""
JOBS = 1, 2
BUSY = "x = 0\nfor n in range(10_000_000): x += n"


def seconds(*commands: list[str]) -> float:
    """Return how long commands take that begin together."""
    begun = time.perf_counter()
    running = [subprocess.Popen(one, stdout=subprocess.DEVNULL) for one in commands]  # noqa: S603
    if any(one.wait() for one in running):
        raise SystemExit(f"failed: {commands}")
    return time.perf_counter() - begun


def swept(folder: Path, jobs: int) -> float:
    """Return how long a sweep takes with so many workers."""
    cells = folder / "cells"
    shutil.rmtree(cells, ignore_errors=True)
    command = [sys.executable, "-m", "hvmmu", "sweep", str(folder / "grid.toml")]
    return seconds([*command, "-o", str(cells), "--jobs", str(jobs)])


def main() -> None:
    """Measure, and print."""
    pages, rounds = (int(text) for text in (*sys.argv[1:], *("2000", "3")[len(sys.argv) - 1 :]))
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        kinds = [f'"demand-zero:pages={pages},seed={seed}"' for seed in range(24)]
        (folder / "grid.toml").write_text(GRID.format(workloads=", ".join(kinds)))
        best = dict.fromkeys(JOBS, float("inf"))
        alone = together = float("inf")
        busy = [sys.executable, "-c", BUSY]
        for _ in range(rounds):
            for jobs in JOBS:
                best[jobs] = min(best[jobs], swept(folder, jobs))
            alone, together = min(alone, seconds(busy)), min(together, seconds(busy, busy))
    for jobs, took in best.items():
        print(f"24 cells, {jobs} worker{'s' * (jobs > 1)}: {took:.2f} s")
    print(f"ratio: {best[1] / best[2]:.2f} (two busy loops at once: {2 * alone / together:.2f})")


if __name__ == "__main__":
    main()
