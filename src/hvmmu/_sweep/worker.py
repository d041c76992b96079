"""The work of a worker: one cell, from plain data to the text of the cell's file.

Only the unit decides the text. A worker loads its plugins itself, once.
"""

import errno
from collections.abc import Callable, Mapping
from functools import lru_cache
from pathlib import Path
from typing import Any

from hvmmu._plugins.registry import CORE
from hvmmu._report.document import Document, document
from hvmmu._sweep.cells import Identity, overrides
from hvmmu._sweep.installation import (
    Installation,
    file_sha256,
    hvmmu_version,
    open_installation,
    provenance,
)
from hvmmu._sweep.store import CellFailure, text_of
from hvmmu.errors import HvmmuError, InputError
from hvmmu.machine import Machine
from hvmmu.params import printable

Unit = Mapping[str, Any]

_VERSION = hvmmu_version()  # read once, before workers are forked


class StoppedError(Exception):
    """The sweep ends in the middle of a cell."""


def run_unit(
    unit: Unit, *, is_stopped: Callable[[], bool] = lambda: False
) -> tuple[str, CellFailure | None]:
    """Run one cell; return the text of its file, and its failure if it has one.

    Any exception is this cell's failure, and no other's. Raise StoppedError once *is_stopped*
    returns true: it is called at each step, for a thread cannot be killed.
    """
    installation, result, failure = None, None, None
    try:
        installation = open_installation(unit["plugins"])
        result = _measured(installation, unit, is_stopped)
    except StoppedError:
        raise
    except Exception as error:  # noqa: BLE001 - one cell's bug must not end the others
        failure = _failure(error)
    where = {} if installation is None else provenance(installation)
    return text_of(unit["identity"], result, failure, where), failure


def _failure(error: Exception) -> CellFailure:
    if isinstance(error, HvmmuError):
        return CellFailure(type(error).__name__, printable(" ".join(str(error).split()), 1000))
    if isinstance(error, MemoryError) or getattr(error, "errno", None) == errno.ENOMEM:
        return CellFailure("memory", "out of memory; use fewer jobs or a smaller guest.memory")
    message = printable(f"{type(error).__name__}: {error}", 1000)
    return CellFailure("bug", f"{message} (a bug, in hvmmu or in a plugin)")


def _measured(installation: Installation, unit: Unit, is_stopped: Callable[[], bool]) -> Document:
    """Return the result document of one cell."""
    identity = unit["identity"]
    _check_same(installation, identity)
    workload = installation.registry.workload(unit["workload"], unit["limit"])
    trace = installation.trace(unit["workload"])
    if trace is not None and _hashed(trace) != identity["trace_sha256"]:
        raise InputError(
            f"{printable(trace.name)}: changed since the sweep was planned; sweep again"
        )
    model = installation.registry.cost_models[identity["costs"]]
    machine = Machine(
        installation.machine(
            identity["backend"], identity["params"], identity["config"], identity["engine"]
        )
    )
    try:
        for step in workload.steps():
            if is_stopped():
                raise StoppedError
            machine.step(step)
        result = machine.result(model)
    finally:
        machine.close()
    kinds = {**CORE, **installation.schema.plugin_sections}
    return document(
        workload=identity["workload"],
        config={name: kinds[name](**own) for name, own in identity["config"].items()},
        overrides=overrides(identity, installation.schema.classes()),
        runs=[result],
        model=model,
    )


def _check_same(installation: Installation, identity: Identity) -> None:
    """Raise InputError if the worker would run anything but the planned cell."""
    here, lacking = installation.plugins(), identity["plugins"]
    unlike = [f"{name} ({origin})" for name, origin in lacking.items() if here.get(name) != origin]
    if identity["engine"] not in installation.registry.engines:
        unlike.insert(0, f"engine {identity['engine']}")
    mmu = identity["config"].get("mmu", {}).get("type")
    if mmu and mmu not in installation.registry.mmus:
        unlike.insert(0, f"MMU {mmu}")
    if identity["hvmmu"] != _VERSION:
        unlike.insert(0, f"hvmmu {identity['hvmmu']}")
    if unlike:
        raise InputError(f"the worker lacks {', '.join(unlike)}: install the same everywhere")


def _hashed(path: Path) -> str:
    """Return the hash of a trace, read once a worker unless the file changes."""
    status = path.stat()
    return _hashed_once(path, status.st_size, status.st_mtime_ns, status.st_ino)


@lru_cache(maxsize=64)
def _hashed_once(path: Path, *_: int) -> str:
    return file_sha256(path)


def hello(**_: object) -> None:
    """Do nothing, to test that a worker lives."""


def lost(unit: Unit, why: str) -> tuple[str, CellFailure]:
    """Return the same as `run_unit` for a cell whose worker died."""
    failure = CellFailure("worker", printable(why, 1000))
    where = provenance(open_installation(unit["plugins"]))
    text = text_of(unit["identity"], None, failure, where)
    return text, failure
