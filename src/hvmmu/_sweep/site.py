"""What is installed where a cell is planned or run: plugins, what they add, and their versions.

A site is opened from plain data, so that a worker on another machine makes its own.
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

from hvmmu._config import Known
from hvmmu._plugins import Plugin, Registry, State, load
from hvmmu._plugins.known import CORE, known_settings
from hvmmu.backend import Paging
from hvmmu.errors import InputError
from hvmmu.machine import MachineConfig
from hvmmu.params import Value, nearest, shown
from hvmmu.workloads import SHIPPED

Choice = Mapping[str, Any]
"""The arguments of `hvmmu._plugins.load`, as plain data."""

Values = dict[str, Value]


@attrs.frozen
class Site:
    """The plugins that are loaded here, and what can be configured with them."""

    choice: Choice
    registry: Registry
    known: Known

    def plugins(self) -> dict[str, str]:
        """Return every plugin that is loaded, by name, with its distribution and version."""
        return {one.name: one.origin for one in self.registry.plugins if one.state is State.OK}

    def taking_part(self, *used: str, trace: bool) -> dict[str, str]:
        """Return the plugins that can change a run of *used* things, as "backend vmx".

        One that offers only other things takes no part; with *trace*, a trace format does.
        """
        return {
            one.name: one.origin
            for one in self.registry.plugins
            if one.state is State.OK and _takes_part(one, used, trace=trace)
        }

    def machine(
        self, backend: str, params: Values, sections: Mapping[str, Values], engine: str
    ) -> MachineConfig:
        """Return the machine of one cell; all that is in *params* counts as asked for."""
        made = self.registry.backends[backend]
        core = {name: kind(**sections.get(name, {})) for name, kind in CORE.items()}
        own = {name: kind(**sections.get(name, {})) for name, kind in self.known.own.items()}
        return MachineConfig(
            backend=made,
            backend_params=made.params(**params),
            **core,
            explicit=frozenset(params),
            hooks=self.registry.hooks,
            engine=self.registry.engines[engine],
            settings=own,
        )

    def is_bare(self, backend: str) -> bool:
        """Return whether a backend is no hypervisor: it has no MMU of ours, and none to set up."""
        return self.registry.backends[backend].caps.paging is Paging.BARE

    def located(self, spec: str | None, folder: Path) -> str | None:
        """Return *spec* with the path of a trace that is seen from *folder*; raise InputError."""
        kinds = self.registry.workloads
        if spec is None or spec.partition(":")[0] in kinds:
            return spec
        if not os.path.lexists(folder / spec):
            known, near = ", ".join(kinds), nearest(spec.partition(":")[0], kinds)
            raise InputError(
                f"{shown(spec)} is neither a workload ({known}) nor a file, seen from the grid's "
                f"folder{near}"
            )
        return str(folder / spec)

    def trace(self, spec: str | None) -> Path | None:
        """Return the file of a workload that is located; None if it needs none."""
        if spec is None:
            return SHIPPED
        return None if spec.partition(":")[0] in self.registry.workloads else Path(spec)


def _takes_part(plugin: Plugin, used: tuple[str, ...], *, trace: bool) -> bool:
    """Return whether it has a hook of a run, or offers one of the things used."""
    return any(
        " " not in word or word in used or (trace and word.startswith("trace format "))
        for word in plugin.registered
    )


_OPEN: dict[str, Site] = {}
_OPENING = threading.Lock()


def open_site(choice: Choice, registry: Registry | None = None) -> Site:
    """Return this process's site with these plugins, loaded once; *registry* if that is done."""
    key = json.dumps(choice, sort_keys=True)
    with _OPENING:
        if registry is not None or key not in _OPEN:
            loaded = load(**choice) if registry is None else registry
            _OPEN[key] = Site(choice, loaded, known_settings(loaded))
        return _OPEN[key]


def provenance(site: Site) -> dict[str, Any]:
    """Return what made a cell beyond what decides it: the machine's kind, never the moment."""
    return {
        "hvmmu": hvmmu_version(),
        "python": platform.python_version(),
        "implementation": platform.python_implementation(),
        "system": platform.system(),
        "machine": platform.machine(),
        "plugins": site.plugins(),
    }


@lru_cache(maxsize=1)
def hvmmu_version() -> str:
    """Return the version of hvmmu that is installed."""
    from importlib.metadata import version  # noqa: PLC0415 - not to begin with

    return version("hvmmu")


def file_sha256(path: Path) -> str:
    """Return the SHA-256 of a file's bytes; raise OSError if it cannot be read."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()
