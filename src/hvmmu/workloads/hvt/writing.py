"""Writing an .hvt file: accesses in, chunks out, the header last."""

from __future__ import annotations

import hashlib
import struct
import zlib
from array import array
from typing import IO, TYPE_CHECKING

from hvmmu.types import PAGE_SHIFT
from hvmmu.workloads.codec import zstd_pack
from hvmmu.workloads.hvt.fastest import make_reducer
from hvmmu.workloads.hvt.layout import (
    MOST_WORDS,
    WINDOWS,
    ChunkHead,
    Header,
    column,
)
from hvmmu.workloads.hvt.reduction import MOST_SITES, SETS, WINDOW

if TYPE_CHECKING:
    from hvmmu.guest.steps import Words

_COUNTS = struct.Struct("<III")


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
        self._fetches = self._writes = self._chunks = self._most = 0
        self._file.write(self.header().pack())
        self._start()

    def _start(self) -> None:
        """Begin a chunk; it goes on with the sites of the one before, while there is room."""
        sites = self._reducer.counts[0]
        anew = MOST_SITES - sites < WINDOW
        self._reducer.next(anew=anew)
        self._known = 0 if anew else sites
        self._kept_ends, self._token_ends = array("I"), array("I")
        self._in_chunk = 0

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
        if self._kept_ends:
            self._flush()
        self._file.seek(0)
        self._file.write(self.header().pack())
        self._file.seek(0, 2)

    def _window(self, gva: Words, kind: Words) -> None:
        self._reducer.window(gva, kind)
        sites, kept, tokens = self._reducer.counts
        self._kept_ends.append(kept)
        self._token_ends.append(tokens)
        self._in_chunk += len(kind)
        if MOST_SITES - sites < WINDOW or len(self._kept_ends) == WINDOWS:
            self._flush()

    def _flush(self) -> None:
        made, accesses = self._reducer, self._in_chunk
        fetches, writes, seconds = made.tally
        references = accesses - seconds
        site_gva, tokens = made.site_gva[self._known :], bytes(made.tokens)
        _, kept, size = made.counts
        packed = zstd_pack(tokens)
        columns = [
            column(each)
            for each in (
                site_gva,
                made.site_kind[self._known :],
                self._kept_ends,
                self._token_ends,
                made.kept,
            )
        ]
        body = b"".join((*columns, column(array("B", packed))))
        head = ChunkHead(
            accesses,
            references,
            fetches,
            writes,
            len(site_gva),
            kept,
            size,
            len(packed),
            zlib.crc32(body),
            self._known,
        )
        self._file.write(head.pack() + body)
        for piece in (_COUNTS.pack(accesses, references, self._known), *columns, tokens):
            self._digest.update(piece)
        self._pages.update(gva >> PAGE_SHIFT for gva in site_gva)
        self.references += references
        self.accesses += accesses
        self.kept += kept
        self._fetches += fetches
        self._writes += writes
        self._chunks += 1
        self._most = max(self._most, len(head.pack()) + len(body))
        self._start()

    def header(self) -> Header:
        """Return what was written, which is all of it after `close`."""
        return Header(
            WINDOW,
            SETS,
            self._chunks,
            self.references,
            self.accesses,
            self.kept,
            self._fetches,
            self._writes,
            len(self._pages),
            self._most,
            self._digest.digest(),
            self._words,
        )
