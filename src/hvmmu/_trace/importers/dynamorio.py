"""DynamoRIO's traces, as its view tool prints them: `drrun -t drmemtrace -tool view -indir DIR`.

The binary files change from version to version, and there is one for each thread. The view tool's
output has kept its shape for years, and has the records of all threads in one order.
"""

from __future__ import annotations

import re
from typing import TYPE_CHECKING

from hvmmu._trace.importers.importer import Importer
from hvmmu._trace.importers.stream import References
from hvmmu.arch.pfec import USER_FETCH, USER_READ, USER_WRITE

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
_KINDS = {b"ifetch": USER_FETCH, b"read": USER_READ, b"write": USER_WRITE}
_TODO = "give what `drrun -t drmemtrace -tool view` prints"


class DynamoRio(Importer):
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
