"""DynamoRIO's traces, as its view tool prints them: `drrun -t drmemtrace -tool view -indir DIR`.

The binary files behind it change from version to version and are packed per thread; what the view
tool prints has kept its shape for years, and holds the threads' records in one order.
"""

from __future__ import annotations

import re
from typing import TYPE_CHECKING

from hvmmu._trace.importers.importer import Source
from hvmmu._trace.importers.stream import References
from hvmmu._trace.tokens import FETCH, READ, WRITE

if TYPE_CHECKING:
    from array import array
    from collections.abc import Iterator

    from hvmmu._trace.importers.stream import Stream

_REFERENCE = re.compile(
    rb" *[0-9]+(?: +[0-9]+)?: +\S+ +"
    rb"([a-z][a-z0-9_ -]*?) +([0-9]+) byte\(s\) @ 0x([0-9a-f]{1,16})\b.*"
)
_OTHER = re.compile(
    rb"Output format:|<-*record.*|-+| *[0-9]+(?: +[0-9]+)?: +\S+ +<.*>| {20,}\S.*|View tool.*"
    rb"| *[0-9]+ : [a-z].*|\s*"
)
_KINDS = {b"ifetch": FETCH, b"read": READ, b"write": WRITE}
_TODO = "give what `drrun -t drmemtrace -tool view` prints"


class DynamoRio(Source):
    """What DynamoRIO's view tool prints; all threads are taken for one, in the order printed."""

    name = "dynamorio"
    summary = "what DynamoRIO's view tool prints (drrun -t drmemtrace -tool view)"

    def recognises(self, head: bytes) -> bool:
        """Return whether the tool's heading or a record of its stands at the start."""
        return b"record#" in head[:4096] or _REFERENCE.match(head[:4096]) is not None

    def accesses(
        self, stream: Stream, limit: int | None
    ) -> Iterator[tuple[array[int], array[int]]]:
        """Yield fetches, reads and writes; prefetches and flushes are no accesses of an MMU's."""
        found = 0
        for first, lines in stream.lines():
            made = References()
            for number, line in enumerate(lines, first):
                match = _REFERENCE.fullmatch(line)
                if match is None:
                    if _OTHER.fullmatch(line) is None:
                        text = line[:40].decode("ascii", "replace")
                        raise stream.error(number, f"the view tool prints no {text!r}", _TODO)
                    continue
                kind = _KINDS.get(match[1])
                if kind is None:
                    continue
                try:
                    made.add(kind, int(match[3], 16), int(match[2]))
                except ValueError as error:
                    raise stream.error(number, str(error), "cut the trace there") from None
                found += 1
                if found == limit:
                    break
            yield made.gva, made.kind
            if found == limit:
                return
        if not found:
            raise stream.error(None, "holds no memory references", _TODO)
