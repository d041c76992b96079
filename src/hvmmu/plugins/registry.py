"""What came of loading plugins: each with its state, and what the usable ones offer."""

import enum
from collections.abc import Mapping
from typing import Any

import attrs

from hvmmu.backend import Backend
from hvmmu.hooks import RunHooks

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


@attrs.frozen
class Problem:
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
    """What it takes part in: `backend NAME` for each it adds, then its hooks by name."""
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


@attrs.frozen
class Registry:
    """The backends there are, by name, the hooks of a run, and every plugin that was found."""

    backends: Mapping[str, type[Backend[Any]]]
    plugins: tuple[Plugin, ...]
    _origins: Mapping[str, str] = attrs.field(alias="origins")
    hooks: RunHooks = attrs.field(factory=RunHooks, eq=False)
    """What the plugins that are OK listen to, for `MachineConfig.hooks`."""

    def origin(self, name: str) -> str:
        """Return the distribution that a backend came from."""
        return self._origins[name]

    @property
    def unusable(self) -> tuple[Plugin, ...]:
        """Return the plugins that are broken, duplicate or incompatible."""
        return tuple(plugin for plugin in self.plugins if plugin.state in UNUSABLE)

    @property
    def problems(self) -> tuple[Problem, ...]:
        """Return the same, each with only its cause."""
        return tuple(Problem(p.name, p.distribution, p.cause) for p in self.unusable)
