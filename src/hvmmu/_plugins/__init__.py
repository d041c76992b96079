"""The plugins: found, imported one by one, and what each contributes."""

from hvmmu._plugins.discovery import GROUP
from hvmmu._plugins.loading import load
from hvmmu._plugins.registry import BUILT_IN, Plugin, Problem, Registry, State

__all__ = ["BUILT_IN", "GROUP", "Plugin", "Problem", "Registry", "State", "load"]
