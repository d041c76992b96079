"""What came of loading plugins: each with its state, and what the usable ones offer."""

import enum
from collections.abc import Mapping
from types import MappingProxyType
from typing import TYPE_CHECKING, Any, NamedTuple

import attrs

from hvmmu._hooks import RunHooks
from hvmmu.backend import Backend
from hvmmu.costs import CostModel
from hvmmu.engine import Engine
from hvmmu.workloads import TraceFormat, Workload, WorkloadKind, open_workload

if TYPE_CHECKING:
    import click

BUILT_IN = "built in"


class State(enum.Enum):
    """What became of a plugin; only one that is OK takes part in anything."""

    OK = "ok"
    BROKEN = "broken"
    """It raised, or broke a rule, while it was loaded."""
    BLOCKED = "blocked"
    """Somebody wanted it left out; it was not imported."""
    DUPLICATE = "duplicate"
    """It shares a name with another one; neither is used, for either might be meant."""
    INCOMPATIBLE = "incompatible"
    """It was written for another version of the interface."""


UNUSABLE = frozenset({State.BROKEN, State.DUPLICATE, State.INCOMPATIBLE})
"""What nobody wanted: `--strict` fails on these."""


class Problem(NamedTuple):
    """A plugin that could not be loaded."""

    plugin: str
    distribution: str
    cause: str
    """One line."""


@attrs.frozen
class Plugin:
    """One plugin that was found, and what became of it."""

    name: str
    """Its entry point's name; for a module that was named, the module's."""
    distribution: str
    version: str
    """Its distribution's, empty if unknown."""
    state: State = State.OK
    cause: str = ""
    """Why it is not OK, in one line."""
    registered: tuple[str, ...] = ()
    """What it takes part in: `backend NAME` and the like for all it adds, then hooks of a run."""
    printed: str = ""
    """What it printed while it was loaded, in one line."""
    seconds: float = attrs.field(default=0.0, eq=False, repr=False)
    """How long its import took, with all that it imports; another number each time."""

    @property
    def origin(self) -> str:
        """Return its distribution with the version."""
        return f"{self.distribution} {self.version}".rstrip()

    def __str__(self) -> str:
        """Return one line for a message: who it is, and what is wrong with it."""
        because = f": {self.cause}" if self.cause else ""
        return f"plugin {self.name} (from {self.origin}) is {self.state.value}{because}"


class Offer(NamedTuple):
    """One thing there is, and who brought it; nobody if it is built in."""

    made: Any
    plugin: Plugin | None = None


Offers = Mapping[str, Mapping[str, Offer]]
"""What there is, by word for its kind and by name: the built-in first, then in order of names."""


@attrs.frozen(eq=False)
class Registry:
    """All there is to choose from, the hooks of a run, and every plugin that was found."""

    offers: Offers
    plugins: tuple[Plugin, ...]
    hooks: RunHooks = attrs.field(factory=RunHooks, eq=False)
    """What the plugins that are OK listen to, for `MachineConfig.hooks`."""

    def _made(self, word: str) -> Mapping[str, Any]:
        made = {name: offer.made for name, offer in self.offers[word].items()}
        return MappingProxyType(made)

    @property
    def backends(self) -> Mapping[str, type[Backend[Any]]]:
        """Return the backends by name, `native` among them."""
        return MappingProxyType(dict(sorted(self._made("backend").items())))

    @property
    def engines(self) -> Mapping[str, type[Engine]]:
        """Return the engines by name, the built-in first."""
        return self._made("engine")

    @property
    def workloads(self) -> Mapping[str, WorkloadKind]:
        """Return the named workloads."""
        return self._made("workload")

    @property
    def trace_formats(self) -> Mapping[str, TraceFormat]:
        """Return the trace formats by name."""
        return self._made("trace format")

    def workload(self, spec: str | None, limit: int | None) -> Workload:
        """Return the workload that *spec* names, as `open_workload` does; raise InputError."""
        kinds, formats = self.workloads, self.trace_formats
        return open_workload(spec, limit=limit, kinds=kinds, formats=formats)

    @property
    def cost_models(self) -> Mapping[str, CostModel]:
        """Return the cost models by name, the default first."""
        return self._made("cost model")

    @property
    def commands(self) -> "Mapping[str, click.Command]":
        """Return the plugins' commands by name."""
        return self._made("command")

    @property
    def parameters(self) -> Mapping[str, type]:
        """Return the attrs classes of the plugins' own sections of the configuration."""
        return self._made("parameters")

    def plugin(self, word: str, name: str) -> Plugin | None:
        """Return who brought what the registry lists under this word; None if it is built in."""
        return self.offers[word][name].plugin

    def origin(self, name: str, word: str = "backend") -> str:
        """Return the distribution that a backend, or whatever *word* says, came from."""
        plugin = self.plugin(word, name)
        return BUILT_IN if plugin is None else plugin.distribution

    @property
    def unusable(self) -> tuple[Plugin, ...]:
        """Return the plugins that are broken, duplicate or incompatible."""
        return tuple(plugin for plugin in self.plugins if plugin.state in UNUSABLE)

    @property
    def problems(self) -> tuple[Problem, ...]:
        """Return the same, each with only its cause."""
        return tuple(Problem(p.name, p.distribution, p.cause) for p in self.unusable)
