"""The log: structlog, set up when somebody imports it.

Importing it takes longer than a small run does, and most runs have nothing to say.
"""

import sys
from collections.abc import Callable, Sequence
from importlib.machinery import ModuleSpec
from types import ModuleType
from typing import Any

_NAME = "structlog"


def get_logger() -> Any:  # noqa: ANN401 - structlog's lazy proxy has no other type
    """Return structlog's logger, as it is set up."""
    import structlog  # noqa: PLC0415 - as said above

    return structlog.get_logger()


def set_up(configure: Callable[[], None]) -> None:
    """Have *configure* called when structlog is there: now, or as soon as anybody imports it.

    What is given last prevails. It is for who runs a command or a process, not for a plugin.
    """
    _watch.configure = configure
    if _NAME in sys.modules:
        configure()
    elif _watch not in sys.meta_path:
        sys.meta_path.insert(0, _watch)


class _Watch:
    """A finder that finds structlog where the others do, and configures it once it is loaded."""

    configure: Callable[[], None]

    def find_spec(
        self, name: str, path: Sequence[str] | None = None, target: ModuleType | None = None
    ) -> ModuleSpec | None:
        """Return the spec of structlog that another finder has; None for any other module."""
        if name != _NAME:
            return None
        others = (finder for finder in sys.meta_path if finder is not self)
        specs = (finder.find_spec(name, path, target) for finder in others)
        spec = next(filter(None, specs), None)
        if spec is not None:
            spec.loader = _Loader(spec.loader, self)  # type: ignore[assignment] # as good as one
        return spec


class _Loader:
    """A loader that leaves the module as its own loader makes it, but configured."""

    def __init__(self, loader: Any, watch: _Watch) -> None:  # noqa: ANN401 - any finder's
        self._loader, self._watch = loader, watch

    def create_module(self, spec: ModuleSpec) -> ModuleType | None:
        """Return what the module's own loader makes."""
        made: ModuleType | None = self._loader.create_module(spec)
        return made

    def exec_module(self, module: ModuleType) -> None:
        """Run the module, then configure it."""
        module.__loader__ = self._loader
        if module.__spec__ is not None:
            module.__spec__.loader = self._loader
        self._loader.exec_module(module)
        self._watch.configure()


_watch = _Watch()
