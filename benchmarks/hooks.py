"""What hooks cost a run: demand-zero with nobody listening, and with one and three listeners.

The four cases take turns, so that what else the machine does falls on all of them; of each the
fastest round counts. Listeners do nothing: what is measured is the call. What nobody listens to is
lost in the noise of a clock; `tests/instructions/measure.py` counts its instructions, which repeat.

    python benchmarks/hooks.py [BACKEND] [PAGES] [ROUNDS]
"""

import sys
from time import process_time
from typing import Any

import pluggy

from hvmmu import hookspecs
from hvmmu._hooks import RunHooks
from hvmmu._plugins import load
from hvmmu.backend import Backend
from hvmmu.machine import Machine, MachineConfig
from hvmmu.workloads import open_workload


class Listener:
    """Hears of every fault, and does nothing."""

    @hookspecs.hookimpl
    def hvmmu_fault_handled(self) -> None:
        """Hear."""


def hooks(listeners: int | None) -> RunHooks:
    """Return the hooks of a run with so many listeners; None: without a plugin manager."""
    if listeners is None:
        return RunHooks()
    plugins = pluggy.PluginManager(hookspecs.PROJECT)
    plugins.add_hookspecs(hookspecs)
    for _ in range(listeners):
        plugins.register(Listener())
    return RunHooks(plugins)


CASES = {
    "no plugin manager": hooks(None),
    "no listener": hooks(0),
    "one listener": hooks(1),
    "three listeners": hooks(3),
}


def seconds(backend: type[Backend[Any]], pages: int, listening: RunHooks) -> float:
    """Return the processor time a machine takes for the workload, without building it."""
    machine = Machine(MachineConfig(backend, backend.params(), hooks=listening))
    steps = list(open_workload(f"demand-zero:pages={pages}").steps())
    begun = process_time()
    for step in steps:
        machine.step(step)
    taken = process_time() - begun
    machine.close()
    return taken


def main(backend: str = "native", pages: str = "2000", rounds: str = "40") -> None:
    """Measure, and print each case's time by that of the first."""
    made = load().backends[backend]
    best = dict.fromkeys(CASES, float("inf"))
    for _ in range(int(rounds)):
        for case, listening in CASES.items():
            best[case] = min(best[case], seconds(made, int(pages), listening))
    first = next(iter(best.values()))
    for case, taken in best.items():
        print(f"{case:<18} {taken / first:.3f}  ({taken / int(pages) * 1e6:.2f} us a fault)")


if __name__ == "__main__":
    main(*sys.argv[1:])
