"""Configuration in, machine out: memory, engine, MMU, vCPU and guest put together."""

from collections import ChainMap
from collections.abc import Mapping
from types import MappingProxyType
from typing import Any, NamedTuple

import attrs

from hvmmu import _mmus
from hvmmu._bare_mmu import BareMmu
from hvmmu._core.shadow_mmu import ShadowMmu
from hvmmu._cpu_params import CpuParams
from hvmmu._engines import DEFAULT
from hvmmu._guest.os import GuestOs
from hvmmu._guest.policy import GuestParams
from hvmmu._hooks import RunHooks, told
from hvmmu._mmu_params import MmuParams
from hvmmu.arch.regs import CpuFeatures
from hvmmu.backend import Backend, Paging
from hvmmu.costs import CostModel, estimate
from hvmmu.engine import Engine, EngineCaps, HwThread, TlbCounts, check_cpu
from hvmmu.errors import HvmmuError, PluginError
from hvmmu.memory import FramePool, Memory, Memslot, Memslots
from hvmmu.mmu import Mmu, MmuHost
from hvmmu.params import values
from hvmmu.results import RunResult, counters
from hvmmu.steps import StartMeasuring, Step
from hvmmu.types import PAGE_SHIFT
from hvmmu.vcpu import Vcpu

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
    mmu_type: type[Mmu] = _mmus.DEFAULT
    """The MMU that `mmu.type` names; a bare machine has none."""
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
    """The shadow MMU; None on a bare machine, and where the MMU is a plugin's."""


def build(
    backend: Backend[Any],
    cpu: CpuFeatures,
    params: MmuParams,
    ram: int,
    hooks: RunHooks | None = None,
    *,
    engine: type[Engine] = DEFAULT,
    mmu: type[Mmu] = _mmus.DEFAULT,
    settings: Mapping[str, Any] | None = None,
    simulate: bool = False,
) -> Platform:
    """Put a machine of *ram* bytes of guest RAM together around a backend.

    *simulate* has each exit and entry go through the control structure. *settings* are the sections
    of the configuration that plugins are given besides their own sections and `mmu`. Raise
    EngineUnavailableError if the engine cannot work here, BackendUnavailableError if the MMU cannot
    work with the backend.
    """
    hooks = hooks or RunHooks()
    bare = backend.caps.paging is Paging.BARE
    memory = Memory(ram if bare else GUEST_BASE + ram)
    sections = MappingProxyType({"mmu": params, **hooks.settings, **(settings or {})})
    try:
        made = _engine(engine, memory, cpu)
        platform = _assembled(
            backend, cpu, made, memory, mmu=mmu, settings=sections, hooks=hooks, simulate=simulate
        )
        vcpu = platform.vcpu
        if hooks.memslot_changed is not None:
            hooks.memslot_changed(vcpu=vcpu, slots=vcpu.slots)
        if hooks.vm_created is not None:
            hooks.vm_created(vcpu=vcpu, settings=sections)
    except BaseException:
        memory.close()
        raise
    return platform


def _engine(engine: type[Engine], memory: Memory, cpu: CpuFeatures) -> Engine:
    """Return an engine over *memory*."""
    made: Engine = _made("engine", engine, memory, cpu)
    if not isinstance(made.caps, EngineCaps) or not isinstance(made.thread, HwThread):
        raise PluginError(
            f"engine {engine.name!r} lacks an EngineCaps, caps, or a HwThread, thread"
        )
    if made.caps.lru_sets and not hasattr(made, "promote"):
        raise PluginError(
            f"engine {engine.name!r} has {made.caps.lru_sets} lru_sets and no promote"
        )
    check_cpu(made, cpu)
    return made


def _made(word: str, offered: Any, *base: object) -> Any:  # noqa: ANN401 - a plugin's class
    """Return an engine or an MMU; a failure that explains nothing is its plugin's."""
    try:
        return offered(*base)
    except HvmmuError:
        raise
    except Exception as error:
        raise PluginError(f"{word} {offered.name!r} cannot be made: {told(error)}") from error


def _assembled(
    backend: Backend[Any],
    cpu: CpuFeatures,
    engine: Engine,
    memory: Memory,
    *,
    mmu: type[Mmu],
    settings: Mapping[str, Any],
    hooks: RunHooks,
    simulate: bool,
) -> Platform:
    bare = backend.caps.paging is Paging.BARE
    base = 0 if bare else GUEST_BASE
    slots = Memslots(memory, (Memslot(0, memory.size - base, base),))
    host = MmuHost(
        slots=slots,
        frames=FramePool(memory, 1, GUEST_BASE >> PAGE_SHIFT),
        engine=engine,
        cpu=cpu,
        nonpresent=backend.nonpresent(),
        deprivileged=backend.caps.deprivileged,
        settings=settings,
    )
    made: Mmu = _made("MMU", BareMmu if bare else mmu, host)
    vcpu = Vcpu(
        engine=engine,
        backend=backend,
        mmu=made,
        memory=memory,
        slots=slots,
        hooks=hooks,
        simulate=simulate,
    )
    shadow = made if isinstance(made, ShadowMmu) else None
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
            mmu=config.mmu_type,
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

    @property
    def mmu(self) -> str:
        """Return the MMU's name; nothing for the built-in one, and on a bare machine."""
        mmu = self.vcpu.mmu
        return "" if isinstance(mmu, (BareMmu, *_mmus.MMUS)) else mmu.name

    def step(self, step: Step) -> None:
        """Have the guest perform one step; a phase starts the ledger again."""
        self.guest.step(step)
        if isinstance(step, StartMeasuring):
            self.vcpu.ledger.clear()
            self._since = self._hardware()

    def _hardware(self) -> tuple[TlbCounts, int, int, int]:
        mmu, walk_refs = self.vcpu.mmu, self.vcpu.core.walk_refs
        return self._platform.engine.counts(), walk_refs, mmu.built, mmu.zapped

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
            mmu=self.mmu,
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
