"""A command's session: the plugins, the configuration, and the machines they make."""

import itertools
import os
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import attrs
import click

from hvmmu._cli.plugin_options import load_registry, report_imports, warn_unusable
from hvmmu._config import Config, ConfigSchema, resolve
from hvmmu._plugins import Registry
from hvmmu.backend import Paging
from hvmmu.errors import ConfigError, InputError
from hvmmu.log import get_logger
from hvmmu.machine import MachineConfig


class Session(NamedTuple):
    """The plugins and the configuration of a command."""

    registry: Registry
    schema: ConfigSchema
    config: Config

    def machine(self, backend: str, fixed: Mapping[str, bool], mmu: str) -> MachineConfig:
        """Return the machine of a backend with an MMU in this configuration.

        *fixed* are parameters of the backend that a comparison varies; they are not explicit.
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
            mmu_type=self.registry.mmus[mmu],
            settings={name: sections[name] for name in self.schema.plugin_sections},
        )

    def backends(self) -> tuple[str, ...]:
        """Return the chosen backends; raise InputError if none of them is installed."""
        if not self.config.backends:
            raise InputError("none of the chosen backends is installed (see `hvmmu backends`)")
        return self.config.backends

    def runs(self) -> Iterator[MachineConfig]:
        """Yield a machine for every chosen backend and MMU and every way to compare them.

        A backend names in `compare_params` the bool parameters that a comparison tries both ways,
        off first; one that is set explicitly is left as set.
        """
        for name in self.backends():
            varied = getattr(self.registry.backends[name], "compare_params", ())
            free = [param for param in varied if param not in self.config.explicit[name]]
            bare = self.registry.backends[name].caps.paging is Paging.BARE
            for mmu in self.config.mmus[:1] if bare else self.config.mmus:
                for values in itertools.product((False, True), repeat=len(free)):
                    yield self.machine(name, dict(zip(free, values, strict=True)), mmu)

    def overrides(self) -> dict[str, dict[str, Any]]:
        """Return value and source of each explicit setting of these runs, by `section.name`."""
        sections, schema = self.config.sections, self.schema
        used = {*schema.core, *schema.plugin_sections, *self.config.backends}
        found = {}
        for row in self.config.rows:
            section, _, name = row.key.rpartition(".")
            if row.is_explicit and section in used:
                found[row.key] = {"value": getattr(sections[section], name), "source": row.source}
        return found

    def reported_sections(self) -> dict[str, Any]:
        """Return the sections for a result document: the core's, and a plugin's that is set.

        A plugin that is only installed must change no document.
        """
        own = [name for name in self.schema.plugin_sections if self.config.explicit[name]]
        return {name: self.config.sections[name] for name in (*self.schema.core, *own)}


def open_registry(ctx: click.Context) -> Registry:
    """Configure the log and load the plugins; log which were slow or printed something."""
    registry = load_registry(ctx)
    report_imports(registry)
    return registry


def open_session(
    ctx: click.Context,
    *,
    settings: Sequence[str] = (),
    backends: Sequence[str] = (),
    costs: str | None = None,
    engine: str | None = None,
    mmus: Sequence[str] = (),
) -> Session:
    """Load the plugins and resolve the configuration; raise ConfigError with every problem.

    Settings of plugins that are not loaded are problems with --strict, and warnings otherwise.
    """
    registry = open_registry(ctx)
    warn_unusable(registry)
    schema = registry.config_schema()
    config = resolve(
        schema,
        cwd=working_directory(),
        environ=os.environ,
        settings=settings,
        backends=backends,
        costs=costs,
        engine=engine,
        mmus=mmus,
    )
    if config.ignored and ctx.ensure_object(dict).get("strict"):
        raise ConfigError([f"{line} (--strict)" for line in config.ignored])
    for line in config.ignored:
        get_logger().warning("setting_ignored", cause=line)
    return Session(registry, schema, config)


def working_directory() -> Path:
    """Return the current directory; raise InputError if it is gone."""
    try:
        return Path.cwd()
    except OSError as error:
        where = "the current directory"
        raise InputError(f"{where}: {error.strerror}; change to one that exists") from None
