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

_RECORD = rb" *[0-9]+(?: +[0-9]+)?: +(?:W([0-9]+)\.)?\S+ +"
"""The columns of each line: record, instruction, and thread, with its workload if it has one."""
_REFERENCE = re.compile(
    _RECORD + rb"([A-Za-z][\w -]*?) +([0-9]+) byte\(s\) @ 0x([0-9a-f]{1,16})(?: (.*))?"
)
_OTHER = re.compile(
    rb"Output format:|<-*record.*|-+|View tool.*| *[0-9]+ : [a-z].*|\s*"
    # Bytes of a long instruction that did not fit, with and without the columns before them.
    rb"| {20,}\S.*|" + _RECORD + rb"(?:<.*>| {8,}(?:[0-9a-f]{2} ?)+(?: {2,}.*)?)"
)
_IGNORED = re.compile(rb"pref.*|.flush")
"""Prefetches and flushes of caches, which an MMU does not see."""
_NOT_FETCHED = b"non-fetched instruction"
"""A later round of a REP instruction, which is not fetched again."""
_KINDS = {b"ifetch": USER_FETCH, b"read": USER_READ, b"write": USER_WRITE}
_TODO = "give what `drrun -t drmemtrace -tool view` prints"


class DynamoRio(Importer):
    """What DynamoRIO's view tool prints; threads are merged in the order printed."""

    name = "dynamorio"
    summary = "what DynamoRIO's view tool prints (drrun -t drmemtrace -tool view)"

    def recognises(self, head: bytes) -> bool:
        """Return whether the tool's heading or a record of its stands at the start."""
        return b"record#" in head[:4096] or _REFERENCE.match(head[:4096]) is not None

    def accesses(
        self, stream: Stream, limit: int | None
    ) -> Iterator[tuple[array[int], array[int]]]:
        """Yield fetches, reads and writes; raise TraceError at any line of another tool."""
        view, found = _View(stream), 0
        for first, lines in stream.lines():
            made = References()
            for number, line in enumerate(lines, first):
                found += view.add(made, number, line)
                if found == limit:
                    break
            yield made.gva, made.kind
            if found == limit:
                return
        if not found:
            raise stream.error(None, "holds no memory references", _TODO)


class _View:
    """Reads the tool's lines, which are all of one workload."""

    def __init__(self, stream: Stream) -> None:
        self._stream, self._workload = stream, b""

    def add(self, made: References, number: int, line: bytes) -> bool:
        """Add a line's reference to *made*; return False if it has none. Raise TraceError."""
        match = _REFERENCE.fullmatch(line)
        if match is None:
            if _OTHER.fullmatch(line) is None:
                text = line[:40].decode("ascii", "replace")
                raise self._stream.error(number, f"the view tool prints no {text!r}", _TODO)
            return False
        self._check(match[1], number)
        name = match[2]
        if _IGNORED.fullmatch(name) or (match[5] or b"").startswith(_NOT_FETCHED):
            return False
        if name not in _KINDS:
            what = f"the view tool prints no record {name.decode('ascii', 'replace')!r}"
            raise self._stream.error(number, what, _TODO)
        try:
            made.add(_KINDS[name], int(match[4], 16), int(match[3]))
        except ValueError as error:
            raise self._stream.error(number, str(error), "cut the trace there") from None
        return True

    def _check(self, workload: bytes | None, number: int) -> None:
        """Raise TraceError for the record of a second workload, which has its own addresses."""
        known = self._workload = self._workload or workload or b""
        if workload not in (None, known):
            what = f"a record of workload W{workload.decode()} in the trace of W{known.decode()}"
            raise self._stream.error(number, what, "print the records of one workload")
