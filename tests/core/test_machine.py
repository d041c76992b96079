"""Whole machines: put together from a configuration, measured, and held against the bare one."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import attrs
import pytest

from hvmmu import _plugins as plugins
from hvmmu._cpu_params import CpuParams
from hvmmu._engines import DEFAULT
from hvmmu._guest.policy import GuestParams
from hvmmu._mmu_params import MmuParams
from hvmmu._native import NativeBackend, NativeParams
from hvmmu.arch.regs import CpuFeatures
from hvmmu.backend import Intercept, Paging
from hvmmu.costs import cost_model
from hvmmu.engine import EXIT_NEVER, HwThread
from hvmmu.errors import BackendUnavailableError, ConfigError, InvariantError
from hvmmu.fault import PageFault
from hvmmu.ledger import Ledger
from hvmmu.machine import GUEST_BASE, Machine, MachineConfig, build
from hvmmu.steps import StartMeasuring
from hvmmu.tlb import Scope
from hvmmu.workloads import open_workload

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from conftest import Variant

    from hvmmu.backend import Backend
    from hvmmu.results import RunResult
    from hvmmu.workloads import Workload

COSTS = cost_model("nehalem")
SMALL = GuestParams(memory=32 << 20)
WORKLOADS = (
    "demand-zero:pages=200",
    "fork-cow:pages=40,rounds=2",
    "mprotect:pages=40",
    "random:pages=60",
    "context-switch",
)

Run = "Callable[..., RunResult]"


@pytest.fixture
def make() -> Iterator[Callable[..., Machine]]:
    """Return the function that makes a machine; all are closed at the end."""
    made: list[Machine] = []

    def machine(variant: Variant, **config: object) -> Machine:
        config = {"guest": SMALL, **config}
        made.append(Machine(MachineConfig(variant.backend, variant.params, **config)))
        return made[-1]

    yield machine
    for machine_ in made:
        machine_.close()


@pytest.fixture
def run(make: Callable[..., Machine]) -> Run:
    """Return the function that runs a workload on a machine, and says what it came to."""

    def ran(variant: Variant, workload: Workload, **config: object) -> RunResult:
        machine = make(variant, **config)
        for step in workload.steps():
            machine.step(step)
        return machine.result(COSTS)

    return ran


@pytest.fixture(scope="module")
def bare() -> Callable[..., RunResult]:
    """Return the function that says what a workload comes to on the bare machine."""
    results: dict[str, RunResult] = {}

    def ran(spec: str, **config: object) -> RunResult:
        key = f"{spec} {config}"
        if key not in results:
            config = {"guest": SMALL, **config}
            machine = Machine(MachineConfig(NativeBackend, NativeParams(), **config))
            for step in open_workload(spec, limit=20_000).steps():
                machine.step(step)
            results[key] = machine.result(COSTS)
            machine.close()
        return results[key]

    return ran


@pytest.mark.parametrize("spec", WORKLOADS)
def test_the_guest_cannot_tell(
    run: Run, bare: Callable[..., RunResult], variant: Variant, spec: str
) -> None:
    """If wrong, a workload's faults or page tables depend on what the machine is made of."""
    result = run(variant, open_workload(spec, limit=20_000))
    assert result.guest == bare(spec).guest
    for same in ("accesses", "guest_faults", "invlpg", "cr3_loads"):
        assert result.counters[same] == bare(spec).counters[same]


@pytest.mark.parametrize(
    "config",
    [
        {"mmu": MmuParams(update_on_write=False, large_pages=False, flood_threshold=1)},
        {"mmu": MmuParams(shadow_pages=8)},
        {"cpu": CpuParams(maxphyaddr=52)},
        {"cpu": CpuParams(nx=False, gbpages=False, amd_reserved=True)},
        {"guest": GuestParams(memory=32 << 20, set_accessed_dirty=False)},
    ],
    ids=["other-mmu", "few-pages", "no-reserved-bit", "no-nx", "no-accessed-dirty"],
)
def test_parameters_do_not_show(
    run: Run, bare: Callable[..., RunResult], hypervised: Variant, config: dict[str, object]
) -> None:
    """If wrong, a parameter of the hypervisor's changes what its guest sees."""
    cpu = {name: value for name, value in config.items() if name != "mmu"}
    for spec in ("fork-cow:pages=40,rounds=2", "mprotect:pages=40"):
        result = run(hypervised, open_workload(spec, limit=20_000), **config)
        assert result.guest == bare(spec, **cpu).guest


def test_what_a_result_says(run: Run, variant: Variant) -> None:
    """If wrong, a result is credited to another machine, or does not add up."""
    result = run(variant, open_workload("demand-zero:pages=50"))
    assert result.backend == variant.backend.name
    assert result.engine == DEFAULT.name
    assert result.params == attrs.asdict(variant.params)
    counted = result.counters
    assert counted["guest_faults"] == 50
    assert result.guest["faults"] == 51  # since boot, the warm-up's included
    assert counted["accesses"] >= 50
    assert result.cycles["model"] == "nehalem"
    assert result.cycles["guest_faults"] == 50 * COSTS.cycles("guest_faults")
    assert result.cycles["exits"] == counted["exits"]["total"] * COSTS.cycles("exits")
    assert (counted["exits"]["total"] > 0) is variant.hypervised
    assert sum(row["count"] for row in counted["fault_outcomes"]) >= 50


def test_the_same_input_gives_the_same_output(run: Run, variant: Variant) -> None:
    """If wrong, two runs of one thing cannot be compared."""
    workload = open_workload("random:pages=60", limit=5_000)
    assert run(variant, workload).to_json() == run(variant, workload).to_json()


def test_a_phase_starts_the_ledger_again(make: Callable[..., Machine], variant: Variant) -> None:
    """If wrong, what came before a measurement is in its numbers."""
    machine = make(variant)
    for step in open_workload("demand-zero:pages=50").steps():
        machine.step(step)
    assert machine.result(COSTS).counters["accesses"] > 0
    machine.step(StartMeasuring("again"))
    assert machine.vcpu.ledger == Ledger()
    counted = machine.result(COSTS).counters
    numbers = [value for value in counted.values() if isinstance(value, int)]
    assert set(numbers) == {0}
    assert counted["exits"] == {"total": 0, "by_reason": {}}
    assert counted["fault_outcomes"] == []


def test_a_closed_machine_has_no_memory(variant: Variant) -> None:
    """If wrong, comparing many machines keeps all their memory."""
    machine = Machine(MachineConfig(variant.backend, variant.params, guest=SMALL))
    machine.close()
    with pytest.raises(ValueError, match="released"):
        machine.vcpu.peek(0)


def test_guest_memory_is_not_where_the_guest_thinks(variant: Variant) -> None:
    """If wrong, a guest-physical address passes for a host-physical one, and nobody notices."""
    backend = variant.backend(variant.params, CpuFeatures(), frozenset())
    platform = build(backend, CpuFeatures(), MmuParams(), 16 << 20)
    assert platform.vcpu.slots.hpa(0x1000) == 0x1000 + (GUEST_BASE if variant.hypervised else 0)
    assert platform.vcpu.slots.hpa(16 << 20) is None
    assert platform.vcpu.guest_memory == 16 << 20
    assert (platform.shadow is not None) is variant.hypervised
    platform.memory.close()


def test_a_technique_that_the_cpu_cannot_do(make: Callable[..., Machine]) -> None:
    """If wrong, a filter that was asked for runs where it is unsound, or is dropped in silence."""
    backends = [b for b in plugins.load().backends.values() if b.caps.filters_page_faults]
    if not backends:
        pytest.skip("no installed backend filters page faults")
    for backend in backends:
        variant = attrs.make_class("Chosen", ["backend", "params"])(backend, _compared(backend))
        config = {"cpu": CpuParams(maxphyaddr=52), "explicit": frozenset(backend.compare_params)}
        with pytest.raises(BackendUnavailableError, match="MAXPHYADDR 52"):
            make(variant, **config)


def _compared(backend: type[Backend[Any]]) -> object:
    """Return parameters with all on that comparisons show."""
    return backend.params(**dict.fromkeys(backend.compare_params, True))


# The CPU model.


def test_a_cpu_without_nx_has_nothing_that_needs_it() -> None:
    """If wrong, a CPU is modelled that nobody built, and whose faults nobody could tell apart."""
    with_nx = CpuParams().features
    assert (with_nx.nx, with_nx.smep, with_nx.smap, with_nx.pku) == (True,) * 4
    assert (with_nx.maxphyaddr, with_nx.gbpages, with_nx.mbz_bit8) == (46, True, False)
    without = CpuParams(maxphyaddr=40, nx=False, gbpages=False, amd_reserved=True).features
    assert (without.nx, without.smep, without.smap, without.pku) == (False,) * 4
    assert (without.maxphyaddr, without.gbpages, without.mbz_bit8) == (40, False, True)


@pytest.mark.parametrize("maxphyaddr", [35, 53])
def test_the_cpus_bounds(maxphyaddr: int) -> None:
    """If wrong, a CPU is modelled whose entries have no room for its addresses."""
    with pytest.raises(ConfigError, match="maxphyaddr"):
        CpuParams(maxphyaddr=maxphyaddr)


# The native backend.


def test_native_has_nothing_to_exit_to() -> None:
    """If wrong, the bare machine pretends to be virtualized instead of saying that it is not."""
    native = NativeBackend(NativeParams(), CpuFeatures(), frozenset())
    core = HwThread(CpuFeatures())
    assert native.caps.paging is Paging.BARE
    assert native.create_vcpu(0) is None
    assert native.exit_filter(None) == EXIT_NEVER
    assert native.intercepts(None) is Intercept.NONE
    assert not native.nonpresent().distinguishable
    for refused in (
        lambda: native.root(None),
        lambda: native.load_root(None, 0x1000),
        lambda: native.record_exit(None, core, PageFault(0, 0)),
        lambda: native.enter(None, core),
        lambda: native.exit_reason(None),
        lambda: native.decode_exit(None, core),
        lambda: native.inject_page_fault(None, core, 0, 0),
        lambda: native.flush_tlb(None, Scope.ALL, 0),
    ):
        with pytest.raises(InvariantError, match="native machine"):
            refused()
