"""One loop of stops: engine and world switch may be either kind, and everything stays the same.

Each program runs on the compiled engine with exits taken by the backend's switch profile, and on
the reference engine with each exit and entry simulated through the control structure.
"""

from __future__ import annotations

import ctypes
import gc
import random
from array import array
from pathlib import Path
from typing import TYPE_CHECKING, Any

import attrs
import pluggy
import pytest
from hypothesis import Phase as Generate
from hypothesis import given, settings
from hypothesis import strategies as st

from hvmmu import hookspecs
from hvmmu._core.engine import CompiledEngine
from hvmmu._guest.layout import KERNEL_BASE
from hvmmu._guest.policy import GuestParams
from hvmmu._hooks import RunHooks
from hvmmu._mmu_params import MmuParams
from hvmmu._plugins import load
from hvmmu.arch import pfec as pf
from hvmmu.arch import pte
from hvmmu.arch.regs import CR0_PG
from hvmmu.costs import CostModel
from hvmmu.errors import HvmmuError, InputError
from hvmmu.fault import FaultOutcome, PageFault, Route
from hvmmu.generic import GenericBackend, GenericDeprivilegedBackend
from hvmmu.ledger import COUNTS, Ledger
from hvmmu.machine import Machine, MachineConfig
from hvmmu.params import params_of
from hvmmu.spec.audit import audit
from hvmmu.spec.engine import ReferenceEngine
from hvmmu.steps import (
    PROT_EXEC,
    PROT_NONE,
    PROT_READ,
    PROT_WRITE,
    Accesses,
    Backing,
    ExitProcess,
    Fork,
    Mmap,
    Mprotect,
    Munmap,
    StartMeasuring,
    Step,
    SwitchTo,
)
from hvmmu.testing.settings import drawn
from hvmmu.types import PAGE_SIZE, Gva
from hvmmu.vcpu import Resume
from hvmmu.workloads import SHIPPED, open_workload

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable

    from hvmmu.backend import VmExit as HowExited
    from hvmmu.flush import Flush
    from hvmmu.vcpu import Vcpu

BACKENDS = {
    name: made for name, made in load().backends.items() if name in ("native", "vmx", "svm")
}


class Plain(GenericBackend):
    """A vendor-neutral backend, so that a world switch is tried without any plugin."""

    name = "plain"
    summary = "for tests"


class Deprivileged(GenericDeprivilegedBackend):
    """The same for a guest that hardware runs as user."""

    name = "deprivileged"
    summary = "for tests"


VENDORS = sorted(set(BACKENDS) - {"native"})
BACKENDS["plain"], BACKENDS["deprivileged"] = Plain, Deprivileged
TRIED = ["native", "deprivileged", *(VENDORS or ["plain"])]
MEMCMP = ctypes.CDLL(None).memcmp
MEMCMP.argtypes = (ctypes.c_void_p, ctypes.c_void_p, ctypes.c_size_t)
NO_COSTS = CostModel("none", "nothing is priced", ())
RAM = 16 << 20
EXAMPLES = max(3, settings.default.max_examples - 5)
BORDER = 0x40_0000_0000
"""Around it lie a 2 MiB and a 1 GiB border, so that pages have tables of their own."""
STARTS = tuple(BORDER + at * PAGE_SIZE for at in (-6, -2, 0, 3, 600))
ALL = PROT_READ | PROT_WRITE | PROT_EXEC
KINDS = tuple(pf.U | how for how in (pf.READ, pf.READ, pf.WRITE, pf.WRITE, pf.FETCH))


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
        if what < 0.5:
            return self.accesses()
        pages = choose((1, 2, 4, 12))
        if what < 0.65:
            prot = choose((ALL, ALL, ALL, PROT_READ | PROT_WRITE, PROT_READ, PROT_NONE))
            return Mmap(self.start(), choose((pages, 4000)), prot, choose(list(Backing)))
        if what < 0.7:
            return Munmap(self.start(), pages)
        if what < 0.78:
            return Mprotect(self.start(), pages, choose((ALL, PROT_READ, PROT_NONE)))
        if what < 0.8:
            return StartMeasuring("anew")
        pid = choose((1, 2, 3))
        return choose(
            (Fork(pid), Fork(pid), SwitchTo(pid), SwitchTo(pid), SwitchTo(pid), ExitProcess(pid))
        )


def perform(machine: Machine, step: Step) -> str:
    """Perform a step; return what was wrong with it."""
    try:
        machine.step(step)
    except HvmmuError as error:
        return f"{type(error).__name__}: {error}"
    return ""


@attrs.frozen(eq=False)
class Bytes:
    """A part of memory, held against another one where it lies: a copy takes longer."""

    part: memoryview

    def __eq__(self, other: object) -> bool:
        """Compare every byte."""
        assert isinstance(other, Bytes)
        size = len(self.part)
        if size != len(other.part):
            return False
        one, two = ((ctypes.c_char * size).from_buffer(made.part) for made in (self, other))
        return not MEMCMP(ctypes.byref(one), ctypes.byref(two), size)

    __hash__ = None  # type: ignore[assignment]


def pages_of(machine: Machine) -> object:
    """Return all that the shadow MMU keeps, but for the order it keeps lists in."""
    shadow = machine._platform.shadow
    if shadow is None or shadow.root is None:
        return None
    pages = [
        (page.gfn, page.role, page.hpa, sorted(page.parents), page.write_flooding,
         page.last_written)
        for page in shadow.pages
    ]  # fmt: skip
    end = max(page.hpa for page in shadow.pages) + PAGE_SIZE
    entries = Bytes(machine.vcpu.memory.bytes[:end])
    return pages, entries, shadow.root.hpa, shadow.pages.zapped, len(shadow.pages)


def books_of(machine: Machine) -> object:
    """Return all that the guest keeps."""
    guest = machine.guest
    zones = [(zone.next, zone.free) for zone in (guest.frames.tables, guest.frames.data)]
    cached = [region.cache and region.cache.frames for region in guest.current.regions]
    repeats = guest.handler.last, guest.handler.repeats
    return zones, guest.frames.shared.tobytes(), guest.tables.used, cached, repeats, guest.counters


def core_of(vcpu: Vcpu) -> dict[str, object]:
    """Return what a hypervisor finds in the hardware thread, but for an exit's registers."""
    core = attrs.asdict(vcpu.core, recurse=False)
    del core["gprs"]  # a switch by the profile loads none
    return core


def counts_of(ledger: Ledger) -> dict[str, object]:
    """Return all counts."""
    counts = {name: getattr(ledger, name) for name in COUNTS}
    return {**counts, "faults": ledger.faults, "exits": ledger.exits}


def state_of(machine: Machine) -> dict[str, object]:
    """Return all that can be told of a machine quickly."""
    ledger, slot = machine.vcpu.ledger, machine.vcpu.slots.slots[0]
    tables = slot.hpa + machine.guest.frames.tables.end
    return {
        "core": core_of(machine.vcpu),
        "ledger": counts_of(ledger),
        "TLB": machine.vcpu.engine.counts(),
        "guest": books_of(machine),
        "tables": Bytes(machine.vcpu.memory.bytes[slot.hpa : tables]),
        "shadow": pages_of(machine),
        "faults": machine.guest.fault_log_sha256,
    }


def all_of(machine: Machine) -> dict[str, object]:
    """Return what takes longer to tell."""
    shadow, slot = machine._platform.shadow, machine.vcpu.slots.slots[0]
    if shadow is not None:
        audit(shadow, machine.vcpu.slots)
    return {
        "result": {**machine.result(NO_COSTS).to_json(), "engine": ""},
        "memory": Bytes(machine.vcpu.memory.bytes[slot.hpa : slot.hpa + slot.size]),
        "rmap": shadow and sorted(shadow.pages.rmap.items()),
        "leaves": shadow and len(shadow.pages.rmap),
    }


def machines(
    config: MachineConfig, hooks: Callable[[], RunHooks] = RunHooks
) -> tuple[Machine, Machine]:
    """Return a machine of either kind, each with hooks of its own."""
    compiled = Machine(attrs.evolve(config, hooks=hooks(), engine=CompiledEngine))
    reference = attrs.evolve(config, hooks=hooks(), engine=ReferenceEngine, simulate=True)
    return compiled, Machine(reference)


def compare(
    compiled: Machine, reference: Machine, tell: Callable[[Machine], Any], step: Step
) -> None:
    """Hold what *tell* tells of one machine against what it tells of the other."""
    one, other = tell(compiled), tell(reference)
    for part, value in other.items():
        assert one[part] == value, (part, step)


def agree(
    config: MachineConfig,
    steps: Iterable[Step],
    hooks: Callable[[], RunHooks] = RunHooks,
    *,
    every: int = 10,
) -> None:
    """Perform steps on both; hold all that can be told against each other after each."""
    compiled, reference = machines(config, hooks)
    for nth, step in enumerate(steps):
        became = perform(compiled, step)
        assert perform(reference, step) == became
        compare(compiled, reference, state_of, step)
        if nth % every == every - 1:
            compare(compiled, reference, all_of, step)
        if became.startswith("GuestMemoryError"):
            break  # half done on both sides
    compare(compiled, reference, all_of, step)
    compiled.close()
    reference.close()


def config_of(backend: str, seed: int) -> MachineConfig:
    """Return a machine with every parameter drawn that is declared."""
    draw = random.Random(f"machine {seed}")  # noqa: S311 - not for secrets
    made = BACKENDS[backend]
    flags = {p.name: draw.random() < 0.6 for p in params_of(made.params) if p.type is bool}
    mmu = drawn(MmuParams, draw)
    guest = drawn(GuestParams, draw, memory=RAM)
    return MachineConfig(made, made.params(**flags), mmu, guest=guest)


@pytest.mark.parametrize("backend", TRIED)
def test_random_programs(backend: str) -> None:
    """If wrong, results depend on how a stop is handled."""

    @settings(max_examples=EXAMPLES, deadline=None, phases=(Generate.explicit, Generate.generate))
    @given(seed=st.integers(0, 2**64 - 1))
    def run(seed: int) -> None:
        made = Steps(random.Random(seed))  # noqa: S311 - not for secrets
        agree(config_of(backend, seed), [made.one() for _ in range(40)])

    run()


def heard_by(plugin: object) -> RunHooks:
    """Return the hooks of a run that one plugin listens to."""
    plugins = pluggy.PluginManager(hookspecs.PROJECT)
    plugins.add_hookspecs(hookspecs)
    plugins.register(plugin, name="ears")
    return RunHooks(plugins)


class Ears:
    """Hears of exits and faults and writes all down; at times it looks, answers, or fails."""

    def __init__(self, seed: int) -> None:
        """Draw what is done by the way from *seed*."""
        self.heard: list[object] = []
        self.random = random.Random(f"ears {seed}")  # noqa: S311 - not for secrets
        self.bold = self.random.random() < 0.5
        """The control structure is looked at too."""

    def _hear(self, vcpu: Vcpu, *told: object, exited: bool = True) -> float:
        self.heard.append(told)
        chance = self.random.random()
        if not vcpu.regs.cr0 & CR0_PG:
            return chance  # the guest boots: there is nothing to look at, and nobody to fail
        if chance < 0.05:
            self.heard.append((core_of(vcpu), counts_of(vcpu.ledger), vcpu.cr2))
        elif chance < 0.06 and self.bold and exited:
            control = vcpu.control
            reason = vcpu.backend.exit_reason(control)
            self.heard.append((reason, vcpu.backend.decode_exit(control, vcpu.core)))
        elif chance < 0.07:
            self.heard.append(vcpu.load(KERNEL_BASE + vcpu.cr3))
        elif chance > 0.998 and told[0] != "handled":  # a flush may be owed by then
            raise InputError("that will do")
        return chance

    @hookspecs.hookimpl
    def hvmmu_handle_exit(self, vcpu: Vcpu, what: HowExited) -> HowExited | None:
        """Hear of an exit, or answer with the same."""
        return attrs.evolve(what) if 0.1 < self._hear(vcpu, "exit", what) < 0.15 else None

    @hookspecs.hookimpl
    def hvmmu_handle_fault(self, vcpu: Vcpu, fault: PageFault) -> tuple[FaultOutcome, Flush] | None:
        """Hear of a fault, or have it handled as it would be anyway."""
        chance = self._hear(vcpu, "fault", fault)
        return vcpu.mmu.handle(fault) if 0.1 < chance < 0.15 else None

    @hookspecs.hookimpl
    def hvmmu_fault_handled(self, vcpu: Vcpu, fault: PageFault, handled: FaultOutcome) -> None:
        """Hear what became of it."""
        told = "handled", fault, handled, handled.walk_refs
        self._hear(vcpu, *told, exited=handled.route is not Route.BYPASS)


class Less(Ears):
    """Does not hear of exits."""

    hvmmu_handle_exit = hvmmu_handle_fault = None  # type: ignore[assignment]


class Least(Ears):
    """Hears of exits alone."""

    hvmmu_fault_handled = hvmmu_handle_fault = None  # type: ignore[assignment]


@pytest.mark.parametrize("ears", [Ears, Less, Least])
@pytest.mark.parametrize("backend", TRIED)
def test_plugins_hear_the_same(backend: str, ears: type[Ears]) -> None:
    """If wrong, a hook is called less often, in another order, or told something else."""
    few = max(2, EXAMPLES // 2)

    @settings(max_examples=few, deadline=None, phases=(Generate.explicit, Generate.generate))
    @given(seed=st.integers(0, 2**64 - 1))
    def run(seed: int) -> None:
        listening: list[Ears] = []

        def hooks() -> RunHooks:
            listening.append(ears(seed))
            return heard_by(listening[-1])

        made = Steps(random.Random(seed))  # noqa: S311 - not for secrets
        agree(config_of(backend, seed), [made.one() for _ in range(30)], hooks)
        one, other = listening
        assert one.heard == other.heard

    run()


class Fails:
    """Fails when it hears of something for the *nth* time."""

    def __init__(self, nth: int) -> None:
        """Begin to count."""
        self.left = nth

    def _hear(self, vcpu: Vcpu) -> None:
        self.left -= bool(vcpu.regs.cr0 & CR0_PG)
        if not self.left:
            raise InputError("that will do")

    @hookspecs.hookimpl
    def hvmmu_handle_exit(self, vcpu: Vcpu) -> None:
        """Hear of an exit."""
        self._hear(vcpu)

    @hookspecs.hookimpl
    def hvmmu_fault_handled(self, vcpu: Vcpu, handled: FaultOutcome) -> None:
        """Hear that a fault was the guest's own: after others, a flush may be owed."""
        if handled.route is Route.BYPASS:
            self._hear(vcpu)


@pytest.mark.parametrize("backing", Backing)
@pytest.mark.parametrize("backend", TRIED)
def test_after_a_plugin_has_failed(backend: str, backing: Backing) -> None:
    """If wrong, the guest's books are others after a fault that came to nothing half-way."""
    made = BACKENDS[backend]
    config = MachineConfig(made, made.params(), guest=GuestParams(memory=RAM))
    kinds = [pf.U | how for how in (pf.READ, pf.WRITE, pf.WRITE, pf.FETCH)]
    pages = array("Q", [BORDER + at * PAGE_SIZE for at in range(len(kinds))])
    touch = Accesses(pages, array("B", kinds))
    steps = [
        Mmap(Gva(BORDER), len(kinds), ALL, backing),
        *[touch] * 3,
        Fork(2),
        touch,
        SwitchTo(2),
        touch,
    ]
    for nth in range(1, 60):
        agree(config, steps, lambda nth=nth: heard_by(Fails(nth)))  # type: ignore[misc]


WORKLOADS = (
    "demand-zero:pages=600",
    "fork-cow:pages=300",
    "mprotect",
    "random:refs=5000",
    "context-switch",
    str(SHIPPED),
)


@pytest.mark.parametrize("backend", TRIED)
@pytest.mark.parametrize("workload", WORKLOADS, ids=lambda spec: Path(spec).name)
def test_on_whole_workloads(workload: str, backend: str) -> None:
    """If wrong, it is where a random program does not lead: tables by the dozen, full logs."""
    made = BACKENDS[backend]
    config = MachineConfig(made, made.params(), guest=GuestParams(memory=2 * RAM))
    agree(config, open_workload(workload).steps(), every=1000)


def test_a_machine_that_is_never_closed() -> None:
    """If wrong, collecting one crashes the interpreter."""
    made = BACKENDS["native"]
    guest = GuestParams(memory=RAM)
    machine = Machine(MachineConfig(made, made.params(), guest=guest))
    del machine
    gc.collect()


def small(backend: str, memory: int = RAM) -> MachineConfig:
    """Return a machine with little memory and no parameter set."""
    made = BACKENDS[backend]
    return MachineConfig(made, made.params(), guest=GuestParams(memory=memory))


def touch(pages: int, how: int, step: int = PAGE_SIZE) -> Accesses:
    """Return one access to each of so many pages, *step* bytes apart."""
    gva = array("Q", range(BORDER, BORDER + pages * step, step))
    return Accesses(gva, array("B", [pf.U | how]) * pages)


def mapped(pages: int, backing: Backing) -> Mmap:
    """Return the mapping of so many pages, with every protection."""
    return Mmap(Gva(BORDER), pages, ALL, backing)


CASES: dict[str, list[Step]] = {
    "a page cache that a fork shares": [
        mapped(4, Backing.FILE),
        Fork(2),
        touch(2, pf.READ),
        SwitchTo(2),
        touch(4, pf.READ),
        touch(4, pf.WRITE),
        SwitchTo(1),
        touch(4, pf.FETCH),
    ],
    "more frames given back than C is told of": [
        mapped(700, Backing.ANONYMOUS),
        touch(700, pf.WRITE),
        Munmap(Gva(BORDER), 700),
        mapped(700, Backing.INFERRED),
        touch(700, pf.WRITE),
    ],
    "a full log": [
        mapped(5000, Backing.ANONYMOUS),
        touch(4200, pf.READ),
    ],
    "a full page cache": [
        mapped(600, Backing.FILE),
        touch(600, pf.READ),
        touch(600, pf.WRITE),
        mapped(1, Backing.FILE),
        Munmap(Gva(BORDER), 600),
        mapped(600, Backing.INFERRED),
        touch(600, pf.FETCH),
        touch(600, pf.WRITE),
    ],
    "page tables in another large page": [
        mapped(520 * 512, Backing.ANONYMOUS),
        touch(520, pf.WRITE, 2 << 20),
        touch(520, pf.READ, (2 << 20) + PAGE_SIZE),
    ],
    "memory used up": [
        mapped(4000, Backing.ANONYMOUS),
        touch(4000, pf.WRITE),
    ],
    "memory used up by copies": [
        mapped(2000, Backing.ANONYMOUS),
        touch(2000, pf.WRITE),
        Fork(2),
        touch(2000, pf.WRITE),
    ],
    "frames used again after a fork": [
        mapped(8, Backing.ANONYMOUS),
        touch(8, pf.WRITE),
        Fork(2),
        touch(4, pf.WRITE),
        SwitchTo(2),
        touch(8, pf.WRITE),
        ExitProcess(1),
        touch(8, pf.WRITE),
    ],
}


@pytest.mark.parametrize("backend", ["native", "plain"])
@pytest.mark.parametrize("case", CASES)
def test_a_case(case: str, backend: str) -> None:
    """If wrong, it is at a limit that random steps seldom come to."""
    memory = 4 * RAM if "large page" in case else RAM
    agree(small(backend, memory), CASES[case])


@pytest.mark.parametrize("backend", VENDORS or ["plain"])
def test_tables_that_nobody_tells_of(backend: str) -> None:
    """A store into a page table goes by what the guest's entries were at the one before it."""
    config, pages = small(backend), 8
    made = machines(config)
    steps = [touch(pages, pf.W), touch(2 * pages, pf.W), touch(3 * pages, pf.W)]
    for machine in made:
        machine.step(mapped(3 * pages, Backing.ANONYMOUS))
    for step in steps:
        for machine in made:
            machine.step(step)
            slot = machine.guest.current.root + 8 * (KERNEL_BASE >> 39 & 511)
            link = machine.vcpu.peek(slot)
            assert link & pte.A, "the walk for a store was to set it"
            machine.vcpu.boot_store(slot, link & ~pte.A)
        compare(*made, state_of, step)
    for machine in made:
        machine.close()


@pytest.mark.parametrize("backend", ["native", "plain"])
@pytest.mark.parametrize("resume", list(Resume))
def test_a_handler_of_another_kind(backend: str, resume: Resume) -> None:
    """If wrong, the guest's handler is another than the one it has set."""
    compiled, reference = machines(small(backend))
    step = Accesses(array("Q", [BORDER, BORDER + 8]), array("B", [pf.U, pf.U | pf.W]))
    ended = []
    for machine in (compiled, reference):
        machine.vcpu.page_fault = lambda _: resume
        ended.append(perform(machine, step))
    assert ended[0] == ended[1]
    assert ("times in a row" in ended[0]) == (resume is Resume.RETRY)
    compare(compiled, reference, state_of, step)
