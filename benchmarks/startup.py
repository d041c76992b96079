"""What a start costs: whole processes, in milliseconds of processor time over a bare interpreter's.

The commands take turns, so that what else the machine does falls on all of them; of each the
fastest round counts. Bytecode is as an installation leaves it: written to a folder of its own by a
first round that does not count.

    python benchmarks/startup.py [ROUNDS]
"""

import subprocess
import sys
import tempfile
import time
from pathlib import Path
from resource import RUSAGE_CHILDREN, getrusage

from installed import environment

HVMMU = (sys.executable, "-m", "hvmmu")
SMALL = "demand-zero:pages=100"
SHIPPED = Path(__file__).parents[1] / "src" / "hvmmu" / "workloads" / "traces" / "dd.lackey.xz"


def commands(folder: str) -> dict[str, tuple[str, ...]]:
    """Return what is measured by name, the bare interpreter first."""
    compact = f"{folder}/dd.hvt"
    convert = (*HVMMU, "trace", "import", str(SHIPPED), "-o", compact)
    subprocess.run(convert, stdout=subprocess.DEVNULL, check=True)  # noqa: S603 - our own
    run = (*HVMMU, "run", "-b", "native")
    return {
        "python -c pass": (sys.executable, "-c", "pass"),
        "hvmmu --version": (*HVMMU, "--version"),
        "hvmmu --help": (*HVMMU, "--help"),
        f"hvmmu run {SMALL}": (*run, SMALL),
        "hvmmu run dd.hvt": (*run, compact),
        "hvmmu run (the shipped trace)": run,
        "hvmmu compare (the same)": (*HVMMU, "compare"),
    }


def milliseconds(command: tuple[str, ...], folder: str) -> tuple[float, float]:
    """Return the processor time and the wall time of one process."""
    environ = environment(folder)
    before, begun = getrusage(RUSAGE_CHILDREN), time.perf_counter()
    subprocess.run(  # noqa: S603 - our own
        command, cwd=folder, env=environ, stdout=subprocess.DEVNULL, check=True
    )
    wall, after = time.perf_counter() - begun, getrusage(RUSAGE_CHILDREN)
    used = after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime
    return 1e3 * used, 1e3 * wall


def main(rounds: int) -> None:
    """Print a line for each command."""
    with tempfile.TemporaryDirectory() as folder:
        measured = commands(folder)
        for command in measured.values():
            milliseconds(command, folder)
        times = [
            {name: milliseconds(command, folder) for name, command in measured.items()}
            for _ in range(rounds)
        ]
    least = {
        name: (min(t[name][0] for t in times), min(t[name][1] for t in times)) for name in measured
    }
    bare = least["python -c pass"][0]
    for name, (used, wall) in least.items():
        over = f"{used - bare:6.1f} over bare  {used / bare:5.1f} x"
        print(f"{name:32} {used:6.1f} ms CPU  {wall:6.1f} ms wall  {over}")


if __name__ == "__main__":
    main(int(sys.argv[1]) if len(sys.argv) > 1 else 20)
