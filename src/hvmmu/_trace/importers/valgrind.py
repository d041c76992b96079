"""Lackey's text, as `hvmmu record` and valgrind write it."""

from __future__ import annotations

import re
from typing import TYPE_CHECKING

from hvmmu._trace.codec import BOM
from hvmmu._trace.grammar import STRADDLES
from hvmmu._trace.importers.importer import Importer
from hvmmu._trace.lackey import references
from hvmmu.params import printable

if TYPE_CHECKING:
    from array import array
    from collections.abc import Iterator

    from hvmmu._trace.importers.stream import Stream

_STARTS = (b"==", b"--", b"**", b"I  ", b" L ", b" S ", b" M ", b"SB ")
_COMMAND = re.compile(rb"^==[0-9]+== Command: (.*)$", re.MULTILINE)


class LackeyText(Importer):
    """What valgrind's lackey tool prints with --trace-mem=yes."""

    name = "lackey"
    summary = "what valgrind --tool=lackey --trace-mem=yes prints"

    def recognises(self, head: bytes) -> bool:
        """Return whether it starts with a reference or a line of Valgrind's own."""
        return head.removeprefix(BOM).startswith(_STARTS)

    def provenance(self, head: bytes) -> str:
        """Return the command that was traced, if Valgrind names it."""
        found = _COMMAND.search(head[: 1 << 16])
        return (
            "" if found is None else f"command={printable(found[1].decode('utf-8', 'replace'))}\n"
        )

    def accesses(
        self, stream: Stream, limit: int | None
    ) -> Iterator[tuple[array[int], array[int]]]:
        """Yield the accesses; raise TraceError at the first line that lackey never prints."""
        return references(stream.blocks(), stream.name, limit, second=STRADDLES)
