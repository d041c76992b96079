"""Sweeps: many small runs from one grid, each kept in a file named for its inputs."""

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from hvmmu._sweep.runner import Progress, SweepResult, run
    from hvmmu._sweep.tabulate import collect

__all__ = ["Progress", "SweepResult", "collect", "run"]


def __getattr__(name: str) -> Any:  # noqa: ANN401 - whatever the modules below define
    """Import on demand: a command starts its workers before it imports the rest."""
    if name not in __all__:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    module = "tabulate" if name == "collect" else "runner"
    return getattr(import_module(f"{__name__}.{module}"), name)
