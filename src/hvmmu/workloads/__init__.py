"""Workloads: the accesses of a program, and what it asks of the guest OS between them."""

from __future__ import annotations

import os
from pathlib import Path
from typing import TYPE_CHECKING, Protocol

from attrs import frozen

from hvmmu._trace.trace_formats import Hvt, Lackey
from hvmmu.errors import InputError
from hvmmu.params import did_you_mean, printable, quote
from hvmmu.steps import Accesses, ReducedAccesses, Step
from hvmmu.workloads import _builtin as named

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator, Mapping

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


class WorkloadKind(Protocol):
    """A workload that has a name: `hvmmu compare NAME:OPTIONS` runs it."""

    @property
    def name(self) -> str:
        """Return what is typed: letters, digits, - and _."""
        ...

    @property
    def summary(self) -> str:
        """Return one line for people."""
        ...

    def open(self, options: str | None) -> Workload:
        """Make it with *options*, all that stands after the first colon; None: no colon.

        Raise InputError for what cannot be meant.
        """
        ...


class TraceFormat(Protocol):
    """A format of trace files."""

    @property
    def name(self) -> str:
        """Return what it is called."""
        ...

    @property
    def summary(self) -> str:
        """Return one line for people."""
        ...

    def recognises(self, path: Path, head: bytes) -> bool:
        """Return whether the file is of this format.

        *head* are its first 4096 bytes, unpacked if packed with gzip, xz or zstd; none if *path*
        cannot be read or is no regular file.
        """
        ...

    def open(self, path: Path, limit: int | None) -> Workload:
        """Return the trace, up to *limit* references; raise TraceError if its start is none."""
        ...


WORKLOADS: Mapping[str, WorkloadKind] = {**named.WORKLOADS}
"""The workloads that are built in, by name."""

ANY_OTHER = Lackey
"""The format of a file that no other format recognises."""

FORMATS: Mapping[str, TraceFormat] = {one.name: one for one in (ANY_OTHER, Hvt)}
"""The trace formats that are built in, by name."""


@frozen(eq=False)
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
        for whole in self.whole.steps():
            for step in _parts(whole, left):
                if isinstance(step, Accesses):
                    yield Accesses(step.gva[:left], step.kind[:left])
                else:
                    yield step
                if isinstance(step, Accesses | ReducedAccesses):
                    left -= len(step)
                    if left <= 0:
                        return


def _parts(step: Step, left: int) -> Iterable[Step]:
    """Return the step, in accesses that can be cut if it is reduced and of more than *left*."""
    return step.whole() if isinstance(step, ReducedAccesses) and len(step) > left else (step,)


def descriptions() -> dict[str, str]:
    """Return the synthetic workloads by name, each with one line for people."""
    return {name: kind.summary for name, kind in WORKLOADS.items()}


def open_workload(
    spec: str | None = None,
    *,
    limit: int | None = None,
    kinds: Mapping[str, WorkloadKind] = WORKLOADS,
    formats: Mapping[str, TraceFormat] = FORMATS,
) -> Workload:
    """Return the workload that *spec* names; None is the trace that comes with hvmmu.

    One of *kinds* is named ``demand-zero`` or ``demand-zero:pages=64,seed=7``; anything else is the
    path of a trace in one of *formats*. *limit* ends it after so many references. Raise InputError
    for a name that is neither, for a wrong option, and for a file whose start is no trace.
    """
    if limit is not None and limit < 1:
        raise InputError(f"a limit of {limit} references leaves nothing to run; give 1 or more")
    name, colon, options = ("", "", "") if spec is None else spec.partition(":")
    if name in kinds:
        made = kinds[name].open(options if colon else None)
        return made if limit is None else Limited(made, limit)
    if spec is not None and not os.path.lexists(spec):
        raise _unknown(spec, name, kinds)
    path = SHIPPED if spec is None else Path(spec)
    return _format_of(path, formats).open(path, limit)


def _format_of(path: Path, formats: Mapping[str, TraceFormat]) -> TraceFormat:
    """Return the one format that recognises a file; raise InputError if it is not one."""
    others = [one for one in formats.values() if one is not ANY_OTHER]
    text = b""
    if others:
        from hvmmu._trace.codec import head  # noqa: PLC0415 - not for a synthetic load

        text = head(path)
    found = [one for one in others if one.recognises(path, text)]
    if len(found) > 1:
        names = " and ".join(one.name for one in found)
        raise InputError(
            f"{printable(str(path))}: the trace formats {names} both recognise it; "
            "block the plugin of one with -P no:NAME"
        )
    return found[0] if found else ANY_OTHER


def _unknown(spec: str, name: str, kinds: Mapping[str, WorkloadKind]) -> InputError:
    known = ", ".join(kinds)
    near = did_you_mean(name, kinds)
    return InputError(
        f"{quote(spec)} is neither a file nor a workload{near}; "
        f"workloads are {known}, or the path of a trace"
    )
