"""What a guest fault costs, and how fast programs run: with nobody listening, and with three hooks.

A guest fault is one that the guest's handler takes, its pager included. Under shadow paging it is
more than one stop: the guest's own fault, the write to its page table, and where that has not built
the shadow's entry the access's second try; a stop is priced too. The ways take turns, so that what
else the machine does falls on all; of each the fastest round counts. The run with each exit
simulated, which takes long, is made once.

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
from hvmmu._core.engine import CompiledEngine
from hvmmu._guest.policy import GuestParams
from hvmmu._hooks import RunHooks
from hvmmu._plugins import load
from hvmmu.backend import Backend, VmExit
from hvmmu.fault import FaultOutcome, PageFault
from hvmmu.machine import Machine, MachineConfig
from hvmmu.steps import PROT_READ, PROT_WRITE, Accesses, Backing, Mmap, StartMeasuring, Step
from hvmmu.types import Gva
from hvmmu.vcpu import Vcpu
from hvmmu.workloads import open_workload

TRACES = Path(__file__).parent.parent / "tests" / "workloads" / "traces"
TABLE = 1 << 40
READ, WRITE = 4, 6
BATCH = 1 << 16


class Listener:
    """Hears of every exit and fault, and counts them."""

    def __init__(self) -> None:
        """Start at nothing."""
        self.exits = self.faults = self.handled = 0

    @hookspecs.hookimpl
    def hvmmu_handle_exit(self, vcpu: Vcpu, what: VmExit) -> None:  # noqa: ARG002 - as a plugin would
        """Count."""
        self.exits += 1

    @hookspecs.hookimpl
    def hvmmu_handle_fault(self, vcpu: Vcpu, fault: PageFault) -> None:  # noqa: ARG002
        """Count."""
        self.faults += 1

    @hookspecs.hookimpl
    def hvmmu_fault_handled(self, vcpu: Vcpu, fault: PageFault, handled: FaultOutcome) -> None:  # noqa: ARG002
        """Count."""
        self.handled += 1


def listening() -> RunHooks:
    """Return hooks that hear of everything."""
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


@attrs.frozen
class Ran:
    """What a run took."""

    seconds: float
    """Of processor time."""
    faults: int
    stops: int


def run(
    backend: type[Backend[Any]], steps: list[Step], hooks: RunHooks, *, simulate: bool = False
) -> Ran:
    """Have a machine perform the steps."""
    guest = GuestParams(memory=1 << 30)
    machine = Machine(
        MachineConfig(
            backend,
            backend.params(),
            guest=guest,
            hooks=hooks,
            engine=CompiledEngine,
            simulate=simulate,
        )
    )
    stops = 0
    begun = process_time()
    for step in steps:
        if isinstance(step, StartMeasuring):
            stops += machine.vcpu.ledger.faults.total()
        machine.step(step)
    taken = process_time() - begun
    stops += machine.vcpu.ledger.faults.total()
    ran = Ran(taken, machine.guest.faults, stops)
    machine.close()
    return ran


def main(rounds: str = "5") -> None:
    """Measure, and print a line for each workload and backend."""
    backends = load().backends
    for name, workload in WORKLOADS.items():
        steps = list(workload.steps())
        references = sum(len(step) for step in steps if isinstance(step, Accesses))
        for backend in (backends[one] for one in ("native", "svm", "vmx")):
            silent, heard = [], []
            for _ in range(int(rounds)):
                silent.append(run(backend, steps, RunHooks()))
                heard.append(run(backend, steps, listening()))
            simulated = run(backend, steps, RunHooks(), simulate=True)
            best, hooked = (min(ran.seconds for ran in runs) for runs in (silent, heard))
            faults, stops = silent[0].faults, silent[0].stops
            print(
                f"{name:<19} {backend.name:<7} {references / best / 1e6:6.1f} M references/s,"
                f" {faults} faults of {stops / faults:.2f} stops; with all between:"
                f" {best / faults * 1e6:5.2f} us a fault, {best / stops * 1e6:5.2f} us a stop;"
                f" three hooks {hooked / faults * 1e6:5.2f} us a fault;"
                f" {simulated.seconds / best:5.1f} x with exits simulated"
            )


if __name__ == "__main__":
    main(*sys.argv[1:])
