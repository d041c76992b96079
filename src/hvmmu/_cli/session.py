"""What every command starts from: the plugins, the configuration, and the runs they make."""

import itertools
import os
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import attrs
import click

from hvmmu._cli.loading import loaded, tell, warn
from hvmmu._config import Config, Known, resolve
from hvmmu._engines import tell_of_fallback
from hvmmu._plugins import Registry
from hvmmu._plugins.known import known_settings
from hvmmu.errors import InputError
from hvmmu.machine import MachineConfig


class Session(NamedTuple):
    """Hold what a command works with."""

    registry: Registry
    known: Known
    config: Config

    def machine(self, backend: str, fixed: Mapping[str, bool]) -> MachineConfig:
        """Return the machine this configuration makes for a backend.

        *fixed* are parameters of the backend that the comparison itself varies; the user asked
        for none of them.
        """
        sections = self.config.sections
        return MachineConfig(
            backend=self.registry.backends[backend],
            backend_params=attrs.evolve(sections[backend], **fixed),
            mmu=sections["mmu"],
            cpu=sections["cpu"],
            guest=sections["guest"],
            explicit=self.config.explicit[backend],
            hooks=self.registry.hooks,
            engine=self.registry.engines[self.config.engine],
            settings={name: sections[name] for name in self.known.own},
        )

    def runs(self) -> Iterator[MachineConfig]:
        """Yield a machine for every chosen backend and every way to compare it.

        A backend names in `compare_params` the bool parameters that a comparison tries both ways,
        off first; one that the user set is left as set.
        """
        for name in self.config.backends:
            over = getattr(self.registry.backends[name], "compare_params", ())
            free = [param for param in over if param not in self.config.explicit[name]]
            for values in itertools.product((False, True), repeat=len(free)):
                yield self.machine(name, dict(zip(free, values, strict=True)))

    def explicit(self) -> dict[str, dict[str, Any]]:
        """Return value and source of what was set for these runs: `section.name` by key."""
        sections = self.config.sections
        told = {}
        for row in self.config.rows:
            section, _, name = row.key.rpartition(".")
            if row.is_asked and section in (
                *self.known.core,
                *self.known.own,
                *self.config.backends,
            ):
                told[row.key] = {"value": getattr(sections[section], name), "source": row.source}
        return told

    def told(self) -> dict[str, Any]:
        """Return the sections that a result document tells: the core's, and what plugins were set.

        A plugin that is only installed must change no document.
        """
        own = [name for name in self.known.own if self.config.explicit[name]]
        return {name: self.config.sections[name] for name in (*self.known.core, *own)}


def open_registry(ctx: click.Context) -> Registry:
    """Start the log, load the plugins, and log which were slow or printed something."""
    registry = loaded(ctx)
    tell(registry)
    return registry


def open_session(
    ctx: click.Context,
    *,
    settings: Sequence[str] = (),
    backends: Sequence[str] = (),
    costs: str | None = None,
    engine: str | None = None,
) -> Session:
    """Load the plugins and resolve the configuration; raise ConfigError with every problem."""
    registry = open_registry(ctx)
    warn(registry)
    known = known_settings(registry)
    config = resolve(
        known,
        cwd=working_directory(),
        environ=os.environ,
        settings=settings,
        backends=backends,
        costs=costs,
        engine=engine,
    )
    if not next(row for row in config.rows if row.key == "engine").is_asked:
        tell_of_fallback()
    return Session(registry, known, config)


def working_directory() -> Path:
    """Return the current directory; raise InputError if it is gone."""
    try:
        return Path.cwd()
    except OSError as error:
        where = "the current directory"
        raise InputError(f"{where}: {error.strerror}; change to one that exists") from None
