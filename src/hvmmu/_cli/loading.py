"""From `-P`, `--strict` and the environment to loaded plugins, once a command."""

import os
import sys
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any

import click

from hvmmu._cli import logs
from hvmmu._cli.built_in import BUILT_IN
from hvmmu._plugins import Registry, load
from hvmmu.errors import ConfigError
from hvmmu.log import get_logger
from hvmmu.params import Param, parse, plain

_NO = "no:"
_AUTOLOAD_OFF = "HVMMU_DISABLE_PLUGIN_AUTOLOAD"
_NAMES = "HVMMU_PLUGINS"
_SLOW = 1.0  # seconds that an import may take without a word


def loaded(ctx: click.Context) -> Registry:
    """Start the log and load the plugins that the command line and the environment ask for.

    Raise ConfigError for a name that nothing has, and with --strict for every unusable plugin.
    """
    typed: dict[str, Any] = ctx.ensure_object(dict)
    logs.configure(verbose=typed.get("verbose", False))
    if "registry" not in typed:
        explicit = choice(typed.get("plugins", ()), os.environ)
        with _stdout_kept():
            typed["registry"] = load(**explicit, commands=BUILT_IN)
    registry: Registry = typed["registry"]
    if typed.get("strict") and registry.unusable:
        raise ConfigError([f"{plugin} (--strict)" for plugin in registry.unusable])
    return registry


def choice(arguments: Sequence[str], environ: Mapping[str, str]) -> dict[str, Any]:
    """Return the arguments of `load` that -P and the environment come to.

    Raise ConfigError with every argument that cannot be meant.
    """
    block = [text.removeprefix(_NO) for text in arguments if text.startswith(_NO)]
    extra = [text for text in arguments if not text.startswith(_NO)]
    problems = [
        f"-P {plain(text)}: write -P NAME or -P no:NAME" for text in arguments if text in ("", _NO)
    ]
    both = sorted({name for name in extra if name and name in block})
    problems += [f"-P {plain(name)}: -P no:{plain(name)} says otherwise" for name in both]
    named = [name.strip() for name in environ.get(_NAMES, "").split(",")]
    problems += [
        f"{_NAMES}: {plain(name)}: it only adds; write -P {plain(name)}"
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


def warn(registry: Registry) -> None:
    """Log the plugins that a run does without and nobody said it should."""
    for plugin in registry.unusable:
        get_logger().warning(
            "plugin_not_loaded", plugin=plugin.name, state=plugin.state.value, cause=plugin.cause
        )


def tell(registry: Registry) -> None:
    """Log what is worth a word about plugins that were imported: slowness, and what they print."""
    for plugin in registry.plugins:
        if plugin.seconds > _SLOW:
            seconds = f"{plugin.seconds:.1f}"
            get_logger().warning("plugin_import_was_slow", plugin=plugin.name, seconds=seconds)
        if plugin.printed:
            get_logger().debug("plugin_printed", plugin=plugin.name, text=plugin.printed)


@contextmanager
def _stdout_kept() -> Iterator[None]:
    """Send what a plugin's child or C library writes to stdout itself to stderr meanwhile."""
    try:
        kept = None if sys.stdout is None else os.dup(1)
    except OSError:  # closed by the shell: there is nothing to spoil
        kept = None
    if kept is None:
        yield
        return
    try:
        _point_at_stderr()
        yield
    finally:
        os.dup2(kept, 1)
        os.close(kept)


def _point_at_stderr() -> None:
    try:
        os.dup2(2, 1)
    except OSError:  # no stderr either
        with open(os.devnull, "wb") as nowhere:  # noqa: PTH123 - wanted for its descriptor
            os.dup2(nowhere.fileno(), 1)
