"""The context of a check: the backend or MMU, and machines, CPU models and randomness for it."""

from __future__ import annotations

import random
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any, TypeVar

import attrs

from hvmmu._engines import DEFAULT
from hvmmu._guest.policy import GuestParams
from hvmmu._hooks import RunHooks
from hvmmu._mmu_params import MmuParams
from hvmmu._mmus import DEFAULT as DEFAULT_MMU
from hvmmu._mmus import MMUS
from hvmmu.arch import pfec as pf
from hvmmu.arch.regs import CpuFeatures
from hvmmu.errors import BackendUnavailableError
from hvmmu.generic import NoParams
from hvmmu.machine import MachineConfig, Platform, build
from hvmmu.testing.guest_program import RAM
from hvmmu.testing.settings import MOST, Setting, settings

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from importlib.metadata import Distribution

    from hvmmu._plugins import Plugin
    from hvmmu.backend import Backend
    from hvmmu.engine import Engine
    from hvmmu.mmu import Mmu

T = TypeVar("T")

EXAMPLES = 30
"""The number of random programs at level 5; it scales everything else that is random."""


@attrs.frozen
class Variant:
    """A setting for the test of an MMU: of the backend that it works for, and its own."""

    backend: Setting
    own: Setting


@attrs.frozen(eq=False)
class Context:
    """One backend under test, or one MMU and a backend that it works for."""

    backend: type[Backend[Any]]
    hooks: RunHooks = attrs.field(factory=RunHooks)
    """The hooks of the plugin under test only."""
    plugin: Plugin | None = None
    module: str = ""
    """The plugin's module, if known."""
    distribution: Distribution | None = None
    examples: int = EXAMPLES
    seed: int = 0
    engine: type[Engine] = DEFAULT
    """The hardware: the engine that users run unless they choose another."""
    mmu: type[Mmu] | None = None
    """The MMU under test; None for the test of a backend."""
    _made: dict[object, Any] = attrs.field(factory=dict)

    @property
    def name(self) -> str:
        """Return the name of the backend or MMU under test, of whatever type it is."""
        tested = self.mmu or self.backend
        return str(getattr(tested, "name", tested.__name__))

    @property
    def section(self) -> str:
        """Return the section of the configuration with the parameters under test."""
        return "mmu" if self.mmu in MMUS else self.name

    @property
    def params(self) -> type:
        """Return the attrs class of the parameters under test."""
        if self.mmu is None:
            return self.backend.params
        own = NoParams() if self.section == "mmu" else self.hooks.settings.get(self.section)
        return MmuParams if self.section == "mmu" else type(own or NoParams())

    def random(self, purpose: str) -> random.Random:
        """Return random numbers for a purpose: the same for the same seed, on every Python."""
        return random.Random(f"{self.seed} {purpose}")  # noqa: S311 - not for secrets

    def once(self, key: object, make: Callable[[], T]) -> T:
        """Return the first result of *make* for this key: several checks may share one run."""
        if key not in self._made:
            self._made[key] = make()
        made: T = self._made[key]
        return made

    # The CPU features that guests may use under this backend.

    @property
    def privileged(self) -> bool:
        """Return whether the guest's kernel runs in supervisor mode, as on a bare machine."""
        return not self.backend.caps.deprivileged

    @property
    def kinds(self) -> tuple[int, ...]:
        """Return the access types that hardware sees: user accesses only, if deprivileged."""
        users = (pf.U,) if not self.privileged else (0, pf.U)
        return tuple(user | how for user in users for how in (pf.READ, pf.WRITE, pf.FETCH))

    def cpu(self, maxphyaddr: int = 46, **features: bool) -> CpuFeatures:
        """Return a CPU model with the features that the backend's guests may use."""
        guarded = self.privileged and features.get("nx", True)
        usable = {"smep": guarded, "smap": guarded, "pku": guarded}
        return CpuFeatures(maxphyaddr=maxphyaddr, **(usable | features))

    def cpus(self) -> list[CpuFeatures]:
        """Return all CPU models: every width of an address, with NX and without."""
        return [self.cpu(width, nx=nx) for width in range(36, 53) for nx in (True, False)]

    def settings(self) -> list[Setting]:
        """Return settings of the parameters to test: defaults first, boundedly many."""
        return self.once("settings", self._settings)

    def _settings(self) -> list[Setting]:
        backends = settings(self.backend.params)
        if self.mmu is None:
            return backends
        pairs = [Variant(one, own) for own in settings(self.params) for one in backends]
        return pairs[:MOST]

    def compared(self) -> list[Setting]:
        """Return the settings that comparisons run, for checks too slow for all settings."""
        over = self.backend.compare_params
        chosen = self.settings()
        default = chosen[0]
        return [s for s in chosen if _differing(default, s) <= set(over)]

    # Machines.

    def made(
        self,
        setting: Setting,
        cpu: CpuFeatures | None = None,
        explicit: frozenset[str] = frozenset(),
    ) -> Backend[Any]:
        """Return the backend with a setting; raise BackendUnavailableError as it does."""
        chosen = setting.backend if isinstance(setting, Variant) else setting
        return self.backend(chosen, cpu or self.cpu(), explicit)

    def instances(self, cpu: CpuFeatures | None = None) -> Iterator[Backend[Any]]:
        """Yield the backend with each setting that this CPU model supports."""
        for setting in self.settings():
            try:
                made = self.made(setting, cpu)
            except BackendUnavailableError:
                continue
            yield made

    @contextmanager
    def machine(
        self,
        setting: Setting,
        cpu: CpuFeatures | None = None,
        mmu: MmuParams | None = None,
        ram: int = RAM,
        *,
        simulate: bool = True,
    ) -> Iterator[Platform]:
        """Yield a machine without a guest, and release its memory.

        Its exits and entries go through the backend's two halves if *simulate* says so, else by the
        switch profile.
        """
        cpu = cpu or self.cpu()
        made, config = self.made(setting, cpu), self.config(setting)
        platform = build(
            made,
            cpu,
            mmu or config.mmu,
            ram,
            self.hooks,
            engine=self.engine,
            mmu=config.mmu_type,
            settings=config.settings,
            simulate=simulate,
        )
        try:
            yield platform
        finally:
            platform.memory.close()

    def config(self, setting: Setting, guest: GuestParams | None = None) -> MachineConfig:
        """Return the machine with a setting."""
        own: Setting = setting.own if isinstance(setting, Variant) else None
        return MachineConfig(
            backend=self.backend,
            backend_params=setting.backend if isinstance(setting, Variant) else setting,
            mmu=own if isinstance(own, MmuParams) else MmuParams(),
            guest=guest or GuestParams(),
            hooks=self.hooks,
            engine=self.engine,
            mmu_type=self.mmu or DEFAULT_MMU,
            settings={} if own is None else {self.section: own},
        )


def _differing(one: Setting, other: Setting) -> set[str]:
    mine, theirs = attrs.asdict(one), attrs.asdict(other)
    return {name for name, value in mine.items() if value != theirs[name]}
