"""Find the backend or MMU to test, from a name, a class or a plugin, and what belongs to it."""

from __future__ import annotations

from importlib import import_module
from importlib.metadata import Distribution, PackageNotFoundError, distribution, entry_points
from typing import TYPE_CHECKING, Any

import attrs
import pluggy

from hvmmu import hookspecs
from hvmmu._hooks import RunHooks
from hvmmu._plugins import BUILT_IN, GROUP, Plugin, Registry, load
from hvmmu._plugins.contributions import BUILT_INS, MMUS, PARAMETERS, check_contributions
from hvmmu.errors import InputError
from hvmmu.params import did_you_mean, quote
from hvmmu.testing.check import BACKEND, MMU

if TYPE_CHECKING:
    from hvmmu.backend import Backend
    from hvmmu.mmu import Mmu

UNPACKAGED = "a class, from no installed plugin"


@attrs.frozen(eq=False)
class Target:
    """The backend or MMU under test, and what belongs to it."""

    name: str
    kind: str
    """BACKEND or MMU."""
    made: Any
    """The class; None if its plugin could not be loaded."""
    hooks: RunHooks
    plugin: Plugin | None = None
    module: str = ""
    """The plugin's module; empty if there is no installed plugin."""
    distribution: Distribution | None = None

    @property
    def origin(self) -> str:
        """Return the origin of the backend or MMU."""
        if self.plugin is not None:
            return self.plugin.origin
        built_in = (*BUILT_INS.values(), *MMUS.values())
        return BUILT_IN if self.made in built_in else UNPACKAGED


def hooks_of(plugin: object) -> RunHooks:
    """Return the hooks that a plugin (a module, or any object with hooks) implements itself.

    Its own sections of the configuration have their defaults.
    """
    plugins = pluggy.PluginManager(hookspecs.PROJECT)
    plugins.add_hookspecs(hookspecs)
    plugins.register(plugin)
    given = plugins.hook.hvmmu_parameters()
    sections = check_contributions(PARAMETERS, given[0]) if given else {}
    return RunHooks(plugins, {name: params() for name, params in sections.items()})


def kind_of(name: str, registry: Registry) -> str:
    """Return MMU for the name of an MMU only, else BACKEND."""
    return MMU if name in registry.mmus and name not in registry.backends else BACKEND


def find_target(
    given: type[Backend[Any] | Mmu] | str,
    kind: str = BACKEND,
    *,
    plugin: object = None,
    hooks: RunHooks | None = None,
    registry: Registry | None = None,
) -> Target:
    """Return the target of a name or a class; raise InputError for an unknown name.

    *plugin* or *hooks* give the hooks that a backend relies on, and an MMU's section of the
    configuration; without them, and for one of an installed plugin, they are that plugin's own.
    """
    registry = registry or load()
    offered = registry.contributions[kind]
    if isinstance(given, str):
        made, name = offered[given].value if given in offered else None, given
    elif isinstance(given, type):
        made, name = given, str(getattr(given, "name", given.__name__))
    else:
        article = "an" if kind == MMU else "a"
        raise InputError(
            f"{article} {kind} is a class or a name, and this is a {type(given).__name__}"
        )
    facts = _facts(registry, kind, name, made)
    if made is None and facts is None:
        known = sorted({*registry.backends, *registry.mmus} if kind == BACKEND else offered)
        near = did_you_mean(name, known) or f"; there are {', '.join(known)}"
        raise InputError(f"no {kind} {quote(name)}{near}")
    if facts is None:
        return Target(name, kind, made, hooks or hooks_of(plugin or object()))
    module = _module(facts)
    if hooks is None:
        usable = made is not None
        hooks = hooks_of(plugin or (_loaded(facts) if usable else object()))
    return Target(name, kind, made, hooks, facts, module, _distribution(facts))


def _facts(registry: Registry, kind: str, name: str, made: object) -> Plugin | None:
    """Return the installed plugin of a backend or MMU, or the broken one of this name."""
    if made is None:
        return next((plugin for plugin in registry.unusable if plugin.name == name), None)
    offered = registry.contributions[kind]
    installed = name in offered and offered[name].value is made
    return registry.plugin(kind, name) if installed else None


def _points(facts: Plugin) -> list[Any]:
    return [point for point in entry_points(group=GROUP) if point.name == facts.name]


def _module(facts: Plugin) -> str:
    return next((point.module for point in _points(facts)), facts.name)


def _loaded(facts: Plugin) -> object:
    """Return the plugin itself, which has been imported before."""
    for point in _points(facts):
        return point.load()
    return import_module(facts.name)


def _distribution(facts: Plugin) -> Distribution | None:
    try:
        return distribution(facts.distribution)
    except (PackageNotFoundError, ValueError):
        return None
