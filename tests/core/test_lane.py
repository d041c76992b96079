"""The fast lane against the readable path: the same steps, the same everything after each."""

from __future__ import annotations

import random
from array import array
from typing import Any

import attrs
import pluggy
import pytest
from hypothesis import Phase as Generate
from hypothesis import given, settings
from hypothesis import strategies as st

from hvmmu import hookspecs
from hvmmu.arch import pfec as pf
from hvmmu.costs import CostModel
from hvmmu.errors import HvmmuError
from hvmmu.guest.params import GuestParams
from hvmmu.guest.steps import (
    PROT_EXEC,
    PROT_NONE,
    PROT_READ,
    PROT_WRITE,
    Accesses,
    Backing,
    Exit,
    Fork,
    Mmap,
    Mprotect,
    Munmap,
    Phase,
    Step,
    Switch,
)
from hvmmu.hooks import RunHooks
from hvmmu.machine import Machine, MachineConfig
from hvmmu.mmu.audit import audit
from hvmmu.mmu.params import MmuParams
from hvmmu.params import declared
from hvmmu.plugins import load
from hvmmu.types import PAGE_SIZE, Gva

compiled = pytest.importorskip("hvmmu.hw.compiled", reason="the compiled engine was not built")

BACKENDS = {
    name: made for name, made in load().backends.items() if name in ("native", "vmx", "svm")
}
NO_COSTS = CostModel("none", "nothing is priced", ())
RAM = 16 << 20
EXAMPLES = 60
BORDER = 0x40_0000_0000
"""Around it lie a 2 MiB and a 1 GiB border, so that pages have tables of their own."""
STARTS = tuple(BORDER + at * PAGE_SIZE for at in (-6, -2, 0, 3, 600))
ALL = PROT_READ | PROT_WRITE | PROT_EXEC
KINDS = tuple(pf.U | how for how in (pf.READ, pf.READ, pf.WRITE, pf.WRITE, pf.FETCH))


class Listener:
    """Hears of every fault, so that Python must handle it."""

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
class Steps:
    """Random steps that a guest can mostly perform."""

    random: random.Random

    def start(self) -> Gva:
        """Return where something may be mapped."""
        return Gva(self.random.choice(STARTS))

    def accesses(self) -> Accesses:
        """Return accesses to a few places, rarely to very many."""
        choose = self.random.choice
        if self.random.random() < 0.01:
            gva = array("Q", range(BORDER, BORDER + 3600 * PAGE_SIZE, PAGE_SIZE))
            return Accesses(gva, array("B", [pf.U | pf.W]) * len(gva))
        places = [choose(STARTS) + PAGE_SIZE * self.random.randrange(8) for _ in range(6)]
        count = self.random.choice((1, 5, 40))
        gva = array("Q", [choose(places) + 8 * self.random.randrange(4) for _ in range(count)])
        return Accesses(gva, array("B", [choose(KINDS) for _ in range(count)]))

    def one(self) -> Step:
        """Return any step."""
        choose, what = self.random.choice, self.random.random()
        if what < 0.55:
            return self.accesses()
        pages = choose((1, 2, 4, 12))
        if what < 0.78:
            prot = choose((ALL, ALL, ALL, PROT_READ | PROT_WRITE, PROT_READ, PROT_NONE))
            return Mmap(self.start(), choose((pages, 4000)), prot, choose(list(Backing)))
        if what < 0.84:
            return Munmap(self.start(), pages)
        if what < 0.9:
            return Mprotect(self.start(), pages, choose((ALL, PROT_READ, PROT_NONE)))
        pid = choose((1, 2, 3))
        return choose((Fork(pid), Switch(pid), Exit(pid), Phase("anew")))


def perform(machine: Machine, step: Step) -> str:
    """Perform a step; return what was wrong with it."""
    try:
        machine.step(step)
    except HvmmuError as error:
        return f"{type(error).__name__}: {error}"
    return ""


def pages_of(machine: Machine) -> object:
    """Return all that the shadow MMU keeps, but for the order it keeps it in."""
    shadow = machine._platform.shadow
    if shadow is None:
        return None
    audit(shadow, machine.vcpu.slots)
    pages = [
        (page.gfn, page.role, page.hpa, sorted(page.parents), page.write_flooding,
         page.last_written, shadow.pages.entries(page), page.hpa == shadow.root.hpa)
        for page in shadow.pages
    ]  # fmt: skip
    return pages, sorted(shadow.pages.rmap.items()), shadow.pages.zapped, len(shadow.pages)


def books_of(machine: Machine) -> object:
    """Return all that the guest keeps."""
    guest = machine.guest
    zones = [(zone.next, zone.free) for zone in (guest.frames.tables, guest.frames.data)]
    cached = [region.cache and region.cache.frames for region in guest.current.regions]
    repeats = guest.handler.last, guest.handler.repeats
    return zones, guest.frames.shared.tobytes(), guest.tables.used, cached, repeats, guest.counters


def state_of(machine: Machine) -> dict[str, object]:
    """Return all that can be told of a machine."""
    core, ledger = machine.vcpu.core, machine.vcpu.ledger
    return {
        "result": machine.result(NO_COSTS).to_json(),
        "core": attrs.asdict(core, recurse=False),
        "ledger": attrs.asdict(ledger, recurse=False),
        "guest": books_of(machine),
        "shadow": pages_of(machine),
    }


def machines(config: MachineConfig) -> tuple[Machine, Machine]:
    """Return one machine with the lane and one without."""
    lane, readable = Machine(config), Machine(attrs.evolve(config, hooks=listening()))
    assert lane.guest.run != lane.vcpu.run
    assert readable.guest.run == readable.vcpu.run
    return lane, readable


def agree(config: MachineConfig, steps: list[Step]) -> None:
    """Perform steps on both; hold all that can be told against each other after each."""
    lane, readable = machines(config)
    for step in steps:
        became = perform(lane, step)
        assert perform(readable, step) == became
        one, other = state_of(lane), state_of(readable)
        for part, value in other.items():
            assert one[part] == value, (part, step)
        if became.startswith("GuestMemoryError"):
            break  # half done on both sides
    base, ram = lane.vcpu.slots.slots[0].hpa, RAM
    assert (
        lane.vcpu.memory.bytes[base : base + ram] == readable.vcpu.memory.bytes[base : base + ram]
    )
    lane.close()
    readable.close()


def config_of(backend: str, seed: int) -> MachineConfig:
    """Return a machine with every parameter drawn that matters to the lane."""
    draw = random.Random(f"machine {seed}")  # noqa: S311 - not for secrets
    made = BACKENDS[backend]
    flags = {p.name: draw.random() < 0.6 for p in declared(made.params) if p.type is bool}
    mmu = MmuParams(
        update_on_write=draw.random() < 0.7,
        large_pages=draw.random() < 0.7,
        flood_threshold=draw.choice((3, 3, 0, 1)),
        shadow_pages=draw.choice((65536, 65536, 16, 12)),
    )
    guest = GuestParams(memory=RAM, set_accessed_dirty=draw.random() < 0.7)
    engine: Any = compiled.CompiledEngine
    return MachineConfig(made, made.params(**flags), mmu, guest=guest, engine=engine)


@pytest.mark.parametrize("backend", sorted(BACKENDS))
def test_the_lane_changes_nothing(backend: str) -> None:
    """If wrong, results depend on whether a plugin listens."""

    @settings(max_examples=EXAMPLES, deadline=None, phases=(Generate.explicit, Generate.generate))
    @given(seed=st.integers(0, 2**64 - 1))
    def run(seed: int) -> None:
        made = Steps(random.Random(seed))  # noqa: S311 - not for secrets
        agree(config_of(backend, seed), [made.one() for _ in range(30)])

    run()
