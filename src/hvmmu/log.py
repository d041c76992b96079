"""The log: structlog, imported by the first message, because that takes longer than a small run.

A plugin may import structlog itself: it is configured as soon as all plugins are loaded.
"""

import sys
from collections.abc import Callable
from typing import Any

_waiting: list[Callable[[], None]] = []  # at most one


def get_logger() -> Any:  # noqa: ANN401 - structlog's lazy proxy has no other type
    """Return structlog's logger, configured."""
    import structlog  # noqa: PLC0415 - as said above

    configure_if_imported()
    return structlog.get_logger()


def configure_with(configure: Callable[[], None]) -> None:
    """Have *configure* called once structlog is imported; it replaces what was given before.

    For a command or a worker process, not for a plugin.
    """
    _waiting[:] = [configure]
    configure_if_imported()


def configure_if_imported() -> None:
    """Configure structlog if it is imported and not configured yet."""
    if "structlog" in sys.modules and _waiting:
        _waiting.pop()()
