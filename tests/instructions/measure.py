"""Instructions of our own C for each reference, fault or line, as callgrind counts them.

    python tests/instructions/measure.py            # print them beside the recorded ones
    python tests/instructions/measure.py --renew    # and record them

They repeat exactly with the same compiled code, on any machine whose CPU has the same extensions.
Counted is what runs in the two extensions: not Python, and not the C library. Of loads whose names
begin with `all_` all counts; those are for comparing with each other, and are not recorded.
"""

from __future__ import annotations

import importlib.util
import os
import re
import shutil
import subprocess
import sys
import tempfile
import tomllib
from collections import Counter
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Iterable

HERE = Path(__file__).parent
RECORDED = HERE / "recorded.toml"
HEAD = """\
# Instructions of the compiled code for each reference, fault or line; see measure.py, which writes
# this: python tests/instructions/measure.py --renew
"""


class MissingError(Exception):
    """Something is not there that this takes; the message says what."""


def kernels() -> list[Path]:
    """Return the extensions' files."""
    spec = importlib.util.find_spec("hvmmu")
    folders = (spec.submodule_search_locations if spec else None) or []
    return [path for at in folders for path in sorted(Path(at).glob("_core/_lib*.so"))]


def compiler() -> str:
    """Return the compiler that built the extensions, without the smaller parts of its version."""
    told = re.search(rb"(GCC: |clang version )(?:\([^)]*\) )?([0-9]+)", kernels()[0].read_bytes())
    return (told[1].split()[0] + b" " + told[2]).decode().replace(":", "") if told else "unknown"


def check() -> None:
    """Raise MissingError if nothing can be measured here."""
    if not kernels():
        raise MissingError("the C extension was not built")
    if "HVMMU_SANITIZED" in os.environ:
        raise MissingError("the sanitizers' own instructions would be counted")
    for tool in ("valgrind", "cc"):
        if not shutil.which(tool):
            raise MissingError(f"{tool} is not installed")


def costs(profile: Iterable[str], *, everywhere: bool = False) -> int:
    """Return the instructions that a part of a profile has in the extensions, callees left out.

    *everywhere*: in all there is.
    """
    names: dict[str, str] = {}
    ours, is_call, total = False, False, 0
    for line in profile:
        if named := re.match(r"c?ob=(\(\d+\))(?: (.+))?", line):
            if named[2]:
                names[named[1]] = named[2]
            if line.startswith("ob="):
                ours = "/_lib." in names[named[1]]
        elif line.startswith("calls="):
            is_call = True
        elif line[:1] in "0123456789+-*" and line.strip():
            if (ours or everywhere) and not is_call:
                total += int(line.split()[1])
            is_call = False
    return total


def measured() -> dict[str, float]:
    """Run the loads; return instructions by name. Raise MissingError."""
    check()
    plain = {k: v for k, v in os.environ.items() if not k.startswith(("COV", "LD_PRELOAD"))}
    with tempfile.TemporaryDirectory() as folder:
        marks = Path(folder, "marks.so")
        build = ["cc", "-shared", "-fPIC", "-o", str(marks), str(HERE / "marks.c")]
        if subprocess.run(build, capture_output=True, check=False).returncode:
            raise MissingError("valgrind's headers are not installed")
        program = [sys.executable, str(HERE / "program.py"), str(marks)]
        grind = ["valgrind", "-q", "--tool=callgrind", "--instr-atstart=no"]
        ended = subprocess.run(
            [*grind, f"--callgrind-out-file={folder}/out", *program],
            env=plain | {"PYTHONHASHSEED": "0"},
            capture_output=True,
            text=True,
            check=False,
        )
        if ended.returncode:
            raise RuntimeError(ended.stderr)
        spent: Counter[str] = Counter()
        for path in Path(folder).glob("out.*"):
            lines = path.read_text(encoding="utf-8").splitlines()
            named = next(line for line in lines if line.startswith("desc: Trigger:"))
            name = named.rpartition(":")[2].strip()
            spent[name] += costs(lines, everywhere=name.startswith("all_"))
    counts = dict(line.split() for line in ended.stdout.splitlines())
    return {name: round(spent[name] / int(count), 2) for name, count in counts.items()}


def recorded() -> dict[str, dict[str, float | str]]:
    """Return what is recorded: a table of facts, and one of instructions by name."""
    return tomllib.loads(RECORDED.read_text(encoding="utf-8"))


def renew(found: dict[str, float]) -> None:
    """Record what was measured."""
    lines = [f"{name} = {cost}\n" for name, cost in found.items() if not name.startswith("all_")]
    facts = f'[built]\ncompiler = "{compiler()}"\n\n[instructions]\n'
    RECORDED.write_text(HEAD + facts + "".join(lines), encoding="utf-8")


def main() -> None:
    """Measure; print, and record if that is asked for."""
    try:
        found = measured()
    except MissingError as missing:
        sys.exit(f"nothing measured: {missing}")
    before = recorded()["instructions"] if RECORDED.exists() else {}
    for name, cost in found.items():
        was = before.get(name, "")
        sys.stdout.write(f"{name:17} {cost:10.2f}   recorded {was}\n")
    if "--renew" in sys.argv[1:]:
        renew(found)


if __name__ == "__main__":
    main()
