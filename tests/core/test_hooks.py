"""Hooks: each is called when it says, costs nothing unheard, and its failures are the plugin's."""

from array import array
from collections import Counter
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path
from typing import Any

import attrs
import pluggy
import pytest

from hvmmu import hookspecs
from hvmmu.arch import pfec as pf
from hvmmu.backend import Backend, Exit, Invlpg, Paging
from hvmmu.costs import MODELS
from hvmmu.errors import PluginError
from hvmmu.guest.params import GuestParams
from hvmmu.guest.steps import PROT_READ, PROT_WRITE, Accesses, Backing, Mmap, Munmap
from hvmmu.hooks import RunHooks
from hvmmu.hookspecs import hookimpl
from hvmmu.machine import Machine, MachineConfig
from hvmmu.memory import Memslots
from hvmmu.mmu.fault import Cause, Handled, PageFault, Route
from hvmmu.mmu.flush import Flush
from hvmmu.plugins import load
from hvmmu.results import RunResult
from hvmmu.vcpu import Vcpu

BACKENDS = load().backends
SHADOWED = [name for name, made in BACKENDS.items() if made.caps.paging is not Paging.BARE]
PAGES = 4
START = 0x40_0000
SPECS = [name for name in vars(hookspecs) if name.startswith("hvmmu_")]


@pytest.fixture(
    params=SHADOWED or [pytest.param("", marks=pytest.mark.skip("no plugin installed"))]
)
def hypervised(request: pytest.FixtureRequest) -> type[Backend[Any]]:
    """Return each installed backend that has a hypervisor."""
    return BACKENDS[request.param]


@pytest.fixture
def machine() -> Iterator[Callable[..., Machine]]:
    """Return a maker of machines with plugins listening; they are closed afterwards."""
    made: list[Machine] = []

    def make(backend: type[Backend[Any]], **plugins: object) -> Machine:
        manager = pluggy.PluginManager(hookspecs.PROJECT)
        manager.add_hookspecs(hookspecs)
        for name, plugin in plugins.items():
            manager.register(plugin, name=name)
        manager.check_pending()
        params = backend.params(**dict.fromkeys(backend.compare_over, False))
        guest = GuestParams(memory=64 << 20)
        made.append(Machine(MachineConfig(backend, params, guest=guest, hooks=RunHooks(manager))))
        return made[-1]

    yield make
    for one in made:
        one.close()


def touch(machine: Machine) -> None:
    """Map some pages, write to each, and unmap them."""
    machine.step(Mmap(START, PAGES, PROT_READ | PROT_WRITE, Backing.ANONYMOUS))
    gva = array("Q", [START + 4096 * page for page in range(PAGES)])
    machine.step(Accesses(gva, array("B", [pf.U | pf.WRITE] * PAGES)))
    machine.step(Munmap(START, PAGES))


class Listener:
    """Hears everything, and changes nothing."""

    def __init__(self) -> None:
        """Start with nothing heard."""
        self.heard: Counter[str] = Counter()
        self.handled: list[tuple[PageFault, Handled]] = []

    @hookimpl
    def hvmmu_vm_created(self, vcpu: Vcpu) -> None:
        """Hear of the machine."""
        self.heard["vm_created"] += 1
        assert vcpu.ledger.accesses == 0

    @hookimpl
    def hvmmu_memslot_changed(self, vcpu: Vcpu, slots: Memslots) -> None:
        """Hear of RAM."""
        assert slots.slots[0].size == vcpu.guest_memory
        self.heard["memslot_changed"] += 1

    @hookimpl
    def hvmmu_handle_exit(self, what: Exit) -> None:
        """Hear of exits."""
        self.heard[type(what).__name__] += 1

    @hookimpl
    def hvmmu_handle_fault(self, fault: PageFault) -> None:
        """Hear of faults that exit."""
        self.heard["handle_fault"] += bool(fault)

    @hookimpl
    def hvmmu_fault_handled(self, fault: PageFault, handled: Handled) -> None:
        """Hear what became of them."""
        self.handled.append((fault, handled))

    @hookimpl
    def hvmmu_report(self, result: RunResult) -> dict[str, int]:
        """Count what was heard."""
        return {f"listener.{result.backend}": len(self.handled)}


def test_every_hook_is_documented() -> None:
    """If wrong, somebody has to read our code to learn what a hook costs or how it looks."""
    page = Path(__file__).parents[2] / "docs" / "plugins.md"
    told = page.read_text(encoding="utf-8") if page.exists() else None
    for name in SPECS:
        text = getattr(hookspecs, name).__doc__
        assert "Cost: " in text, name
        assert f"def {name}(" in text, name
        assert told is None or f"`{name}`" in told, name


def test_every_hook_is_tested() -> None:
    """If wrong, a hook could stop being called and no test would notice."""
    here = Path(__file__).read_text(encoding="utf-8")
    loading = (Path(__file__).parent / "test_plugins.py").read_text(encoding="utf-8")
    for name in SPECS:
        assert f"def {name}(" in here + loading, name


def test_a_listener_hears_everything_and_changes_nothing(
    machine: Callable[..., Machine], hypervised: type[Backend[Any]]
) -> None:
    """If wrong, a hook is not called when it says, or listening changes the run."""
    listener = Listener()
    heard, plain = machine(hypervised, listener=listener), machine(hypervised)
    touch(heard)
    touch(plain)
    costs = next(iter(MODELS.values()))
    result, expected = heard.result(costs), plain.result(costs)
    faults = sum(row["count"] for row in expected.counters["routes"])
    added = {f"listener.{hypervised.name}": faults}
    assert result == attrs.evolve(expected, counters={**expected.counters, **added})
    assert (listener.heard["vm_created"], listener.heard["memslot_changed"]) == (1, 1)
    exits = ("PageFault", "CrWrite", "MsrWrite", "Invlpg")
    assert sum(listener.heard[name] for name in exits) == expected.counters["exits"]["total"]
    assert listener.heard["handle_fault"] == listener.heard["PageFault"]


def test_native_faults_are_observed_too(machine: Callable[..., Machine]) -> None:
    """If wrong, an observer misses the faults that hardware delivers by itself."""
    listener = Listener()
    made = machine(BACKENDS["native"], listener=listener)
    touch(made)
    assert [handled.route for _, handled in listener.handled] == [Route.BYPASS] * made.guest.faults
    assert made.guest.faults == PAGES


class Injector:
    """Handles faults in the first table that is missing, in place of the core's MMU."""

    def __init__(self) -> None:
        """Start with nothing done."""
        self.injected = 0

    @hookimpl
    def hvmmu_handle_fault(self, vcpu: Vcpu, fault: PageFault) -> tuple[Handled, Flush] | None:
        """Inject what the guest's root table says is not present."""
        gpa = (vcpu.cr3 & ~0xFFF) + 8 * (fault.gva >> 39 & 511)
        if vcpu.peek(gpa) & 1:
            return None
        self.injected += 1
        return Handled(Route.INJECT, Cause.NOT_PRESENT, fault.kind, 4), Flush.nothing()


def test_a_plugin_can_handle_faults_itself(
    machine: Callable[..., Machine], hypervised: type[Backend[Any]]
) -> None:
    """If wrong, a technique that the core does not know cannot be tried out as a plugin."""
    injector = Injector()
    with_it, without = machine(hypervised, injector=injector), machine(hypervised)
    touch(with_it)
    touch(without)
    assert injector.injected == 1
    assert with_it.guest.fault_log_sha256 == without.guest.fault_log_sha256
    assert with_it.guest.page_tables_sha256() == without.guest.page_tables_sha256()


class Rewriter:
    """Changes exits on their way to the core."""

    def __init__(self, answer: Callable[[Invlpg], object]) -> None:
        """Answer INVLPG exits with what *answer* makes of them."""
        self.answer = answer

    @hookimpl
    def hvmmu_handle_exit(self, what: Exit) -> object:
        """Rewrite INVLPG alone."""
        return self.answer(what) if isinstance(what, Invlpg) else None


def test_an_exit_can_be_rewritten(
    machine: Callable[..., Machine], hypervised: type[Backend[Any]]
) -> None:
    """If wrong, what a plugin answers to an exit is not what the core acts on."""
    seen: list[int] = []

    def page(what: Invlpg) -> Invlpg:
        seen.append(what.gva)
        return Invlpg(what.gva & ~0xFFF)

    made = machine(hypervised, rewriter=Rewriter(page))
    made.vcpu.invlpg(0x1234)
    assert seen == [0x1234]
    wrong = machine(hypervised, rewriter=Rewriter(lambda _: PageFault(0, 0)))
    with pytest.raises(PluginError, match="another kind"):
        wrong.vcpu.invlpg(0x1234)


class Failing:
    """Fails where it is told to."""

    @hookimpl
    def hvmmu_fault_handled(self) -> None:
        """Fail as plugins do."""
        raise ZeroDivisionError("as planned")


class Wrapping:
    """Wraps a hook, so that the failure comes through somebody else's frame."""

    @hookimpl(wrapper=True)
    def hvmmu_fault_handled(self) -> Iterable[None]:
        """Let it through."""
        return (yield)


def test_a_failure_names_the_plugin(machine: Callable[..., Machine]) -> None:
    """If wrong, a plugin's bug looks like ours."""
    made = machine(BACKENDS["native"], quiet=Listener(), culprit=Failing(), around=Wrapping())
    with pytest.raises(PluginError, match="plugin 'culprit', in hvmmu_fault_handled: ZeroDivision"):
        touch(made)


class Reporter:
    """Reports a counter under a name of the core's."""

    @hookimpl
    def hvmmu_report(self) -> dict[str, int]:
        """Report."""
        return {"accesses": 1}


def test_a_report_overwrites_nothing(machine: Callable[..., Machine]) -> None:
    """If wrong, a plugin can replace the counters that everybody compares."""
    made = machine(BACKENDS["native"], reporter=Reporter())
    with pytest.raises(PluginError, match="'accesses' already"):
        made.result(next(iter(MODELS.values())))


def test_a_silent_hook_costs_nothing() -> None:
    """If wrong, every fault pays for hooks that nobody listens to."""
    manager = pluggy.PluginManager(hookspecs.PROJECT)
    manager.add_hookspecs(hookspecs)
    for hooks in (RunHooks(manager), RunHooks()):
        assert set(vars(hooks).values()) == {None}
