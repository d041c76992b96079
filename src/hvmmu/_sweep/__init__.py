"""Sweeps: many small runs from one grid, each kept in a file named for what was run."""

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from hvmmu._sweep.drive import Outcome, Step, run
    from hvmmu._sweep.gather import collect

__all__ = ["Outcome", "Step", "collect", "run"]


def __getattr__(name: str) -> Any:  # noqa: ANN401 - what the modules below define
    """Import what is asked for: workers must be on their way before a command imports the rest."""
    if name not in __all__:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(import_module(f"{__name__}.{'gather' if name == 'collect' else 'drive'}"), name)
