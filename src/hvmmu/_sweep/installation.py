"""The installation where a cell is planned or run: plugins, their contributions and versions.

It is opened from plain data, so that a worker on another machine opens its own.
"""

import hashlib
import json
import os
import platform
import threading
from collections.abc import Mapping
from functools import lru_cache
from pathlib import Path
from typing import Any

import attrs

from hvmmu._config import ConfigSchema
from hvmmu._plugins import Plugin, Registry, State, load
from hvmmu._plugins.registry import CORE
from hvmmu.backend import Paging
from hvmmu.errors import InputError
from hvmmu.machine import MachineConfig
from hvmmu.params import Value, did_you_mean, quote
from hvmmu.workloads import SHIPPED

Selection = Mapping[str, Any]
"""The arguments of `hvmmu._plugins.load`, as plain data."""

Values = dict[str, Value]


@attrs.frozen
class Installation:
    """The plugins that are loaded here, and the schema of their configuration."""

    selection: Selection
    registry: Registry
    schema: ConfigSchema

    def plugins(self) -> dict[str, str]:
        """Return every plugin that is loaded, by name, with its distribution and version."""
        return {one.name: one.origin for one in self.registry.plugins if one.state is State.OK}

    def taking_part(self, *used: str, trace: bool) -> dict[str, str]:
        """Return the plugins that can change a run of *used* contributions, as "backend vmx".

        A plugin that contributes only others takes no part; with *trace*, a trace format does.
        """
        return {
            one.name: one.origin
            for one in self.registry.plugins
            if one.state is State.OK and _takes_part(one, used, trace=trace)
        }

    def machine(
        self, backend: str, params: Values, sections: Mapping[str, Values], engine: str
    ) -> MachineConfig:
        """Return the machine of one cell; all of *params* count as explicit."""
        kind = self.registry.backends[backend]
        core: dict[str, Any] = {name: made(**sections.get(name, {})) for name, made in CORE.items()}
        own = self.schema.plugin_sections.items()
        return MachineConfig(
            backend=kind,
            backend_params=kind.params(**params),
            **core,
            explicit=frozenset(params),
            hooks=self.registry.hooks,
            engine=self.registry.engines[engine],
            mmu_type=self.registry.mmus[core["mmu"].type],
            settings={name: made(**sections.get(name, {})) for name, made in own},
        )

    def is_bare(self, backend: str) -> bool:
        """Return whether a backend is a machine without a hypervisor, and so without `mmu`."""
        return self.registry.backends[backend].caps.paging is Paging.BARE

    def located(self, spec: str | None, folder: Path) -> str | None:
        """Return *spec*, the path of a trace resolved from *folder*; raise InputError."""
        kinds = self.registry.workloads
        if spec is None or spec.partition(":")[0] in kinds:
            return spec
        if not os.path.lexists(folder / spec):
            known, near = ", ".join(kinds), did_you_mean(spec.partition(":")[0], kinds)
            raise InputError(
                f"{quote(spec)} is neither a workload ({known}) nor a file in the grid's "
                f"folder{near}"
            )
        return str(folder / spec)

    def trace(self, spec: str | None) -> Path | None:
        """Return the file of a located workload; None if it needs none."""
        if spec is None:
            return SHIPPED
        return None if spec.partition(":")[0] in self.registry.workloads else Path(spec)


def _takes_part(plugin: Plugin, used: tuple[str, ...], *, trace: bool) -> bool:
    """Return whether it has a hook of a run, or contributes one of the things used."""
    return any(
        " " not in word or word in used or (trace and word.startswith("trace format "))
        for word in plugin.registered
    )


_OPEN: dict[str, Installation] = {}
_OPENING = threading.Lock()


def open_installation(selection: Selection, registry: Registry | None = None) -> Installation:
    """Return this process's installation with these plugins, loaded once or in *registry*."""
    key = json.dumps(selection, sort_keys=True)
    with _OPENING:
        if registry is not None or key not in _OPEN:
            loaded = load(**selection) if registry is None else registry
            _OPEN[key] = Installation(selection, loaded, loaded.config_schema())
        return _OPEN[key]


def provenance(installation: Installation) -> dict[str, Any]:
    """Return the software and the kind of machine that ran a cell, never the time."""
    return {
        "hvmmu": hvmmu_version(),
        "python": platform.python_version(),
        "implementation": platform.python_implementation(),
        "system": platform.system(),
        "machine": platform.machine(),
        "plugins": installation.plugins(),
    }


@lru_cache(maxsize=1)
def hvmmu_version() -> str:
    """Return the version of hvmmu that is installed."""
    from importlib.metadata import version  # noqa: PLC0415 - 20 ms

    return version("hvmmu")


def file_sha256(path: Path) -> str:
    """Return the SHA-256 of a file's bytes; raise OSError if it cannot be read."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()
