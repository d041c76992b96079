"""A cell: one run of a sweep, named by the SHA-256 of everything that decides its result."""

import hashlib
import json
from collections.abc import Mapping
from typing import Any

import attrs

from hvmmu.params import params_of, printable

FORMAT = 1
"""Raised when the same identity would come to mean another cell."""

Identity = dict[str, Any]


@attrs.frozen
class Cell:
    """One run of a sweep: its name, everything that decides its result, and a worker's input."""

    id: str
    identity: Identity
    unit: Mapping[str, Any]
    """Plain data for `hvmmu._sweep.worker.run_unit`."""

    @property
    def label(self) -> str:
        """Return its backend and workload, for people."""
        return f"{self.identity['backend']} {printable(str(self.identity['workload']['name']))}"


def canonical(data: object) -> str:
    """Return plain data as JSON in one way only."""
    return json.dumps(
        data, sort_keys=True, separators=(",", ":"), ensure_ascii=True, allow_nan=False
    )


def sha256_of(data: object) -> str:
    """Return the SHA-256 of plain data, in hex."""
    return hashlib.sha256(canonical(data).encode("ascii")).hexdigest()


def overrides(identity: Identity, classes: Mapping[str, type]) -> dict[str, dict[str, Any]]:
    """Return the parameters of a cell that are not at their defaults, for a result document.

    *classes* are the attrs classes of all sections. The source of a setting decides no result: it
    is `sweep` for each.
    """
    sections = {**identity["config"], identity["backend"]: identity["params"]}
    return {
        f"{section}.{param.name}": {"value": value, "source": "sweep"}
        for section in sections
        for param in params_of(classes[section])
        if (value := sections[section].get(param.name, param.default)) != param.default
    }
