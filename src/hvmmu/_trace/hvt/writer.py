"""Writing an .hvt file: accesses in, chunks out, the header last."""

from __future__ import annotations

import hashlib
import zlib
from array import array
from itertools import accumulate
from typing import IO, TYPE_CHECKING

from hvmmu._trace.codec import zstd_pack
from hvmmu._trace.grammar import SETS, SPAN, WAYS, WINDOW
from hvmmu._trace.hvt.layout import (
    COUNTS,
    DIGESTED,
    MOST_PLAIN,
    MOST_PROVENANCE,
    PLAIN_SHARE,
    SPANS,
    ChunkHead,
    Header,
    column,
    uncompressed,
)
from hvmmu._trace.hvt.reducer import Reducer
from hvmmu.types import PAGE_SHIFT

if TYPE_CHECKING:
    from hvmmu.steps import Words


class HvtWriter:
    """Write accesses to *file*, which is seekable and empty; `close` makes it whole.

    *provenance* says where they came from, in lines of key=value.
    """

    def __init__(self, file: IO[bytes], provenance: str) -> None:
        self._file = file
        self._provenance = provenance.encode()[:MOST_PROVENANCE].decode("utf-8", "ignore")
        self._gva, self._kind = array("Q"), bytearray()
        self._digest = hashlib.sha256()
        self._pages: set[int] = set()
        self._reducer = Reducer()
        self.references = self.accesses = self.span_kept = 0
        self._window_kept = self._fetches = self._writes = self._chunks = self._most = 0
        self._listed = 0
        self._file.write(self.header().pack())
        self._start()

    def _start(self) -> None:
        """Begin a chunk."""
        self._kept, self._packed = array("H"), list[bytes]()
        self._plain: dict[int, bytes] = {}
        self._reference_ends, self._kept_ends = array("I"), array("I")
        self._in_chunk = self._in_span = self._window_kept_here = 0
        self._listed_here = self._plain_size = 0

    def add(self, gva: Words, kind: Words | bytes) -> None:
        """Add accesses in order; a kind has STRADDLES set if the access is a second page."""
        self._gva += gva if isinstance(gva, array) else array("Q", gva)
        self._kind += kind
        whole = len(self._gva) // WINDOW * WINDOW
        for at in range(0, whole, WINDOW):
            self._window(at)
        if whole:
            self._gva, self._kind = self._gva[whole:], self._kind[whole:]

    def close(self) -> None:
        """Write what is left, and the header."""
        if self._gva:
            self._window(0)
        self._end_chunk()
        self._file.seek(0)
        self._file.write(self.header().pack())
        self._file.seek(0, 2)

    def _window(self, start: int) -> None:
        if not self._reducer.has_room:
            self._end_chunk()
        self._in_span += self._reducer.add_window(self._gva, self._kind, start)
        if self._in_span == SPAN:
            self._end_span()
            if len(self._kept_ends) == SPANS:
                self._end_chunk()

    def _end_span(self) -> None:
        span_kept, window_kept, stored = self._reducer.end_span()
        self._kept += span_kept
        self._window_kept_here += window_kept
        self._digest.update(stored)
        if self._reducer.count > self._listed_here and self._plain_size < MOST_PLAIN:
            self._plain[len(self._packed)] = stored
            self._plain_size += len(stored)
            self._packed.append(b"")  # `_packed_spans` decides whether to compress it
        else:
            self._packed.append(zstd_pack(stored))
        self._listed_here = self._reducer.count
        self._in_chunk += self._in_span
        self._in_span = 0
        self._reference_ends.append(self._in_chunk - self._reducer.tally.seconds)
        self._kept_ends.append(len(self._kept))

    def _packed_spans(self) -> list[bytes]:
        """Return the chunk's spans as the file has them.

        Most runs stop where pages come for the first time, and read such a span: it is not
        compressed as long as there is room.
        """
        room = self._in_chunk // PLAIN_SHARE
        for nth, stored in self._plain.items():
            room -= len(stored)
            self._packed[nth] = zstd_pack(stored) if room < 0 else uncompressed(stored)
        return self._packed

    def _end_chunk(self) -> None:
        if self._in_span:
            self._end_span()
        if not self._in_chunk:
            return
        listed, (fetches, writes, seconds) = self._reducer.listed, self._reducer.tally
        references = self._in_chunk - seconds
        spans = self._packed_spans()
        packed = b"".join(spans)
        packed_ends = array("I", accumulate(map(len, spans)))
        ends = self._reference_ends, self._kept_ends, packed_ends
        columns = [column(each) for each in (*listed, *ends, self._kept)]
        head = ChunkHead(
            self._in_chunk,
            references,
            fetches,
            writes,
            len(listed.slots),
            self._listed,
            self._window_kept_here,
            len(self._kept),
            len(packed),
            zlib.crc32(b"".join(columns)),
            zlib.crc32(packed),
        )
        chunk = b"".join((head.pack(), *columns, column(array("B", packed))))
        self._file.write(chunk)
        self._digest.update(COUNTS.pack(self._in_chunk, references, self._listed))
        for nth in DIGESTED:
            self._digest.update(columns[nth])
        self._pages.update(gva >> PAGE_SHIFT for gva in listed.gva)
        self._listed += len(listed.slots)
        self.references += references
        self.accesses += self._in_chunk
        self._window_kept += self._window_kept_here
        self.span_kept += len(self._kept)
        self._fetches += fetches
        self._writes += writes
        self._chunks += 1
        self._most = max(self._most, len(chunk))
        self._reducer.next_chunk()
        self._start()

    def header(self) -> Header:
        """Return the totals so far."""
        return Header(
            WINDOW,
            SPAN,
            SETS,
            WAYS,
            self._chunks,
            self.references,
            self.accesses,
            self._window_kept,
            self.span_kept,
            self._fetches,
            self._writes,
            len(self._pages),
            self._most,
            self._digest.digest(),
            self._provenance,
        )
