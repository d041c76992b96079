"""The registry: plugins loaded one by one, so that a broken one costs only itself."""

from hvmmu._plugins.loading import load
from hvmmu._plugins.point import GROUP
from hvmmu._plugins.registry import BUILT_IN, Plugin, Problem, Registry, State

__all__ = ["BUILT_IN", "GROUP", "Plugin", "Problem", "Registry", "State", "load"]
