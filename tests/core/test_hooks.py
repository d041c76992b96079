"""Hooks: each is called when it says, costs nothing unheard, and its failures are the plugin's."""

from array import array
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any

import attrs
import pluggy
import pytest

from hvmmu import hookspecs
from hvmmu._guest.policy import GuestParams
from hvmmu._hooks import RunHooks
from hvmmu._mmu_params import MmuParams
from hvmmu._plugins import load
from hvmmu.arch import pfec as pf
from hvmmu.backend import Backend, Invlpg, Paging, VmExit
from hvmmu.costs import MODELS, Cost, CostModel
from hvmmu.errors import GuestMemoryError, PluginError
from hvmmu.fault import Cause, FaultOutcome, PageFault, Route
from hvmmu.flush import Flush
from hvmmu.hookspecs import hookimpl
from hvmmu.machine import Machine, MachineConfig
from hvmmu.memory import Memslots
from hvmmu.results import RunResult
from hvmmu.steps import PROT_READ, PROT_WRITE, Accesses, Backing, Mmap, Munmap
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
        params = backend.params(**dict.fromkeys(backend.compare_params, False))
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
        self.handled: list[tuple[PageFault, FaultOutcome]] = []
        self.own: object = None

    @hookimpl
    def hvmmu_vm_created(self, vcpu: Vcpu, settings: Mapping[str, Any]) -> None:
        """Hear of the machine."""
        self.heard["vm_created"] += 1
        assert settings["guest"].memory == vcpu.guest_memory
        assert settings["cpu"].features == vcpu.cpu
        assert settings["mmu"] == MmuParams()
        self.own = settings.get("own")
        assert vcpu.ledger.accesses == 0

    @hookimpl
    def hvmmu_memslot_changed(self, vcpu: Vcpu, slots: Memslots) -> None:
        """Hear of RAM."""
        assert slots.slots[0].size == vcpu.guest_memory
        self.heard["memslot_changed"] += 1

    @hookimpl
    def hvmmu_handle_exit(self, what: VmExit) -> None:
        """Hear of exits."""
        self.heard[type(what).__name__] += 1

    @hookimpl
    def hvmmu_handle_fault(self, fault: PageFault) -> None:
        """Hear of faults that exit."""
        self.heard["handle_fault"] += bool(fault)

    @hookimpl
    def hvmmu_fault_handled(self, fault: PageFault, handled: FaultOutcome) -> None:
        """Hear what became of them."""
        self.handled.append((fault, handled))

    @hookimpl
    def hvmmu_report(self, vcpu: Vcpu, result: RunResult) -> dict[str, int]:
        """Count what was heard."""
        assert vcpu.backend.name == result.backend
        return {f"listener.{result.backend}": len(self.handled)}


def test_every_hook_is_documented() -> None:
    """If wrong, somebody has to read our code to learn what a hook costs or how it looks."""
    page = Path(__file__).parents[2] / "docs" / "plugins.md"
    told = page.read_text(encoding="utf-8") if page.exists() else None
    for name in SPECS:
        text = getattr(hookspecs, name).__doc__
        assert "Cost: " in text, name
        assert f"def {name}(" in text, name
        assert "Example::" in text, name
        assert told is None or f"| `{name}` |" in told, name
    order = [line.split("`")[1] for line in (told or "").splitlines() if line.startswith("| `hv")]
    assert order == (SPECS if told is not None else [])


def test_every_hook_is_tested() -> None:
    """If wrong, a hook could stop being called and no test would notice."""
    here = Path(__file__).read_text(encoding="utf-8")
    others = [Path(__file__).with_name(f"test_{name}.py") for name in ("plugins", "offered")]
    text = "".join([here, *(other.read_text(encoding="utf-8") for other in others)])
    for name in SPECS:
        assert f"def {name}(" in text, name


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
    faults = sum(row["count"] for row in expected.counters["fault_outcomes"])
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
    def hvmmu_handle_fault(self, vcpu: Vcpu, fault: PageFault) -> tuple[FaultOutcome, Flush] | None:
        """Inject what the guest's root table says is not present."""
        gpa = (vcpu.cr3 & ~0xFFF) + 8 * (fault.gva >> 39 & 511)
        if vcpu.peek(gpa) & 1:
            return None
        self.injected += 1
        return FaultOutcome(Route.INJECT, Cause.NOT_PRESENT, fault.kind, 4), Flush.nothing()


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
    def hvmmu_handle_exit(self, what: VmExit) -> object:
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
    with pytest.raises(PluginError, match="of type PageFault: another kind") as caught:
        wrong.vcpu.invlpg(0x1234)
    assert (caught.value.plugin, caught.value.hook) == ("rewriter", "hvmmu_handle_exit")


class Answering:
    """Answers what it is told to, or raises it."""

    def __init__(self, answer: object) -> None:
        """Take the answer."""
        self.answer = answer

    def _answered(self) -> object:
        if isinstance(self.answer, BaseException):
            raise self.answer
        return self.answer

    @hookimpl
    def hvmmu_handle_fault(self) -> object:
        """Answer a fault."""
        return self._answered()

    @hookimpl
    def hvmmu_report(self) -> object:
        """Answer with counters."""
        return self._answered()


@pytest.mark.parametrize(
    "answer",
    [7, (7, 7), (FaultOutcome(Route.INJECT, Cause.NOT_PRESENT, 0, 1), None), Flush.nothing()],
)
def test_a_fault_is_answered_with_a_route(
    machine: Callable[..., Machine], hypervised: type[Backend[Any]], answer: object
) -> None:
    """If wrong, a plugin that forgets the flush ends in a traceback of ours."""
    made = machine(hypervised, hasty=Answering(answer))
    with pytest.raises(PluginError, match="'hasty', in hvmmu_handle_fault: answered with an obj"):
        touch(made)


@pytest.mark.parametrize(
    ("answer", "said"),
    [
        ({"accesses": 1}, "there is a counter 'accesses' already"),
        ({"x": -1}, "counter 'x' is -1; a name and a count of 0 or more can be"),
        ({"x": True}, "counter 'x' is True"),
        ({"x": 1.5}, "counter 'x' is 1.5"),
        ({7: 1}, "counter 7 is 1"),
        ({"seen": 1}, "counter 'seen' has no prefix; call it PLUGIN.seen"),
        (7, "answered with an object of type int; return a dict of counters, or None"),
    ],
)
def test_a_report_is_of_new_counters(
    machine: Callable[..., Machine], answer: object, said: str
) -> None:
    """If wrong, a plugin replaces a counter that everybody compares, or spoils the document."""
    made = machine(BACKENDS["native"], reporter=Answering(answer))
    with pytest.raises(PluginError, match=f"plugin 'reporter', in hvmmu_report: {said}"):
        made.result(next(iter(MODELS.values())))


def test_two_plugins_report_one_counter(machine: Callable[..., Machine]) -> None:
    """If wrong, one of two counters is lost, and which one depends on chance."""
    answers = {name: Answering({"both.seen": 1}) for name in ("left", "right")}
    made = machine(BACKENDS["native"], **answers)
    with pytest.raises(PluginError, match="plugin 'left' or 'right', in hvmmu_report: there"):
        made.result(next(iter(MODELS.values())))


def test_what_a_plugin_reports_can_be_priced(machine: Callable[..., Machine]) -> None:
    """If wrong, a cost model cannot price what only a plugin can count."""
    made = machine(BACKENDS["native"], reporter=Answering({"mine.seen": 5}))
    plain = machine(BACKENDS["native"])
    costs = CostModel("mine", "", (Cost("mine.seen", 3, "made up"), Cost("walks", 1, "made up")))
    touch(made)
    touch(plain)
    walks = plain.result(costs).cycles["walks"]
    assert made.result(costs).cycles == {
        "model": "mine",
        "exits": 0,
        "guest_faults": 0,
        "walks": walks,
        "mine.seen": 15,
        "total": 15 + int(walks),
    }


@attrs.frozen
class Own:
    """A plugin's own section."""

    depth: int = 3


class Owner:
    """A plugin with a section of its own."""

    @hookimpl
    def hvmmu_parameters(self) -> Mapping[str, type]:
        """Declare it."""
        return {"own": Own}


@pytest.mark.parametrize("given", [{}, {"own": Own(4)}])
def test_a_plugin_has_its_own_section(given: dict[str, Own]) -> None:
    """If wrong, a plugin has to read its settings in some way of its own, or has none."""
    listener = Listener()
    manager = pluggy.PluginManager(hookspecs.PROJECT)
    manager.add_hookspecs(hookspecs)
    manager.register(listener)
    manager.register(Owner())
    native = BACKENDS["native"]
    hooks = RunHooks(manager)
    Machine(MachineConfig(native, native.params(), hooks=hooks, settings=given)).close()
    assert listener.own == given.get("own", Own())


class Failing:
    """Fails where it is told to."""

    @hookimpl
    def hvmmu_fault_handled(self) -> None:
        """Fail as plugins do."""
        raise ZeroDivisionError("as\n planned")


class Wrapping:
    """Wraps a hook, so that the failure comes through somebody else's frame."""

    @hookimpl(wrapper=True)
    def hvmmu_fault_handled(self) -> Iterable[None]:
        """Let it through."""
        return (yield)


def test_a_failure_names_the_plugin(machine: Callable[..., Machine]) -> None:
    """If wrong, a plugin's bug looks like ours."""
    made = machine(BACKENDS["native"], bypassable=Listener(), culprit=Failing(), around=Wrapping())
    with pytest.raises(PluginError) as caught:
        touch(made)
    said = "plugin 'culprit', in hvmmu_fault_handled: ZeroDivisionError: as planned"
    assert str(caught.value) == said
    assert (caught.value.plugin, caught.value.hook) == ("culprit", "hvmmu_fault_handled")


def test_a_failure_that_two_plugins_share(machine: Callable[..., Machine]) -> None:
    """If wrong, a plugin is blamed for what another one of the same class did."""
    made = machine(BACKENDS["native"], left=Failing(), right=Failing())
    with pytest.raises(PluginError, match="plugin 'left' or 'right', in hvmmu_fault_handled"):
        touch(made)


@pytest.mark.parametrize(
    "error", [SystemExit("bye"), GuestMemoryError("all gone"), RecursionError(), GeneratorExit()]
)
def test_whatever_a_hook_raises(machine: Callable[..., Machine], error: BaseException) -> None:
    """If wrong, a plugin ends the tool, or is taken for the core that raises the same."""
    made = machine(BACKENDS["native"], culprit=Answering(error))
    with pytest.raises(PluginError, match=f"in hvmmu_report: {type(error).__name__}"):
        made.result(next(iter(MODELS.values())))


def test_keyboard_interrupt_is_the_users(machine: Callable[..., Machine]) -> None:
    """If wrong, Ctrl-C in a hook ends one run, and the next one goes on."""
    made = machine(BACKENDS["native"], culprit=Answering(KeyboardInterrupt()))
    with pytest.raises(KeyboardInterrupt):
        made.result(next(iter(MODELS.values())))


class Nesting:
    """Causes a fault of its own from a hook, which the failing one then hears of."""

    @hookimpl
    def hvmmu_report(self, vcpu: Vcpu) -> None:
        """Touch a page that the guest does not have."""
        vcpu.run(array("Q", [START]), array("B", [pf.U]))


def test_a_hook_within_a_hook(machine: Callable[..., Machine]) -> None:
    """If wrong, a plugin is blamed for another one whose hook was called on the way."""
    made = machine(BACKENDS["native"], culprit=Failing(), outer=Nesting())
    with pytest.raises(PluginError) as caught:
        made.result(next(iter(MODELS.values())))
    assert (caught.value.plugin, caught.value.hook) == ("culprit", "hvmmu_fault_handled")


class Refusing:
    """Refuses each machine."""

    @hookimpl
    def hvmmu_vm_created(self, vcpu: Vcpu) -> None:
        """Fail, and keep the vCPU, to see what became of its memory."""
        self.vcpu = vcpu
        raise OSError("no")


class Booting:
    """Fails at the first exit, which is while the guest boots."""

    @hookimpl
    def hvmmu_handle_exit(self, vcpu: Vcpu) -> None:
        """Fail."""
        self.vcpu = vcpu
        raise OSError("no")


def test_a_guest_that_cannot_boot(
    machine: Callable[..., Machine], hypervised: type[Backend[Any]]
) -> None:
    """If wrong, a machine whose guest does not come up leaves its memory behind."""
    booting = Booting()
    with pytest.raises(PluginError, match="plugin 'booting', in hvmmu_handle_exit: OSError: no"):
        machine(hypervised, booting=booting)
    with pytest.raises(ValueError, match="released"):
        booting.vcpu.memory.load(0)


def test_a_machine_that_a_plugin_refuses(machine: Callable[..., Machine]) -> None:
    """If wrong, each machine that is not made leaves its memory behind."""
    refusing = Refusing()
    with pytest.raises(PluginError, match="plugin 'refusing', in hvmmu_vm_created: OSError: no"):
        machine(BACKENDS["native"], refusing=refusing)
    with pytest.raises(ValueError, match="released"):
        refusing.vcpu.memory.load(0)


def test_a_silent_hook_costs_nothing() -> None:
    """If wrong, every fault pays for hooks that nobody listens to."""
    manager = pluggy.PluginManager(hookspecs.PROJECT)
    manager.add_hookspecs(hookspecs)
    for hooks in (RunHooks(manager), RunHooks()):
        assert dict(hooks.settings) == {}
        assert {made for name, made in vars(hooks).items() if name != "settings"} == {None}
