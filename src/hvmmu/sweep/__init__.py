"""Sweeps: many small runs from one grid, each kept in a file named for what was run."""

from hvmmu.sweep.drive import Outcome, Step, run
from hvmmu.sweep.gather import collect

__all__ = ["Outcome", "Step", "collect", "run"]
