"""What compact traces are imported from: other tools' traces, each read as a stream."""

from __future__ import annotations

from typing import TYPE_CHECKING

from hvmmu._trace.importers.champsim import ChampSim
from hvmmu._trace.importers.columns import Csv, Parquet
from hvmmu._trace.importers.dynamorio import DynamoRio
from hvmmu._trace.importers.valgrind import LackeyText
from hvmmu.errors import InputError
from hvmmu.params import nearest, shown

if TYPE_CHECKING:
    from collections.abc import Mapping

    from hvmmu._trace.importers.importer import Source

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
