"""Misses of our TLB beside those of cachegrind, whose caches are made a TLB: equal to the unit.

cachegrind sees virtual addresses and no page tables: nothing faults, and no kernel shares the TLB.
So a trace is run in a machine whose guest has mapped every page of it before, with a TLB that the
trace has not used yet; whatever else is in there goes first and displaces nothing, as LRU has it.

    python benchmarks/misses.py [--record DIR]
"""

from __future__ import annotations

import argparse
import contextlib
import json
import lzma
import os
import re
import sys
import tempfile
from array import array
from pathlib import Path
from typing import TYPE_CHECKING, Any

import attrs
import peer_programs as programs
from peer_tools import CACHES

from hvmmu._engines import DEFAULT
from hvmmu._native import NativeBackend
from hvmmu._trace.grammar import STRADDLES
from hvmmu._trace.hvt import HvtTrace
from hvmmu._trace.hvt.reader import opened
from hvmmu.arch import pfec as pf
from hvmmu.machine import Machine, MachineConfig
from hvmmu.steps import FIRST_PID, Accesses, ReducedAccesses, StartMeasuring, Step, SwitchTo

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator

    from hvmmu.backend import Backend
    from hvmmu.engine import Engine

_SAID = {
    "fetches": r"I +refs: +([\d,]+)",
    "data": r"D +refs: +([\d,]+)",
    "instruction_misses": r"I1 +misses: +([\d,]+)",
    "data_misses": r"D1 +misses: +([\d,]+)",
    "misses": r"LL misses: +([\d,]+)",
}
_SECONDS = re.compile(b"[%c-\xff]" % STRADDLES)


@attrs.frozen
class Counts:
    """References, and which of them missed."""

    fetches: int
    data: int
    instruction_misses: int
    data_misses: int
    misses: int
    """Misses of the last level."""


@attrs.frozen
class Doubles:
    """References across two pages that missed in both: two misses of ours, one of cachegrind's."""

    instruction_misses: int = 0
    data_misses: int = 0
    misses: int = 0


def cachegrind(program: programs.Program) -> Counts:
    """Run the program under cachegrind, as it was recorded, to the last file descriptor."""
    reading, writing = os.pipe()
    with programs.started(
        [*cachegrind_options(writing), *program.command], program, writing
    ) as ran:
        os.close(writing)
        with open(reading) as said:  # noqa: PTH123 - a descriptor, not a path
            text = said.read()
    if ran.returncode:
        raise SystemExit(f"{program.name}: cachegrind failed: {text[-200:]}")
    return parsed(text)


def cachegrind_options(log: int) -> list[str]:
    """Return cachegrind's command line up to the program; it writes to the descriptor *log*."""
    return programs.valgrind(
        "--tool=cachegrind", "--cachegrind-out-file=/dev/null", f"--log-fd={log}", *CACHES
    )


def parsed(said: str) -> Counts:
    """Return what cachegrind said at its end; raise ValueError if it did not."""
    numbers = {}
    for name, pattern in _SAID.items():
        found = re.search(pattern, said)
        if found is None:
            raise ValueError(f"cachegrind has not said its {name}: {said[-200:]!r}")
        numbers[name] = int(found[1].replace(",", ""))
    return Counts(**numbers)


def ours(
    trace: Path,
    backend: type[Backend[Any]] = NativeBackend,
    engine: type[Engine] = DEFAULT,
    *,
    reduced: bool = True,
) -> Counts:
    """Run a compact trace with its pages mapped; what misses in two pages misses twice.

    Without *reduced* all accesses are run, those too that can change nothing.
    """
    steps = HvtTrace(trace).steps()
    with opened(trace) as file:
        second = [0, 0]
        for _, kind in _windows(trace):
            _count_second(kind, second)
        fetches, accesses = file.header.fetches, file.header.accesses
    machine = _mapped(trace, backend, engine)
    before, faults = _misses(machine), machine.guest.faults
    next(steps)
    for step in steps:
        for part in [step] if reduced or not isinstance(step, ReducedAccesses) else step.whole():
            machine.step(part)
    missed = (now - then for then, now in zip(before, _misses(machine), strict=True))
    if machine.guest.faults != faults or machine.vcpu.ledger.exits:
        raise AssertionError("a page was not mapped before")
    machine.close()
    return Counts(fetches - second[1], accesses - fetches - second[0], *missed)


def doubles(trace: Path) -> Doubles:
    """Return how many references missed in both of their pages: each is run in two halves."""
    machine = _mapped(trace, NativeBackend, DEFAULT)
    found = [0, 0, 0]
    for gva, kind, crosses in pieces(trace):
        if not crosses:
            machine.step(Accesses(gva, kind))
            continue
        before = _misses(machine)
        machine.step(Accesses(gva[:1], kind[:1]))
        between = _misses(machine)
        machine.step(Accesses(gva[1:], kind[1:]))
        for level, (a, b, c) in enumerate(zip(before, between, _misses(machine), strict=True)):
            found[level] += a < b < c
    machine.close()
    return Doubles(*found)


def as_references(counts: Counts, twice: Doubles) -> Counts:
    """Return the counts as cachegrind has them: a reference misses once."""
    less = {name: getattr(counts, name) - value for name, value in attrs.asdict(twice).items()}
    return attrs.evolve(counts, **less)


def _mapped(trace: Path, backend: type[Backend[Any]], engine: type[Engine]) -> Machine:
    """Return a machine whose guest has had all faults of the trace, and whose TLB knows no page.

    The second round is the hypervisor's: then its tables allow what the guest's do.
    """
    machine = Machine(MachineConfig(backend, backend.params(), engine=engine))
    steps = HvtTrace(trace).steps()
    machine.step(next(steps))
    pairs = sorted({pair for step in steps for pair in _pairs(step)})
    gva, kind = array("Q", (gva for gva, _ in pairs)), array("B", (kind for _, kind in pairs))
    for step in (
        Accesses(gva, kind),
        Accesses(gva, kind),
        SwitchTo(FIRST_PID),
        StartMeasuring("mapped"),
    ):
        machine.step(step)
    return machine


def _pairs(step: Step) -> Iterable[tuple[int, int]]:
    if not isinstance(step, ReducedAccesses):
        return ()
    kinds = memoryview(step.slot_kind)
    return {(step.slot_gva[slot], kinds[slot]) for slot in set(step.kept)}


def _misses(machine: Machine) -> tuple[int, int, int]:
    return attrs.astuple(machine.vcpu.engine.counts())


def _windows(trace: Path) -> Iterator[tuple[array[int], array[int]]]:
    with opened(trace) as file:
        for chunk in file.verified():
            yield from chunk.windows()


def _count_second(kind: array[int], second: list[int]) -> None:
    for found in _SECONDS.findall(kind.tobytes()):
        second[bool(found[0] & pf.ID)] += 1


def pieces(trace: Path) -> Iterator[tuple[array[int], array[int], bool]]:
    """Yield all accesses in order, the two of a reference across pages by themselves."""
    gva, kind = array("Q"), array("B")
    for more_gva, more_kind in _windows(trace):
        gva += more_gva
        kind += more_kind
        start = 0
        for found in _SECONDS.finditer(kind.tobytes()):
            at = found.start()
            kind[at] &= ~STRADDLES
            yield gva[start : at - 1], kind[start : at - 1], False
            yield gva[at - 1 : at + 1], kind[at - 1 : at + 1], True
            start = at + 1
        last = max(start, len(kind) - 1)  # the next window may go on with the last one
        yield gva[start:last], kind[start:last], False
        gva, kind = gva[last:], kind[last:]
    yield gva, kind, False


def small(folder: Path) -> Iterator[programs.Program]:
    """Yield programs of a second or two, whose traces are small enough to ship."""
    yield programs.sort(folder, 300)
    yield programs.sqlite(folder, 100)
    yield programs.table(folder, 20_000, mebibytes=16)
    yield programs.crossing(folder, 20_000)


def main() -> int:
    """Record the small programs, compare, and print; with --record, keep what was recorded."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--record", type=Path, metavar="DIR", help="keep traces and counts here")
    explicit = parser.parse_args()
    kept, same = {}, True
    with tempfile.TemporaryDirectory() as name:
        for program in small(Path(name)):
            programs.record(program)
            theirs = cachegrind(program)
            mine = as_references(ours(program.trace), doubles(program.trace))
            print(f"{program.name}: cachegrind {theirs}")
            print(f"{program.name}: {'equal' if mine == theirs else f'ours {mine}'}")
            # All but the last level's misses of references across pages: see the docs.
            same &= attrs.evolve(mine, misses=theirs.misses) == theirs
            same &= mine == theirs or program.name == "crossing"
            kept[program.name] = attrs.asdict(theirs)
            if explicit.record is not None:
                _keep(program, explicit.record)
    if explicit.record is not None:
        (explicit.record / "cachegrind.json").write_text(json.dumps(kept, indent=2) + "\n")
    return 0 if same else 1


def _keep(program: programs.Program, folder: Path) -> None:
    folder.mkdir(parents=True, exist_ok=True)
    packed = lzma.compress(program.trace.read_bytes(), preset=9 | lzma.PRESET_EXTREME)
    (folder / f"{program.name}.hvt.xz").write_bytes(packed)


def compare(name: str, size: str, folder: str) -> int:
    """Print both counts of one program of the benchmark, whose trace is in *folder*, as JSON."""
    make, _ = programs.PROGRAMS[name]
    program = make(Path(folder), int(size))
    mine = as_references(ours(program.trace), doubles(program.trace))
    said = {"ours": attrs.asdict(mine)}
    with contextlib.suppress(programs.SkippedError):
        said["cachegrind"] = attrs.asdict(cachegrind(program))
    print(json.dumps(said))
    return 0


if __name__ == "__main__":
    sys.exit(compare(*sys.argv[2:]) if sys.argv[1:2] == ["--compare"] else main())
