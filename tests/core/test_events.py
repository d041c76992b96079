"""The event stream: everything that happens, in order, to those who subscribe."""

from __future__ import annotations

from array import array
from collections import Counter
from typing import TYPE_CHECKING, Any

import attrs
import pluggy
import pytest

from hvmmu import hookspecs
from hvmmu._engines import ENGINES
from hvmmu._guest.policy import GuestParams
from hvmmu._hooks import RunHooks
from hvmmu._mmu_params import MmuParams
from hvmmu.arch import pfec as pf
from hvmmu.arch import pte
from hvmmu.backend import Paging
from hvmmu.errors import InputError
from hvmmu.events import Event, EventKind
from hvmmu.fault import Cause, FaultOutcome, Route
from hvmmu.generic import GenericBackend, GenericDeprivilegedBackend
from hvmmu.hookspecs import hookimpl
from hvmmu.machine import Machine, MachineConfig
from hvmmu.steps import PROT_READ, PROT_WRITE, Accesses, Backing, Fork, Mmap, SwitchTo
from hvmmu.types import PAGE_SIZE, Gva

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from hvmmu.fault import FaultRecord, PageFault
    from hvmmu.steps import Step
    from hvmmu.vcpu import Vcpu

START, PAGES = 0x40_0000, 40


class Plain(GenericBackend):
    """A backend for every test, whichever plugins are installed."""

    name = "plain"
    summary = "for tests"


class Deprivileged(GenericDeprivilegedBackend):
    """The same for a guest that hardware runs as user."""

    name = "deprivileged"
    summary = "for tests"


def steps(pages: int = PAGES) -> Iterator[Step]:
    """Yield demand-zero faults, a fork, and copy-on-write on both sides."""
    gva = array("Q", range(START, START + pages * PAGE_SIZE, PAGE_SIZE))
    write = Accesses(gva, array("B", [pf.U | pf.W]) * pages)
    yield Mmap(Gva(START), pages, PROT_READ | PROT_WRITE, Backing.ANONYMOUS)
    yield write
    yield Fork(2)
    yield write
    yield SwitchTo(2)
    yield write


Make = "Callable[..., Machine]"


@pytest.fixture
def make() -> Iterator[Callable[..., Machine]]:
    """Return a maker of machines, which are closed afterwards."""
    made: list[Machine] = []

    def build(backend: type[Any] = Plain, **config: Any) -> Machine:  # noqa: ANN401 - as given
        guest = GuestParams(memory=64 << 20)
        made.append(Machine(MachineConfig(backend, backend.params(), guest=guest, **config)))
        return made[-1]

    yield build
    for one in made:
        one.close()


def recorded(machine: Machine, kinds: Any = EventKind, pages: int = PAGES) -> list[Event]:  # noqa: ANN401 - an iterable
    """Run the steps and return their events."""
    events: list[Event] = []
    machine.vcpu.events.subscribe(events.append, kinds)
    for step in steps(pages):
        machine.step(step)
    return events


BACKENDS = (Plain, Deprivileged)
HOW = [
    pytest.param({"engine": engine, "simulate": simulate}, id=f"{engine.name}-{simulate:d}")
    for engine in ENGINES
    for simulate in (False, True)
]


@pytest.mark.parametrize("backend", BACKENDS)
@pytest.mark.parametrize("how", HOW)
def test_events_and_counts_agree(
    make: Callable[..., Machine], backend: type[Any], how: dict[str, Any]
) -> None:
    """If wrong, a picture drawn from events shows something else than the table of counts."""
    machine = make(backend, **how)
    machine.vcpu.ledger.clear()
    built = machine._hardware()[2]
    events = recorded(machine)
    ledger, kinds = machine.vcpu.ledger, Counter(event.kind for event in events)
    assert Counter(e.reason for e in events if e.kind is EventKind.EXIT) == ledger.exits
    routes = Counter((e.route, e.cause) for e in events if e.kind is EventKind.FAULT)
    for (route, cause), count in routes.items():
        assert route is not None
        assert ledger.total(route, cause=cause) == count
    assert routes.total() == ledger.faults.total()
    assert kinds[EventKind.INJECT] == ledger.total(Route.INJECT)
    assert kinds[EventKind.TABLE_WRITE] == ledger.total(Route.EMULATE)
    assert kinds[EventKind.ENTRY] == kinds[EventKind.EXIT]
    assert kinds[EventKind.SHADOW_PAGE] == machine._hardware()[2] - built
    refs = sum(e.size for e in events if e.kind is EventKind.WALK)
    assert refs == ledger.guest_walk_refs


@pytest.mark.parametrize("backend", BACKENDS)
def test_events_are_the_same_however_a_stop_is_handled(
    make: Callable[..., Machine], backend: type[Any]
) -> None:
    """If wrong, the stream depends on the engine, or on whether exits are simulated."""
    streams = [recorded(make(backend, **how.values[0])) for how in HOW]
    assert all(stream == streams[0] for stream in streams)
    order = [e.kind for e in streams[0] if e.kind in (EventKind.EXIT, EventKind.ENTRY)]
    assert order == [EventKind.EXIT, EventKind.ENTRY] * (len(order) // 2)


@pytest.mark.parametrize("params", [{}, {"flood_threshold": 1}, {"shadow_pages": 12}])
def test_entries_are_as_events_say(make: Callable[..., Machine], params: dict[str, int]) -> None:
    """If wrong, a shadow entry changes and no event tells it."""
    machine = make(mmu=MmuParams(**params))
    known: dict[int, int] = {}
    shadow = machine._platform.shadow
    assert shadow is not None
    for event in recorded(machine):
        if event.kind is EventKind.SPTE:
            known[event.hpa] = event.value
        elif event.kind is EventKind.ZAP and event.size == 1:
            known.pop(event.hpa, None)
        elif event.kind is EventKind.ZAP:
            for hpa in range(event.hpa, event.hpa + PAGE_SIZE, 8):
                known.pop(hpa, None)
    hardware = ~(pte.A | pte.D)
    entries = machine.vcpu.memory.u64
    assert known
    for hpa, spte in known.items():
        assert entries[hpa >> 3] & hardware == spte & hardware, hex(hpa)


def test_more_events_than_a_buffer_holds(make: Callable[..., Machine]) -> None:
    """If wrong, events are lost or doubled where the buffer is handed over."""
    all_of_them = recorded(make(), pages=600)
    faults = recorded(make(), [EventKind.FAULT], pages=600)
    assert len(all_of_them) > 5000
    assert faults == [event for event in all_of_them if event.kind is EventKind.FAULT]


def test_nobody_reads(make: Callable[..., Machine]) -> None:
    """If wrong, a run without readers pays for events."""
    machine = make()
    events: list[Event] = []
    machine.vcpu.events.subscribe(events.append)
    machine.vcpu.events.unsubscribe(events.append)
    assert machine.vcpu.events.handle.recorded == 0
    recorded(machine, ())
    assert events == []
    assert machine.vcpu.events.handle.count == 0


def test_a_reader_fails(make: Callable[..., Machine]) -> None:
    """If wrong, a reader's exception is lost, or ends the interpreter in the middle of C."""
    machine = make()

    def refuse(event: Event) -> None:
        raise InputError(f"no {event.kind.value}")

    machine.vcpu.events.subscribe(refuse, [EventKind.INJECT])
    with pytest.raises(InputError, match="no inject"):
        _ = [machine.step(step) for step in steps()]


class Records:
    """Keeps the record of each fault."""

    def __init__(self) -> None:
        """Start with none."""
        self.kept: list[tuple[PageFault, FaultOutcome, FaultRecord]] = []

    @hookimpl
    def hvmmu_fault_handled(self, vcpu: Vcpu, fault: PageFault, handled: FaultOutcome) -> None:
        """Keep it."""
        self.kept.append((fault, handled, vcpu.fault))


@pytest.mark.parametrize("how", HOW)
def test_a_fault_record_has_both_walks(make: Callable[..., Machine], how: dict[str, Any]) -> None:
    """If wrong, a fault is explained by entries that nobody walked."""
    plugins = pluggy.PluginManager(hookspecs.PROJECT)
    plugins.add_hookspecs(hookspecs)
    records = Records()
    plugins.register(records)
    machine = make(hooks=RunHooks(plugins), **how)
    assert Plain.caps.paging is Paging.SHADOW
    for step in steps(4):
        machine.step(step)
    assert records.kept
    for fault, handled, record in records.kept:
        assert (record.gva, record.pfec) == (fault.gva, fault.pfec)
        assert attrs.asdict(record.outcome) == attrs.asdict(handled)
        assert len(record.guest_path) == handled.walk_refs
        last = record.guest_path[-1]
        if handled.cause is Cause.NOT_PRESENT:
            assert not last.entry & pte.P
        else:
            assert last.entry & pte.P
        assert 1 <= len(record.shadow_path) <= 4
        assert record.shadow_path[0].address >> 12 < 1 << 18
    emulated = [r for _, h, r in records.kept if h.route is Route.EMULATE]
    assert emulated
    assert all(record.stored is not None for record in emulated)
