"""What compact traces are imported from: other tools' traces, each read as a stream."""

from __future__ import annotations

from typing import TYPE_CHECKING, Protocol

from hvmmu.errors import InputError
from hvmmu.params import nearest, shown
from hvmmu.workloads.sources.champsim import ChampSim
from hvmmu.workloads.sources.columns import Csv, Parquet
from hvmmu.workloads.sources.dynamorio import DynamoRio
from hvmmu.workloads.sources.valgrind import LackeyText

if TYPE_CHECKING:
    from array import array
    from collections.abc import Iterator, Mapping

    from hvmmu.workloads.sources.stream import Stream


class Source(Protocol):
    """A format that is imported."""

    name: str
    summary: str

    def recognises(self, head: bytes) -> bool:
        """Return whether a trace that starts with *head*, unpacked, is of this format."""
        ...

    def words(self, head: bytes) -> str:
        """Return what a trace that starts so tells about its origin, as lines of key=value."""
        ...

    def accesses(
        self, stream: Stream, limit: int | None
    ) -> Iterator[tuple[array[int], array[int]]]:
        """Yield addresses and kinds, SECOND set where a reference goes on in its second page.

        *limit* counts references. Raise TraceError at what no such trace holds.
        """
        ...


_LAST = LackeyText()
SOURCES: Mapping[str, Source] = {
    one.name: one for one in (_LAST, ChampSim(), DynamoRio(), Csv(), Parquet())
}
"""The formats by name; what nobody recognises is taken for lackey's, which says what is wrong."""


def source_of(name: str | None, head: bytes) -> Source:
    """Return the format called *name*, or the one that recognises *head*; raise InputError."""
    if name is None:
        return next((one for one in SOURCES.values() if one.recognises(head)), _LAST)
    if name not in SOURCES:
        raise InputError(
            f"{shown(name)} is no format that can be imported{nearest(name, SOURCES)}; "
            f"there are {', '.join(SOURCES)}"
        )
    return SOURCES[name]
