"""Every hook, in the order of a run."""

from collections.abc import Iterable
from typing import Any

import pluggy

from hvmmu.backend import Backend

PROJECT = "hvmmu"

hookspec = pluggy.HookspecMarker(PROJECT)
hookimpl = pluggy.HookimplMarker(PROJECT)
"""Marks a plugin's implementation of a hook below."""


@hookspec
def hvmmu_backends() -> Iterable[type[Backend[Any]]]:  # type: ignore[empty-body]
    """Return the backend classes that this plugin adds; called once, when plugins are loaded."""
