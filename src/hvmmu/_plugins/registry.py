"""The registry: every plugin with its state, and everything that can be chosen."""

import enum
from collections.abc import Mapping
from types import MappingProxyType
from typing import TYPE_CHECKING, Any, NamedTuple

from hvmmu._config import ConfigSchema
from hvmmu._cpu_params import CpuParams
from hvmmu._guest.policy import GuestParams
from hvmmu._hooks import RunHooks
from hvmmu._mmu_params import MmuParams
from hvmmu.backend import Backend
from hvmmu.costs import CostModel
from hvmmu.engine import Engine
from hvmmu.mmu import Mmu
from hvmmu.workloads import TraceFormat, Workload, WorkloadKind, open_workload

if TYPE_CHECKING:
    import click

BASELINE = "native"
"""The backend that others are compared with, and that comes first."""

CORE: Mapping[str, type] = {"mmu": MmuParams, "cpu": CpuParams, "guest": GuestParams}
"""The core's sections of the configuration."""

BUILT_IN = "built in"


class State(enum.Enum):
    """The state of a plugin; only an OK one takes part in anything."""

    OK = "ok"
    BROKEN = "broken"
    """It raised, or broke a rule, while it was loaded."""
    BLOCKED = "blocked"
    """The user left it out; it was not imported."""
    DUPLICATE = "duplicate"
    """It shares a name with another one; neither is used, for either might be meant."""
    INCOMPATIBLE = "incompatible"
    """It was written for another version of the interface."""


UNUSABLE = frozenset({State.BROKEN, State.DUPLICATE, State.INCOMPATIBLE})
"""The states that `--strict` fails on."""


class Problem(NamedTuple):
    """A plugin that could not be loaded."""

    plugin: str
    distribution: str
    cause: str
    """One line."""


class Plugin(NamedTuple):
    """A plugin that was found, and its state."""

    name: str
    """Its entry point's name; for a module that was named, the module's."""
    distribution: str
    version: str
    """Its distribution's, empty if unknown."""
    state: State = State.OK
    cause: str = ""
    """Why it is not OK, in one line."""
    registered: tuple[str, ...] = ()
    """Its part in hvmmu: `backend NAME` and the like for each contribution, then hooks of a run."""
    printed: str = ""
    """Its output while it was loaded, in one line."""
    seconds: float = 0.0
    """How long its import took, with all that it imports."""

    @property
    def origin(self) -> str:
        """Return its distribution with the version."""
        return f"{self.distribution} {self.version}".rstrip()

    def __str__(self) -> str:
        """Return one line for a message: the plugin, and what is wrong with it."""
        because = f": {self.cause}" if self.cause else ""
        return f"plugin {self.name} (from {self.origin}) is {self.state.value}{because}"


class Contribution(NamedTuple):
    """An object that can be chosen, and its plugin; None if it is built in."""

    value: Any
    plugin: Plugin | None = None


Contributions = Mapping[str, Mapping[str, Contribution]]
"""Everything that can be chosen, by kind and name: the built-in first, then in order of names."""


class Registry(NamedTuple):
    """Everything that can be chosen, the hooks of a run, and every plugin that was found."""

    contributions: Contributions
    plugins: tuple[Plugin, ...]
    hooks: RunHooks
    """The hooks that the OK plugins implement, for `MachineConfig.hooks`."""

    def _values(self, kind: str) -> Mapping[str, Any]:
        values = {name: one.value for name, one in self.contributions[kind].items()}
        return MappingProxyType(values)

    @property
    def backends(self) -> Mapping[str, type[Backend[Any]]]:
        """Return the backends by name, `native` among them."""
        return MappingProxyType(dict(sorted(self._values("backend").items())))

    @property
    def engines(self) -> Mapping[str, type[Engine]]:
        """Return the engines by name, the built-in first."""
        return self._values("engine")

    @property
    def mmus(self) -> Mapping[str, type[Mmu]]:
        """Return the MMUs by name, the built-in one first."""
        return self._values("MMU")

    @property
    def workloads(self) -> Mapping[str, WorkloadKind]:
        """Return the named workloads."""
        return self._values("workload")

    @property
    def trace_formats(self) -> Mapping[str, TraceFormat]:
        """Return the trace formats by name."""
        return self._values("trace format")

    def workload(self, spec: str | None, limit: int | None) -> Workload:
        """Return the workload that *spec* names, as `open_workload` does; raise InputError."""
        kinds, formats = self.workloads, self.trace_formats
        return open_workload(spec, limit=limit, kinds=kinds, formats=formats)

    @property
    def cost_models(self) -> Mapping[str, CostModel]:
        """Return the cost models by name, the default first."""
        return self._values("cost model")

    @property
    def commands(self) -> "Mapping[str, click.Command]":
        """Return the plugins' commands by name."""
        return self._values("command")

    @property
    def parameters(self) -> Mapping[str, type]:
        """Return the attrs classes of the plugins' own sections of the configuration."""
        return self._values("parameters")

    def plugin(self, kind: str, name: str) -> Plugin | None:
        """Return the plugin that contributes this name; None if it is built in."""
        return self.contributions[kind][name].plugin

    def origin(self, name: str, kind: str = "backend") -> str:
        """Return the distribution of a backend, or of a contribution of another kind."""
        plugin = self.plugin(kind, name)
        return BUILT_IN if plugin is None else plugin.distribution

    def config_schema(self) -> ConfigSchema:
        """Return what can be configured with these plugins: the baseline first, then by name."""
        names = sorted(self.backends, key=lambda name: (name != BASELINE, name))
        backends: dict[str, Any] = {name: self.backends[name] for name in names}
        engines, models = tuple(self.engines), tuple(self.cost_models)
        choices = {"mmu.type": tuple(self.mmus)}
        return ConfigSchema(CORE, backends, engines, models, self.parameters, choices)

    @property
    def unusable(self) -> tuple[Plugin, ...]:
        """Return the plugins that are broken, duplicate or incompatible."""
        return tuple(plugin for plugin in self.plugins if plugin.state in UNUSABLE)

    @property
    def problems(self) -> tuple[Problem, ...]:
        """Return the same, each with only its cause."""
        return tuple(Problem(p.name, p.distribution, p.cause) for p in self.unusable)
