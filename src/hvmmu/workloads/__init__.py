"""Workloads: the accesses of a program, and what it asks of the guest OS between them."""

from __future__ import annotations

import os
from pathlib import Path
from typing import TYPE_CHECKING, Protocol

import attrs

from hvmmu.errors import InputError
from hvmmu.guest.steps import Accesses, Step
from hvmmu.params import nearest, shown
from hvmmu.workloads.lackey import LackeyTrace
from hvmmu.workloads.synthetic import KINDS, synthetic

if TYPE_CHECKING:
    from collections.abc import Iterator

SHIPPED = Path(__file__).with_name("traces") / "dd.lackey.xz"
"""The real trace that comes with hvmmu: the workload when none is named."""


class Workload(Protocol):
    """What a guest is made to do: an identity, and steps that can be had again from the start."""

    @property
    def name(self) -> str:
        """Return what people call it."""
        ...

    def facts(self) -> dict[str, str | int | float | bool]:
        """Return what identifies it in a result document, equal for equal workloads."""
        ...

    def steps(self) -> Iterator[Step]:
        """Yield the steps from the start, in memory that does not grow with their number."""
        ...


@attrs.frozen
class Limited:
    """A workload up to *limit* references."""

    whole: Workload
    limit: int

    @property
    def name(self) -> str:
        """Return the whole workload's name."""
        return self.whole.name

    def facts(self) -> dict[str, str | int | float | bool]:
        """Return the whole workload's identity and the limit."""
        return self.whole.facts() | {"limit": self.limit}

    def steps(self) -> Iterator[Step]:
        """Yield the steps until *limit* references are made."""
        left = self.limit
        for step in self.whole.steps():
            if isinstance(step, Accesses):
                yield Accesses(step.gva[:left], step.kind[:left])
                left -= len(step)
                if left <= 0:
                    return
            else:
                yield step


def descriptions() -> dict[str, str]:
    """Return the synthetic workloads by name, each with one line for people."""
    return {name: kind.summary for name, kind in KINDS.items()}


def open_workload(spec: str | None = None, *, limit: int | None = None) -> Workload:
    """Return the workload that *spec* names; None is the trace that comes with hvmmu.

    A synthetic one is named ``demand-zero`` or ``demand-zero:pages=64,seed=7``; anything else is
    the path of a lackey trace. *limit* ends it after so many references. Raise InputError for a
    name that is neither, for a wrong option, and for a file whose start is no trace.
    """
    if limit is not None and limit < 1:
        raise InputError(f"a limit of {limit} references leaves nothing to run; give 1 or more")
    name, colon, options = ("", "", "") if spec is None else spec.partition(":")
    if name in KINDS:
        made = synthetic(name, options if colon else None)
        return made if limit is None else Limited(made, limit)
    if spec is not None and not os.path.lexists(spec):
        raise _unknown(spec, name)
    trace = LackeyTrace(SHIPPED if spec is None else Path(spec), limit)
    trace.check()
    return trace


def _unknown(spec: str, name: str) -> InputError:
    known = ", ".join(KINDS)
    near = nearest(name, KINDS)
    return InputError(
        f"{shown(spec)} is neither a file nor a workload{near}; "
        f"workloads are {known}, or the path of a lackey trace"
    )
