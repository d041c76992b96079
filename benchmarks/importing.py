"""How fast a trace is imported, beside how fast lackey makes one: processor seconds, and bytes.

Lackey, writing its lines to a file, and the import of that file take turns.

    python benchmarks/importing.py [ROUNDS]
"""

from __future__ import annotations

import lzma
import sys
import tempfile
from pathlib import Path

import attrs
from installed import environment
from peer_programs import Program, SkippedError, hvmmu, python, sort, valgrind
from peer_timing import Case, least

SIZES = ((sort, 5_000), (python, 500))
GOALS = "goals: 20 times lackey's rate, 0.3 bytes a reference, 0.1 packed"


def lackey(log: Path) -> list[str]:
    """Return the start of a command that writes a trace to *log*."""
    return valgrind(
        "--tool=lackey", "--trace-mem=yes", "--basic-counts=no", f"--log-file={log.resolve()}"
    )


def compare(program: Program, folder: Path, rounds: int) -> str:
    """Return a line about one program."""
    text, made = folder / f"{program.name}.lackey", folder / f"{program.name}.hvt"

    case = Case("lackey", (*lackey(text), *program.command), 0, program.folder, program.environment)
    least([case], 1)
    with text.open("rb") as lines:
        references = sum(line[:1] == b"I" or line[1:2] in b"LSM" for line in lines)
    importing = hvmmu("trace", "import", text.resolve(), "-o", made.resolve(), "--force")
    took = least(
        [
            attrs.evolve(case, references=references),
            Case("import", tuple(importing), references, environment=environment(folder)),
        ],
        rounds,
    )
    rates = {name: references / one.seconds for name, one in took.items()}
    size, packed = made.stat().st_size, len(lzma.compress(made.read_bytes()))
    return (
        f"{program.name:8} {references:>11,} references: lackey {rates['lackey'] / 1e6:.2f} M/s,"
        f" import {rates['import'] / 1e6:.1f} M/s, {rates['import'] / rates['lackey']:.0f} times;"
        f" {size / references:.3f} bytes a reference, {packed / references:.3f} packed by xz"
    )


def main(rounds: str = "5") -> None:
    """Print a line for each program; exit with a reason if valgrind is missing."""
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        for make, size in SIZES:
            try:
                print(compare(make(folder, size), folder, int(rounds)))
            except SkippedError as why:
                raise SystemExit(str(why)) from None
    print(GOALS)


if __name__ == "__main__":
    main(*sys.argv[1:])
