"""What a worker does: one cell, from plain data to the text of the cell's file.

Nothing but the unit decides the text. A worker loads its plugins itself, once.
"""

from collections.abc import Callable, Mapping
from functools import lru_cache
from pathlib import Path
from typing import Any

from hvmmu._plugins.known import CORE
from hvmmu._report.document import Document, document
from hvmmu._sweep.cells import Identity, told_asked
from hvmmu._sweep.site import Site, file_sha256, hvmmu_version, open_site, provenance
from hvmmu._sweep.store import Failure, text_of
from hvmmu.errors import HvmmuError, InputError
from hvmmu.machine import Machine
from hvmmu.params import plain

Unit = Mapping[str, Any]


class StoppedError(Exception):
    """The sweep was given up in the middle of a cell."""


def run_unit(
    unit: Unit, *, is_stopped: Callable[[], bool] = lambda: False
) -> tuple[str, Failure | None]:
    """Run one cell; return the text of its file, and why it failed if it did.

    Whatever is raised on the way is the cell's failure, and no other's. Raise StoppedError once
    *is_stopped* says so: it is asked at each step, for a thread cannot be killed.
    """
    site, made, failure = None, None, None
    try:
        site = open_site(unit["plugins"])
        made = _measured(site, unit, is_stopped)
    except StoppedError:
        raise
    except HvmmuError as error:
        failure = Failure(type(error).__name__, plain(" ".join(str(error).split()), 1000))
    except Exception as error:  # noqa: BLE001 - one cell's bug must not end the others
        what = plain(f"{type(error).__name__}: {error}", 1000)
        failure = Failure("bug", f"{what} (a bug, in hvmmu or in a plugin)")
    text = text_of(unit["identity"], made, failure, {} if site is None else provenance(site))
    return text, failure


def _measured(site: Site, unit: Unit, is_stopped: Callable[[], bool]) -> Document:
    """Return the result document of one cell."""
    identity = unit["identity"]
    _check_same(site, identity)
    workload = site.registry.workload(unit["workload"], unit["limit"])
    trace = site.trace(unit["workload"])
    if trace is not None and _hashed(trace) != identity["trace_sha256"]:
        raise InputError(f"{plain(trace.name)}: not the file that was planned with; sweep again")
    model = site.registry.cost_models[identity["costs"]]
    machine = Machine(
        site.machine(
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
    kinds = {**CORE, **site.known.own}
    return document(
        workload=identity["workload"],
        config={name: kinds[name](**own) for name, own in identity["config"].items()},
        explicit=told_asked(identity, site.known.classes()),
        runs=[result],
        model=model,
    )


def _check_same(site: Site, identity: Identity) -> None:
    """Raise InputError if the worker would run something else than what was planned."""
    here, lacking = site.plugins(), identity["plugins"]
    unlike = [f"{name} ({origin})" for name, origin in lacking.items() if here.get(name) != origin]
    if identity["engine"] not in site.registry.engines:
        unlike.insert(0, f"engine {identity['engine']}")
    if identity["hvmmu"] != hvmmu_version():
        unlike.insert(0, f"hvmmu {identity['hvmmu']}")
    if unlike:
        raise InputError(f"the worker lacks {', '.join(unlike)}: install the same everywhere")


def _hashed(path: Path) -> str:
    """Return the hash of a trace, read once a worker unless the file changes."""
    about = path.stat()
    return _hashed_once(path, about.st_size, about.st_mtime_ns, about.st_ino)


@lru_cache(maxsize=64)
def _hashed_once(path: Path, *_: int) -> str:
    return file_sha256(path)


def hello(**_: object) -> None:
    """Do nothing, in a worker: one that cannot do this cannot do anything."""


def lost(unit: Unit, why: str) -> tuple[str, Failure]:
    """Return the same as `run_unit` for a cell whose worker did not live to tell."""
    failure = Failure("worker", plain(why, 1000))
    text = text_of(unit["identity"], None, failure, provenance(open_site(unit["plugins"])))
    return text, failure
