"""The registry: plugins loaded one by one, so that a broken one costs only itself."""

from hvmmu.plugins.loading import load
from hvmmu.plugins.point import GROUP
from hvmmu.plugins.registry import BUILT_IN, Plugin, Problem, Registry, State

__all__ = ["BUILT_IN", "GROUP", "Plugin", "Problem", "Registry", "State", "load"]
