"""What runs under callgrind: small fixed loads, each a part of the profile.

    valgrind --tool=callgrind --instr-atstart=no python program.py MARKS

MARKS is marks.c, compiled. The profile's parts are named after the loads; what only leads up to one
goes to a part with no name. Printed is, for each, how many references, faults or lines it has. Of a
load whose name begins with `all_` everything counts, Python too.
"""

from __future__ import annotations

import ctypes
import io
import lzma
import sys
from array import array
from itertools import chain

import pluggy

from hvmmu import hookspecs
from hvmmu._core.engine import CompiledEngine
from hvmmu._guest.policy import GuestParams
from hvmmu._hooks import RunHooks
from hvmmu._plugins import load
from hvmmu._trace.grammar import SETS, SPAN, STRADDLES, WAYS, WINDOW
from hvmmu._trace.hvt.reducer import Reducer
from hvmmu._trace.lackey import Parser
from hvmmu._trace.page_slots import PageSlots
from hvmmu._trace.span import PackedSpan
from hvmmu.arch import pfec as pf
from hvmmu.hookspecs import PROJECT, hookimpl
from hvmmu.machine import Machine, MachineConfig
from hvmmu.steps import Accesses, Backing, Mmap, ReducedAccesses
from hvmmu.types import PAGE_SIZE, Gva
from hvmmu.workloads import SHIPPED

BASE = Gva(0x40_0000_0000)
REFERENCES, FAULTS, SPREAD = 40_000, 600, 5_000
BACKENDS = load().backends
MARKS = ctypes.CDLL(sys.argv[1])


def part(name: str = "", count: int = 0) -> None:
    """End a part of the profile."""
    MARKS.end(name.encode())
    if name:
        sys.stdout.write(f"{name} {count}\n")


class Silent:
    """A plugin that listens to no fault and no exit."""

    @hookimpl
    def hvmmu_report(self) -> dict[str, int]:
        """Say nothing."""
        return {}


def silent() -> RunHooks:
    """Return the hooks of a run with a plugin that is silent."""
    plugins = pluggy.PluginManager(PROJECT)
    plugins.add_hookspecs(hookspecs)
    plugins.register(Silent())
    return RunHooks(plugins)


def machine(backend: str, hooks: RunHooks | None = None) -> Machine:
    """Return a machine with one large mapping."""
    made, guest = BACKENDS[backend], GuestParams(memory=64 << 20)
    booted = Machine(
        MachineConfig(
            made, made.params(), guest=guest, engine=CompiledEngine, hooks=hooks or RunHooks()
        )
    )
    booted.step(Mmap(BASE, 2 * SPREAD, 7, Backing.ANONYMOUS))
    return booted


def touch(pages: int, how: int, first: int = 0) -> Accesses:
    """Return one access to each of so many pages."""
    start = BASE + first * PAGE_SIZE
    gva = array("Q", range(start, start + pages * PAGE_SIZE, PAGE_SIZE))
    return Accesses(gva, array("B", [pf.U | how]) * pages)


def hits() -> None:
    """Hit the first entry of a set; any entry of full sets; the second level; nothing cached."""
    booted = machine("native")
    booted.step(touch(SPREAD, pf.W))
    for name, pages in (("hit_first", 8), ("hit_any", 48), ("hit_second", 300)):
        once = touch(pages, pf.W)
        times = REFERENCES // pages
        many = Accesses(once.gva * times, once.kind * times)
        booted.step(once)
        part()
        booted.step(many)
        part(name, len(many))
    booted.step(touch(SPREAD, pf.W))
    part("miss", SPREAD)
    booted.close()


def faults(backend: str) -> None:
    """Take demand-zero faults, which are writes."""
    booted = machine(backend)
    booted.step(touch(FAULTS, pf.W, SPREAD))
    part()
    booted.step(touch(FAULTS, pf.W, SPREAD + FAULTS))
    part(f"fault_{backend}", FAULTS)
    booted.close()


def unheard(backend: str) -> None:
    """Take faults with no plugin there, and with one that does not listen."""
    for name, hooks in (("alone", None), ("silent", silent())):
        booted = machine(backend, hooks)
        booted.step(touch(FAULTS, pf.W, SPREAD))
        fresh = touch(FAULTS, pf.W, SPREAD + FAULTS)
        part()
        booted.step(fresh)
        part(f"all_{name}_{backend}", FAULTS)
        booted.close()


def compact() -> None:
    """Read lackey's lines, reduce them, run what is left as a file's chunk would be; undo it."""
    with lzma.open(SHIPPED) as file:
        lines = io.BytesIO(file.read(1 << 20)).readlines()
    starts = (b"I  ", b" L ", b" S ", b" M ")
    text = b"".join([line for line in lines if line.startswith(starts)][:REFERENCES])
    part()
    gva, kind = Parser("lackey", STRADDLES).parse(text)
    part("lackey_line", REFERENCES)
    reducer, spans = Reducer(), []
    for start in range(0, len(gva), SPAN):
        for at in range(start, min(start + SPAN, len(gva)), WINDOW):
            reducer.add_window(gva, kind, at)
        spans.append(reducer.end_span())
    part("reduce", len(gva))
    booted = machine("native")
    booted.step(Mmap(Gva(PAGE_SIZE), (BASE >> 12) - 2, 7, Backing.INFERRED))
    booted.step(Accesses(gva, array("B", bytes(k & ~STRADDLES for k in kind))))
    slots = PageSlots.empty()
    slots.list_pairs(*reducer.listed)
    kept = array("H", chain.from_iterable(kept for kept, _, _ in spans))
    stopped = sys.exit  # it may not, as all pages have been touched
    made = ReducedAccesses(kept, slots.gva, slots.kind, len(gva), SETS, WAYS, stopped)
    part()
    booted.step(made)
    part("reduced", len(gva))
    booted.close()
    own, _, stored = spans[0]
    part()
    span = PackedSpan(stored, own, slots, SPAN, ValueError).unpacked()
    for window in range(span.windows):
        span.expanded(window)
    part("put_back", SPAN)


if __name__ == "__main__":
    MARKS.begin()
    hits()
    for each in ("native", "svm", "vmx"):
        if each in BACKENDS:
            faults(each)
            unheard(each)
    compact()
