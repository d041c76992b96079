"""A cell: one run of a sweep, named by the SHA-256 of all that decides its result."""

import hashlib
import json
from collections.abc import Mapping
from typing import Any

import attrs

from hvmmu.params import declared, plain

FORMAT = 1
"""Raised when the same identity would come to mean another cell."""

Identity = dict[str, Any]


@attrs.frozen
class Cell:
    """One run of a sweep: its name, all that decides its result, and what a worker needs."""

    id: str
    identity: Identity
    unit: Mapping[str, Any]
    """Plain data for `hvmmu._sweep.work.run_unit`."""

    @property
    def told(self) -> str:
        """Return what it is, for people."""
        return f"{self.identity['backend']} {plain(str(self.identity['workload']['name']))}"


def canonical(made: object) -> str:
    """Return plain data as JSON in one way only."""
    return json.dumps(
        made, sort_keys=True, separators=(",", ":"), ensure_ascii=True, allow_nan=False
    )


def sha256_of(made: object) -> str:
    """Return the SHA-256 of plain data, in hex."""
    return hashlib.sha256(canonical(made).encode("ascii")).hexdigest()


def told_asked(identity: Identity, classes: Mapping[str, type]) -> dict[str, dict[str, Any]]:
    """Return the parameters of a cell that are not at their defaults, for a result document.

    *classes* are the attrs classes of all sections. Who set a parameter does not decide a result,
    so it is told only that the sweep did.
    """
    sections = {**identity["config"], identity["backend"]: identity["params"]}
    return {
        f"{section}.{param.name}": {"value": sections[section][param.name], "source": "sweep"}
        for section in sections
        for param in declared(classes[section])
        if sections[section][param.name] != param.default
    }
