"""The registry: plugins loaded one by one, so that a broken one costs only itself."""

from collections.abc import Iterable, Mapping, Sequence
from importlib.metadata import EntryPoint, entry_points
from types import MappingProxyType
from typing import Any

import attrs
import pluggy

from hvmmu import hookspecs
from hvmmu.backend import API_VERSION, Backend
from hvmmu.native import NativeBackend

GROUP = "hvmmu"
"""The entry-point group that plugins are found through."""

BUILT_IN = "built in"


@attrs.frozen
class Problem:
    """A plugin that could not be loaded."""

    plugin: str
    distribution: str
    cause: str
    """One line."""


@attrs.frozen
class Registry:
    """The backends there are, by name, and the plugins that failed."""

    backends: Mapping[str, type[Backend[Any]]]
    problems: tuple[Problem, ...]
    _origins: Mapping[str, str] = attrs.field(alias="origins")

    def origin(self, name: str) -> str:
        """Return the distribution that a backend came from."""
        return self._origins[name]


def load(points: Iterable[EntryPoint] | None = None) -> Registry:
    """Load every plugin of the entry-point group, or *points* instead, in the order of names."""
    found = entry_points(group=GROUP) if points is None else points
    loader = _Loader()
    for point in sorted(found, key=lambda p: (p.name, p.value)):
        loader.load(point)
    backends = MappingProxyType(dict(sorted(loader.backends.items())))
    return Registry(backends, tuple(loader.problems), MappingProxyType(loader.origins))


class _Loader:
    """Collects backends and problems, plugin by plugin."""

    def __init__(self) -> None:
        self.backends: dict[str, type[Backend[Any]]] = {NativeBackend.name: NativeBackend}
        self.origins = {NativeBackend.name: BUILT_IN}
        self.problems: list[Problem] = []
        self._plugins = pluggy.PluginManager(hookspecs.PROJECT)
        self._plugins.add_hookspecs(hookspecs)

    def load(self, point: EntryPoint) -> None:
        """Load one plugin; whatever it raises, SystemExit included, becomes a problem."""
        distribution = point.dist.name if point.dist else "unknown distribution"
        try:
            plugin = point.load()
            self._plugins.register(plugin, name=point.name)
            self._plugins.check_pending()
            hook = self._plugins.subset_hook_caller(
                "hvmmu_backends",
                [p for p in self._plugins.get_plugins() if p is not plugin],
            )
            offered = [backend for backends in hook() for backend in backends]
            for nth, backend in enumerate(offered):
                self._check(backend, offered[:nth])
        except KeyboardInterrupt:
            raise
        except BaseException as error:  # noqa: BLE001 - a plugin may raise anything on import
            self._give_up(point, distribution, error)
            return
        for backend in offered:
            self.backends[backend.name] = backend
            self.origins[backend.name] = distribution

    def _check(self, backend: type[Backend[Any]], before: Sequence[type[Backend[Any]]]) -> None:
        if backend.api_version != API_VERSION:
            raise ValueError(
                f"backend {backend.name!r} is for interface {backend.api_version}, and this is"
                f" {API_VERSION}"
            )
        if backend.name in (other.name for other in before):
            raise ValueError(f"backend {backend.name!r} is offered twice")
        if backend.name in self.backends:
            raise ValueError(
                f"backend {backend.name!r} is there already, from {self.origins[backend.name]}"
            )

    def _give_up(self, point: EntryPoint, distribution: str, error: BaseException) -> None:
        self._plugins.unregister(name=point.name)
        text = " ".join(str(error).split())
        cause = f"{type(error).__name__}: {text}" if text else type(error).__name__
        self.problems.append(Problem(point.name, distribution, cause))
