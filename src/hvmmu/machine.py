"""Configuration in, machine out: memory, engine, MMU, vCPU and guest put together."""

from collections import ChainMap
from collections.abc import Mapping
from types import MappingProxyType
from typing import TYPE_CHECKING, Any, NamedTuple

import attrs

from hvmmu._bare_mmu import BareMmu
from hvmmu._core.shadow_mmu import ShadowMmu, ShadowVm
from hvmmu._cpu_params import CpuParams
from hvmmu._engines import DEFAULT
from hvmmu._guest.os import GuestOs
from hvmmu._guest.policy import GuestParams
from hvmmu._hooks import RunHooks, told
from hvmmu._mmu_params import MmuParams
from hvmmu.arch.regs import CpuFeatures
from hvmmu.backend import Backend, Paging
from hvmmu.costs import CostModel, estimate
from hvmmu.engine import Engine, HwThread, TlbCounts
from hvmmu.errors import HvmmuError, PluginError
from hvmmu.memory import Memory, Memslot, Memslots
from hvmmu.params import values
from hvmmu.results import RunResult, counters
from hvmmu.steps import StartMeasuring, Step
from hvmmu.types import PAGE_SHIFT
from hvmmu.vcpu import Vcpu

if TYPE_CHECKING:
    from hvmmu.mmu import Mmu

GUEST_BASE = 1 << 30
"""Where guest RAM begins in host memory under a hypervisor: never where the guest thinks it is."""


@attrs.frozen(eq=False)
class MachineConfig:
    """Everything that makes one machine."""

    backend: type[Backend[Any]]
    backend_params: Any
    mmu: MmuParams = attrs.field(factory=MmuParams)
    cpu: CpuParams = attrs.field(factory=CpuParams)
    guest: GuestParams = attrs.field(factory=GuestParams)
    explicit: frozenset[str] = frozenset()
    """Names of the backend's parameters that somebody set."""
    hooks: RunHooks = attrs.field(factory=RunHooks, eq=False)
    """What the plugins listen to."""
    engine: type[Engine] = DEFAULT
    """What plays the hardware."""
    simulate: bool = False
    """Every exit and entry goes through the control structure, one by one."""
    settings: Mapping[str, Any] = attrs.field(factory=dict)
    """The plugins' own sections of the configuration; one that is missing has its defaults."""


class Platform(NamedTuple):
    """The machine without a guest on it."""

    memory: Memory
    engine: Engine
    backend: Backend[Any]
    vcpu: Vcpu
    shadow: ShadowMmu | None
    """The shadow MMU, None on a bare machine."""


def build(
    backend: Backend[Any],
    cpu: CpuFeatures,
    params: MmuParams,
    ram: int,
    hooks: RunHooks | None = None,
    *,
    engine: type[Engine] = DEFAULT,
    settings: Mapping[str, Any] | None = None,
    simulate: bool = False,
) -> Platform:
    """Put a machine of *ram* bytes of guest RAM together around a backend.

    *simulate* has each exit and entry go through the control structure. *settings* are the sections
    of the configuration that plugins are given besides their own sections and `mmu`. Raise
    EngineUnavailableError if the engine cannot work here.
    """
    hooks = hooks or RunHooks()
    bare = backend.caps.paging is Paging.BARE
    memory = Memory(ram if bare else GUEST_BASE + ram)
    try:
        platform = _assembled(
            backend, cpu, params, _made(engine, memory), memory, hooks=hooks, simulate=simulate
        )
        vcpu = platform.vcpu
        if hooks.memslot_changed is not None:
            hooks.memslot_changed(vcpu=vcpu, slots=vcpu.slots)
        if hooks.vm_created is not None:
            told = {"mmu": params, **hooks.settings, **(settings or {})}
            hooks.vm_created(vcpu=vcpu, settings=MappingProxyType(told))
    except BaseException:
        memory.close()
        raise
    return platform


def _made(engine: type[Engine], memory: Memory) -> Engine:
    """Return an engine over *memory*; a failure that explains nothing is its plugin's."""
    try:
        return engine(memory)
    except HvmmuError:
        raise
    except Exception as error:
        raise PluginError(f"engine {engine.name!r} cannot be made: {told(error)}") from error


def _assembled(
    backend: Backend[Any],
    cpu: CpuFeatures,
    params: MmuParams,
    engine: Engine,
    memory: Memory,
    *,
    hooks: RunHooks,
    simulate: bool,
) -> Platform:
    bare = backend.caps.paging is Paging.BARE
    base = 0 if bare else GUEST_BASE
    slots = Memslots(memory, (Memslot(0, memory.size - base, base),))
    core = HwThread(cpu)
    shadow = None
    if not bare:
        vm = ShadowVm(
            slots,
            backend.nonpresent(),
            params,
            end_frame=GUEST_BASE >> PAGE_SHIFT,
            deprivileged=backend.caps.deprivileged,
            write=None if engine.caps.fast_lane else engine.write_pte,
        )
        shadow = ShadowMmu(vm, cpu)
    mmu: Mmu = BareMmu() if shadow is None else shadow
    vcpu = Vcpu(
        core=core,
        engine=engine,
        backend=backend,
        mmu=mmu,
        memory=memory,
        slots=slots,
        hooks=hooks,
        simulate=simulate,
    )
    return Platform(memory, engine, backend, vcpu, shadow)


class Machine:
    """A machine with a guest OS on it, ready for the steps of a workload.

    Raise BackendUnavailableError if the CPU model cannot do what the backend was asked for, and
    EngineUnavailableError if the engine cannot work here.
    """

    def __init__(self, config: MachineConfig) -> None:
        cpu = config.cpu.features
        backend = config.backend(config.backend_params, cpu, config.explicit)
        self._hooks = config.hooks
        core = {"mmu": config.mmu, "cpu": config.cpu, "guest": config.guest}
        self._platform = build(
            backend,
            cpu,
            config.mmu,
            config.guest.memory,
            config.hooks,
            engine=config.engine,
            settings={**config.settings, **core},
            simulate=config.simulate,
        )
        self.vcpu = self._platform.vcpu
        try:
            self.guest = GuestOs(self.vcpu, config.guest)
        except BaseException:
            self.close()
            raise
        self._since = self._hardware()

    @property
    def params(self) -> dict[str, bool | int | str]:
        """Return the backend's parameters as they are in force."""
        return values(self._platform.backend.effective)

    def step(self, step: Step) -> None:
        """Have the guest perform one step; a phase starts the ledger again."""
        self.guest.step(step)
        if isinstance(step, StartMeasuring):
            self.vcpu.ledger.clear()
            self._since = self._hardware()

    def _hardware(self) -> tuple[TlbCounts, int, int, int]:
        shadow = self._platform.shadow
        zapped = 0 if shadow is None else shadow.pages.zapped
        kept = 0 if shadow is None else len(shadow.pages)
        walk_refs = self.vcpu.core.walk_refs
        return self._platform.engine.counts(), walk_refs, kept + zapped, zapped

    def result(self, costs: CostModel) -> RunResult:
        """Return what the run came to so far, since the last phase began."""
        (tlb, refs, built, zapped), (tlb0, refs0, built0, zapped0) = self._hardware(), self._since
        since = TlbCounts(
            tlb.instruction_misses - tlb0.instruction_misses,
            tlb.data_misses - tlb0.data_misses,
            tlb.misses - tlb0.misses,
        )
        counted = counters(
            self.vcpu.ledger,
            since,
            walk_refs=refs - refs0,
            shadow_pages=built - built0,
            shadow_zapped=zapped - zapped0,
        )
        result = RunResult(
            backend=self._platform.backend.name,
            params=self.params,
            engine=self._platform.engine.name,
            counters=counted,
            cycles={"model": costs.name, **estimate(costs, counted)},
            guest={
                "faults": self.guest.faults,
                "fault_log_sha256": self.guest.fault_log_sha256,
                "page_tables_sha256": self.guest.page_tables_sha256(),
            },
        )
        if self._hooks.report is None:
            return result
        added = self._hooks.report(vcpu=self.vcpu, result=result)
        counted = {**result.counters, **ChainMap(*added)}
        return attrs.evolve(
            result,
            counters=counted,
            cycles={"model": costs.name, **estimate(costs, counted)},  # some price what was added
        )

    def close(self) -> None:
        """Give the machine's memory back."""
        self._platform.memory.close()
