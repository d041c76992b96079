"""The trace formats of other tools, each read as a stream."""

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

    from hvmmu._trace.importers.importer import Importer

_LAST = LackeyText()
IMPORTERS: Mapping[str, Importer] = {
    one.name: one for one in (_LAST, ChampSim(), DynamoRio(), Csv(), Parquet())
}
"""The formats by name; a file that none recognises is read as lackey's, which says what is
wrong."""


def importer_of(name: str | None, head: bytes) -> Importer:
    """Return the format called *name*, or the one that recognises *head*; raise InputError."""
    if name is None:
        return next((one for one in IMPORTERS.values() if one.recognises(head)), _LAST)
    if name not in IMPORTERS:
        raise InputError(
            f"{shown(name)} is no format that can be imported{nearest(name, IMPORTERS)}; "
            f"there are {', '.join(IMPORTERS)}"
        )
    return IMPORTERS[name]
