"""Writing an .hvt file: accesses in, chunks out, the header last."""

from __future__ import annotations

import hashlib
import zlib
from array import array
from itertools import accumulate
from typing import IO, TYPE_CHECKING

from hvmmu._trace.codec import zstd_pack
from hvmmu._trace.hvt.accelerated import make_reducer
from hvmmu._trace.hvt.layout import (
    COUNTS,
    DIGESTED,
    MOST_PLAIN,
    MOST_WORDS,
    PLAIN_SHARE,
    SPAN,
    SPANS,
    ChunkHead,
    Header,
    column,
    plain_frame,
)
from hvmmu._trace.tokens import SETS, WAYS, WINDOW
from hvmmu.types import PAGE_SHIFT

if TYPE_CHECKING:
    from hvmmu.steps import Words


class HvtWriter:
    """Write accesses to *file*, which is seekable and empty; `close` makes it whole.

    *words* says where they came from, in lines of key=value.
    """

    def __init__(self, file: IO[bytes], words: str) -> None:
        self._file = file
        self._words = words.encode()[:MOST_WORDS].decode("utf-8", "ignore")
        self._gva, self._kind = array("Q"), bytearray()
        self._digest = hashlib.sha256()
        self._pages: set[int] = set()
        self._reducer = make_reducer()
        self.references = self.accesses = self.kept = 0
        self._near = self._fetches = self._writes = self._chunks = self._most = 0
        self._listed = 0
        self._file.write(self.header().pack())
        self._start()

    def _start(self) -> None:
        """Begin a chunk; it goes on with the sites of those before."""
        self._kept, self._packed = array("H"), list[bytes]()
        self._plain: dict[int, bytes] = {}
        self._reference_ends, self._kept_ends = array("I"), array("I")
        self._in_chunk = self._in_span = self._near_in_chunk = 0
        self._known = self._plain_size = 0

    def add(self, gva: Words, kind: Words | bytes) -> None:
        """Add accesses in order; a kind has SECOND set where a reference goes on in a next page."""
        self._gva += gva if isinstance(gva, array) else array("Q", gva)
        self._kind += kind
        whole = len(self._gva) // WINDOW * WINDOW
        vas, kinds = memoryview(self._gva), memoryview(self._kind)
        with vas, kinds:
            for at in range(0, whole, WINDOW):
                self._window(vas[at : at + WINDOW], kinds[at : at + WINDOW])
        if whole:
            self._gva, self._kind = self._gva[whole:], self._kind[whole:]

    def close(self) -> None:
        """Write what is left, and the header."""
        if self._gva:
            self._window(memoryview(self._gva), memoryview(self._kind))
        self._end_chunk()
        self._file.seek(0)
        self._file.write(self.header().pack())
        self._file.seek(0, 2)

    def _window(self, gva: Words, kind: Words) -> None:
        if not self._reducer.has_room:
            self._end_chunk()
        self._reducer.window(gva, kind)
        self._in_span += len(kind)
        if self._in_span == SPAN:
            self._end_span()
            if len(self._kept_ends) == SPANS:
                self._end_chunk()

    def _end_span(self) -> None:
        kept, near, frame = self._reducer.end_span()
        self._kept += kept
        self._near_in_chunk += near
        self._digest.update(frame)
        if self._reducer.count > self._known and self._plain_size < MOST_PLAIN:
            self._plain[len(self._packed)] = frame
            self._plain_size += len(frame)
            self._packed.append(b"")  # whether it stays plain is known when the chunk ends
        else:
            self._packed.append(zstd_pack(frame))
        self._known = self._reducer.count
        self._in_chunk += self._in_span
        self._in_span = 0
        self._reference_ends.append(self._in_chunk - self._reducer.tally[2])
        self._kept_ends.append(len(self._kept))

    def _frames(self) -> list[bytes]:
        """Return the chunk's frames as they are stored.

        Where pages are met for the first time, most runs will stop and look: such a frame is not
        packed, as long as there is room.
        """
        frames, room = self._packed, self._in_chunk // PLAIN_SHARE
        for nth, frame in self._plain.items():
            room -= len(frame)
            frames[nth] = zstd_pack(frame) if room < 0 else plain_frame(frame)
        return frames

    def _end_chunk(self) -> None:
        if self._in_span:
            self._end_span()
        if not self._in_chunk:
            return
        listed, (fetches, writes, seconds) = self._reducer.listed, self._reducer.tally
        references = self._in_chunk - seconds
        frames = self._frames()
        stored = b"".join(frames)
        frame_ends = array("I", accumulate(map(len, frames)))
        ends = self._reference_ends, self._kept_ends, frame_ends
        columns = [column(each) for each in (*listed, *ends, self._kept)]
        head = ChunkHead(
            self._in_chunk,
            references,
            fetches,
            writes,
            len(listed[0]),
            self._listed,
            self._near_in_chunk,
            len(self._kept),
            len(stored),
            zlib.crc32(b"".join(columns)),
            zlib.crc32(stored),
        )
        chunk = b"".join((head.pack(), *columns, column(array("B", stored))))
        self._file.write(chunk)
        self._digest.update(COUNTS.pack(self._in_chunk, references, self._listed))
        for nth in DIGESTED:
            self._digest.update(columns[nth])
        self._pages.update(gva >> PAGE_SHIFT for gva in listed[1])
        self._listed += len(listed[0])
        self.references += references
        self.accesses += self._in_chunk
        self._near += self._near_in_chunk
        self.kept += len(self._kept)
        self._fetches += fetches
        self._writes += writes
        self._chunks += 1
        self._most = max(self._most, len(chunk))
        self._reducer.next_chunk()
        self._start()

    def header(self) -> Header:
        """Return what was written, which is all of it after `close`."""
        return Header(
            WINDOW,
            SPAN,
            SETS,
            WAYS,
            self._chunks,
            self.references,
            self.accesses,
            self._near,
            self.kept,
            self._fetches,
            self._writes,
            len(self._pages),
            self._most,
            self._digest.digest(),
            self._words,
        )
