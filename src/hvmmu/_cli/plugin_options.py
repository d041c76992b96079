"""The plugins that `-P`, `--strict` and the environment select, loaded once a command."""

import os
import sys
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any

import click

from hvmmu._cli import log_format
from hvmmu._cli.command_table import MODULES
from hvmmu._plugins import Registry, load
from hvmmu.errors import ConfigError
from hvmmu.log import get_logger
from hvmmu.params import Param, parse, printable

_NO = "no:"
_AUTOLOAD_OFF = "HVMMU_DISABLE_PLUGIN_AUTOLOAD"
_NAMES = "HVMMU_PLUGINS"
_SLOW = 1.0  # seconds; a longer import is reported


def load_registry(ctx: click.Context) -> Registry:
    """Configure the log and load the plugins that the command line and the environment select.

    Raise ConfigError for a name that stands for nothing, and with --strict for every unusable
    plugin.
    """
    typed: dict[str, Any] = ctx.ensure_object(dict)
    log_format.configure(verbose=typed.get("verbose", False))
    if "registry" not in typed:
        selection = plugin_selection(typed.get("plugins", ()), os.environ)
        with _stdout_to_stderr():
            typed["registry"] = load(**selection, commands=frozenset(MODULES))
    registry: Registry = typed["registry"]
    if typed.get("strict") and registry.unusable:
        raise ConfigError([f"{plugin} (--strict)" for plugin in registry.unusable])
    return registry


def plugin_selection(arguments: Sequence[str], environ: Mapping[str, str]) -> dict[str, Any]:
    """Return the arguments of `load` for -P and the environment.

    Raise ConfigError with every argument that makes no sense.
    """
    block = [text.removeprefix(_NO) for text in arguments if text.startswith(_NO)]
    extra = [text for text in arguments if not text.startswith(_NO)]
    problems = [
        f"-P {printable(text)}: write -P NAME or -P no:NAME"
        for text in arguments
        if text in ("", _NO)
    ]
    both = sorted({name for name in extra if name and name in block})
    problems += [f"-P {printable(name)}: contradicts -P no:{printable(name)}" for name in both]
    named = [name.strip() for name in environ.get(_NAMES, "").split(",")]
    problems += [
        f"{_NAMES}: {printable(name)}: it only adds; write -P {printable(name)}"
        for name in named
        if name.startswith(_NO)
    ]
    off = False
    if _AUTOLOAD_OFF in environ:
        switch = Param(_AUTOLOAD_OFF, bool, default=False)
        try:
            off = bool(
                parse(switch, environ[_AUTOLOAD_OFF], key=_AUTOLOAD_OFF, source="environment")
            )
        except ConfigError as error:
            problems += error.problems
    if problems:
        raise ConfigError(problems)
    return {"block": block, "extra": [*extra, *filter(None, named)], "autoload": not off}


def warn_unusable(registry: Registry) -> None:
    """Log the plugins that are broken, duplicate or incompatible."""
    for plugin in registry.unusable:
        get_logger().warning(
            "plugin_not_loaded", plugin=plugin.name, state=plugin.state.value, cause=plugin.cause
        )


def report_imports(registry: Registry) -> None:
    """Log the plugins whose import was slow or printed something."""
    for plugin in registry.plugins:
        if plugin.seconds > _SLOW:
            seconds = f"{plugin.seconds:.1f}"
            get_logger().warning("plugin_import_was_slow", plugin=plugin.name, seconds=seconds)
        if plugin.printed:
            get_logger().debug("plugin_printed", plugin=plugin.name, text=plugin.printed)


@contextmanager
def _stdout_to_stderr() -> Iterator[None]:
    """Redirect file descriptor 1 to 2: a plugin's child or C library may write to it."""
    try:
        saved = None if sys.stdout is None else os.dup(1)
    except OSError:  # closed by the shell: there is nothing to spoil
        saved = None
    if saved is None:
        yield
        return
    try:
        os.dup2(2, 1)
        yield
    finally:
        os.dup2(saved, 1)
        os.close(saved)
