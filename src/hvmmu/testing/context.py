"""The context of a check: the backend, and machines, CPU models and randomness to test it with."""

from __future__ import annotations

import random
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any, TypeVar

import attrs

from hvmmu._engines import DEFAULT
from hvmmu._hooks import RunHooks
from hvmmu._mmu_params import MmuParams
from hvmmu.arch import pfec as pf
from hvmmu.arch.regs import CpuFeatures
from hvmmu.errors import BackendUnavailableError
from hvmmu.machine import Platform, build
from hvmmu.testing.guest_program import RAM
from hvmmu.testing.settings import Setting, settings

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from importlib.metadata import Distribution

    from hvmmu._plugins import Plugin
    from hvmmu.backend import Backend
    from hvmmu.engine import Engine

T = TypeVar("T")

EXAMPLES = 30
"""The number of random programs at level 5; it scales everything else that is random."""


@attrs.frozen(eq=False)
class Context:
    """One backend under test."""

    backend: type[Backend[Any]]
    hooks: RunHooks = attrs.field(factory=RunHooks)
    """The hooks of the backend's own plugin only."""
    plugin: Plugin | None = None
    module: str = ""
    """The plugin's module, if known."""
    distribution: Distribution | None = None
    examples: int = EXAMPLES
    seed: int = 0
    engine: type[Engine] = DEFAULT
    """The hardware: the engine that users run unless they choose another."""
    _made: dict[object, Any] = attrs.field(factory=dict)

    @property
    def name(self) -> str:
        """Return the backend's name, of whatever type it is."""
        return str(getattr(self.backend, "name", self.backend.__name__))

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
        """Return settings of the backend's parameters to test: defaults first, boundedly many."""
        return self.once("settings", lambda: settings(self.backend.params))

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
        return self.backend(setting, cpu or self.cpu(), explicit)

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
        made = self.made(setting, cpu)
        platform = build(
            made,
            cpu,
            mmu or MmuParams(),
            ram,
            self.hooks,
            engine=self.engine,
            simulate=simulate,
        )
        try:
            yield platform
        finally:
            platform.memory.close()


def _differing(one: Setting, other: Setting) -> set[str]:
    mine, theirs = attrs.asdict(one), attrs.asdict(other)
    return {name for name, value in mine.items() if value != theirs[name]}
