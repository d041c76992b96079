"""What a guest fault costs, and how fast programs run: the fast lane against the readable path.

The two take turns, so that what else the machine does falls on both; of each the fastest round
counts. What keeps the lane away is a listener that does nothing.

    python benchmarks/faults.py [ROUNDS]
"""

import sys
from array import array
from collections.abc import Iterator
from pathlib import Path
from time import process_time
from typing import Any

import attrs
import pluggy

from hvmmu import hookspecs
from hvmmu.backend import Backend
from hvmmu.guest.params import GuestParams
from hvmmu.guest.steps import PROT_READ, PROT_WRITE, Accesses, Backing, Mmap, Step
from hvmmu.hooks import RunHooks
from hvmmu.hw.compiled import CompiledEngine
from hvmmu.machine import Machine, MachineConfig
from hvmmu.plugins import load
from hvmmu.types import Gva
from hvmmu.workloads import open_workload

TRACES = Path(__file__).parent.parent / "tests" / "workloads" / "traces"
TABLE = 1 << 40
READ, WRITE = 4, 6
BATCH = 1 << 16


class Listener:
    """Hears of every fault, and does nothing."""

    @hookspecs.hookimpl
    def hvmmu_fault_handled(self) -> None:
        """Hear."""


def listening() -> RunHooks:
    """Return hooks that keep the lane away."""
    plugins = pluggy.PluginManager(hookspecs.PROJECT)
    plugins.add_hookspecs(hookspecs)
    plugins.register(Listener())
    return RunHooks(plugins)


@attrs.frozen
class HashTable:
    """Reads and writes a random word of a table of *pages* pages: each page faults twice."""

    pages: int = 1 << 15
    references: int = 1 << 20

    def steps(self) -> Iterator[Step]:
        """Yield the steps; random numbers by xorshift."""
        yield Mmap(Gva(TABLE), self.pages, PROT_READ | PROT_WRITE, Backing.ANONYMOUS)
        state, words = 88172645463325252, self.pages * 512
        kinds = array("B", [READ, WRITE]) * (BATCH // 2)
        for _ in range(self.references // BATCH):
            gva = array("Q")
            for _ in range(BATCH // 2):
                state ^= state << 13 & (1 << 64) - 1
                state ^= state >> 7
                state ^= state << 17 & (1 << 64) - 1
                word = TABLE + state % words * 8
                gva.extend((word, word))
            yield Accesses(gva, kinds)


WORKLOADS: dict[str, Any] = {
    "demand-zero": open_workload("demand-zero:pages=20000"),
    "python": open_workload(str(TRACES / "python.lackey.xz")),
    "sort": open_workload(str(TRACES / "sort.lackey.xz")),
    "hash table, 128 MB": HashTable(),
}


def seconds(backend: type[Backend[Any]], steps: list[Step], hooks: RunHooks) -> tuple[float, int]:
    """Return the processor time a machine takes for the steps, and its guest faults."""
    guest = GuestParams(memory=1 << 30)
    config = MachineConfig(
        backend, backend.params(), guest=guest, hooks=hooks, engine=CompiledEngine
    )
    machine = Machine(config)
    begun = process_time()
    for step in steps:
        machine.step(step)
    taken, faults = process_time() - begun, machine.guest.faults
    machine.close()
    return taken, faults


def main(rounds: str = "5") -> None:
    """Measure, and print a line for each workload and backend."""
    backends = load().backends
    for name, workload in WORKLOADS.items():
        steps = list(workload.steps())
        references = sum(len(step) for step in steps if isinstance(step, Accesses))
        for backend in ("native", "svm", "vmx"):
            best, faults = {False: float("inf"), True: float("inf")}, 0
            for _ in range(int(rounds)):
                for slow, hooks in ((False, RunHooks()), (True, listening())):
                    taken, faults = seconds(backends[backend], steps, hooks)
                    best[slow] = min(best[slow], taken)
            fast = best[False]
            print(
                f"{name:<20} {backend:<7} {references / fast / 1e6:7.1f} M references/s,"
                f" {faults} faults, {fast / faults * 1e6:8.2f} us a fault with all between,"
                f" {best[True] / fast:6.1f} x the readable path"
            )


if __name__ == "__main__":
    main(*sys.argv[1:])
