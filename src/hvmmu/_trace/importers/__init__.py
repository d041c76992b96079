"""The trace formats of other tools, each read as a stream."""

from __future__ import annotations

from typing import TYPE_CHECKING

from hvmmu._trace.importers.champsim import ChampSim
from hvmmu._trace.importers.columns import Csv, Parquet
from hvmmu._trace.importers.dynamorio import DynamoRio
from hvmmu._trace.importers.valgrind import LackeyText
from hvmmu.errors import InputError
from hvmmu.params import did_you_mean, quote

if TYPE_CHECKING:
    from collections.abc import Mapping

    from hvmmu._trace.importers.importer import Importer

_LAST = LackeyText()
IMPORTERS: Mapping[str, Importer] = {
    one.name: one for one in (_LAST, ChampSim(), DynamoRio(), Csv(), Parquet())
}
"""The formats by name."""


def importer_of(name: str | None, head: bytes) -> Importer:
    """Return the format called *name*, or the one that recognises *head*; raise InputError.

    A file that none recognises is read as lackey's, whose error names the line.
    """
    if name is None:
        return next((one for one in IMPORTERS.values() if one.recognises(head)), _LAST)
    if name not in IMPORTERS:
        raise InputError(
            f"{quote(name)} is no format that can be imported{did_you_mean(name, IMPORTERS)}; "
            f"there are {', '.join(IMPORTERS)}"
        )
    return IMPORTERS[name]
