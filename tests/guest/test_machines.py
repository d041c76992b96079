"""The guest on whole machines: it sees there what it sees on the bare vCPU of these tests."""

from __future__ import annotations

import random
from array import array
from typing import TYPE_CHECKING, Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from hvmmu._core.engine import CompiledEngine
from hvmmu._guest.kernel import SegfaultError
from hvmmu._guest.policy import GuestParams
from hvmmu._native import NativeBackend, NativeParams
from hvmmu.arch import pfec as pf
from hvmmu.errors import GuestMemoryError, HvmmuError, InvariantError
from hvmmu.generic import GenericBackend, GenericDeprivilegedBackend, NoParams
from hvmmu.machine import Machine, MachineConfig
from hvmmu.spec.engine import ReferenceEngine
from hvmmu.steps import Accesses, Backing, ExitProcess, Fork, Mmap, Mprotect, Munmap, SwitchTo
from hvmmu.types import PAGE_SIZE, Gva
from hvmmu.vcpu import Resume

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from conftest import Guest

    from hvmmu.engine import Engine
    from hvmmu.steps import Step

BASE = 0x7F00_0000_0000
RAM = 16 << 20
KINDS = (pf.U | pf.READ, pf.U | pf.WRITE, pf.U | pf.WRITE, pf.U | pf.FETCH)


class Plain(GenericBackend):
    """A guest whose page faults all exit."""

    name = "plain"
    summary = "for tests"


class Deprivileged(GenericDeprivilegedBackend):
    """A guest that hardware runs in user mode."""

    name = "deprivileged"
    summary = "for tests"


BACKENDS = {
    "native": (NativeBackend, NativeParams()),
    "plain": (Plain, NoParams()),
    "deprivileged": (Deprivileged, NoParams()),
}
MACHINES = [
    pytest.param(name, engine, simulate, id=f"{name}-{engine.name}{'-simulated' * simulate}")
    for name in BACKENDS
    for engine in (CompiledEngine, ReferenceEngine)
    for simulate in (False, True)
    if name != "native" or not simulate
]


@pytest.fixture
def make() -> Iterator[Callable[..., Machine]]:
    """Return the function that makes a machine; all are closed at the end."""
    made: list[Machine] = []

    def machine(name: str, engine: type[Engine], simulate: bool, **guest: int) -> Machine:
        backend, params = BACKENDS[name]
        config = MachineConfig(
            backend,
            params,
            engine=engine,
            simulate=simulate,
            guest=GuestParams(**{"memory": RAM, **guest}),
        )
        made.append(Machine(config))
        return made[-1]

    yield machine
    for each in made:
        each.close()


def accesses(*touched: tuple[int, int]) -> Accesses:
    """Return accesses to pages from BASE on, each of one kind."""
    gva = array("Q", [BASE + page * PAGE_SIZE for page, _ in touched])
    return Accesses(gva, array("B", [kind for _, kind in touched]))


def random_step(draw: random.Random) -> Step:
    """Return any step, at one of a few places."""
    start, pages = Gva(BASE + draw.choice((0, 1, 4, 510)) * PAGE_SIZE), draw.choice((1, 2, 6))
    prot, pid = draw.choice((7, 7, 3, 1, 0)), draw.choice((1, 2, 3))
    touched = [(draw.choice((0, 1, 2, 5, 510, 512)), draw.choice(KINDS)) for _ in range(5)]
    steps: tuple[Step, ...] = (
        Mmap(start, pages, prot, draw.choice(list(Backing))),
        Munmap(start, pages),
        Mprotect(start, pages, prot),
        draw.choice((Fork(pid), SwitchTo(pid), ExitProcess(pid))),
    )
    return draw.choice((*steps, *[accesses(*touched)] * 4))


def seen(guest: Any, step: Step) -> tuple[object, ...]:  # noqa: ANN401 - a machine's or a test's
    """Return what a guest can tell after a step, and what its kernel keeps."""
    error = ""
    try:
        guest.step(step)
    except HvmmuError as raised:
        error = f"{type(raised).__name__}: {raised}"
    zones = [(zone.next, zone.free) for zone in (guest.frames.tables, guest.frames.data)]
    books = zones, guest.tables.used, guest.frames.shared.tobytes()
    return error, guest.fault_log_sha256, guest.page_tables_sha256(), guest.counters, books


@pytest.mark.parametrize(("name", "engine", "simulate"), MACHINES)
def test_the_guest_cannot_tell(
    boot: Callable[..., Guest],
    make: Callable[..., Machine],
    name: str,
    engine: type[Engine],
    simulate: bool,
) -> None:
    """If wrong, what the kernel does depends on who runs its instructions."""

    @settings(max_examples=10, deadline=None)
    @given(seed=st.integers(0, 2**64 - 1))
    def run(seed: int) -> None:
        draw = random.Random(seed)  # noqa: S311 - not for secrets
        ahead = draw.random() < 0.5
        machine = make(name, engine, simulate, set_accessed_dirty=ahead)
        bare = boot(accessed_dirty=ahead).os
        for _ in range(30):
            step = random_step(draw)
            assert seen(machine.guest, step) == seen(bare, step), step

    run()


@pytest.mark.parametrize(("name", "engine", "simulate"), MACHINES)
def test_faults_go_to_c(
    make: Callable[..., Machine], name: str, engine: type[Engine], simulate: bool
) -> None:
    """If wrong, a machine has a way of its own to the kernel."""
    machine = make(name, engine, simulate)
    assert machine.vcpu.c.guest == machine.guest.kernel.state
    machine.guest.handler.handle = None  # type: ignore[assignment] # Python's way to C
    machine.step(Mmap(Gva(BASE), 4, 3, Backing.ANONYMOUS))
    machine.step(accesses((0, KINDS[0]), (0, KINDS[1]), (1, KINDS[1])))
    assert machine.guest.faults == 3


@pytest.mark.parametrize(("name", "engine", "simulate"), MACHINES)
def test_what_a_fault_can_end_in(
    make: Callable[..., Machine], name: str, engine: type[Engine], simulate: bool
) -> None:
    """If wrong, an error of the kernel in C is another one's, or has no message."""
    machine = make(name, engine, simulate)
    for prot, kind, why in (
        (1, KINDS[1], "process 1 at 0x7f0000000000.*not writable"),
        (3, KINDS[3], "not executable"),
        (0, KINDS[0], "allows no access"),
    ):
        machine.step(Mmap(Gva(BASE), 1, prot, Backing.ANONYMOUS))
        with pytest.raises(SegfaultError, match=why):
            machine.step(accesses((0, kind)))
        machine.step(Munmap(Gva(BASE), 1))
    with pytest.raises(SegfaultError, match="nothing is mapped"):
        machine.step(accesses((0, KINDS[0])))
    with pytest.raises(SegfaultError, match="kernel addresses"):
        machine.step(Accesses(array("Q", [0xFFFF_8880_0000_0000]), array("B", [KINDS[0]])))
    machine.step(Mmap(Gva(BASE), 4096, 3, Backing.ANONYMOUS))
    with pytest.raises(GuestMemoryError, match=r"3584 data frames.*raise guest\.memory"):
        machine.step(accesses(*((page, KINDS[1]) for page in range(4096))))
    with pytest.raises(InvariantError, match="direct map is always present"):
        machine.vcpu.load(0xFFFF_8880_0000_0000 + RAM)


@pytest.mark.parametrize("resume", list(Resume))
@pytest.mark.parametrize(("name", "engine", "simulate"), MACHINES)
def test_another_handler_takes_over(
    make: Callable[..., Machine], name: str, engine: type[Engine], simulate: bool, resume: Resume
) -> None:
    """If wrong, a handler that is set later hears of no fault, or of some."""
    machine, heard = make(name, engine, simulate), []

    def handler(pfec: int) -> Resume:
        heard.append(pfec)
        if len(heard) == 4:
            return Resume.SKIP
        return resume

    machine.vcpu.page_fault = handler
    machine.step(accesses((0, KINDS[0])))
    assert len(heard) == (1 if resume is Resume.SKIP else 4)
    assert machine.guest.faults == 0
