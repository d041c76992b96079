"""Reading an .hvt file: bounded reads, every count checked before memory is taken for it."""

from __future__ import annotations

import contextlib
import hashlib
import re
import zlib
from typing import TYPE_CHECKING

from hvmmu._trace.grammar import STRADDLES
from hvmmu._trace.hvt.chunk import AGAIN, Chunk, SlotTable
from hvmmu._trace.hvt.file_bytes import opened_file
from hvmmu._trace.hvt.layout import (
    CHUNK_SIZE,
    HEADER_SIZE,
    ChunkHead,
    DamagedError,
    Header,
    header_start,
    padded,
    read_chunk_head,
    read_header,
)
from hvmmu._trace.magic import is_hvt_head
from hvmmu.errors import TraceError
from hvmmu.params import printable
from hvmmu.types import PAGE_SHIFT

if TYPE_CHECKING:
    from array import array
    from collections.abc import Iterator
    from pathlib import Path


_CUT_SHORT = "the file is cut short"
_SECONDS = re.compile(rb"[\x80-\xff]")


def opened(path: Path) -> contextlib.closing[HvtFile]:
    """Return an .hvt file for a with statement."""
    return contextlib.closing(HvtFile(path))


class HvtFile:
    """An .hvt file, plain or compressed, read once from its start; close it.

    Raise TraceError, naming file and chunk, for all that contradicts the header.
    """

    def __init__(self, path: Path) -> None:
        self._name = printable(str(path))
        self._bytes = opened_file(path)
        try:
            self.header = self._header()
        except TraceError:
            self.close()
            raise

    def _header(self) -> Header:
        with self._blamed(None):
            head = bytes(self._bytes.read(HEADER_SIZE))
            if not is_hvt_head(head):
                todo = "make one of it with `hvmmu trace import`"
                raise TraceError(self._name, None, "is no compact trace", todo)
            size, _, _ = header_start(head)
            provenance = bytes(self._read(padded(size)))
            if any(provenance[size:]) or 0 in provenance[:size]:
                raise DamagedError("has a damaged header")
            return read_header(head, provenance[:size])

    def close(self) -> None:
        """Close the file; steps that were read may still read spans of it."""
        self._bytes.close()

    def chunks(self) -> Iterator[Chunk]:
        """Yield the chunks in order; raise TraceError if they contradict the header."""
        sums, most, table = [0] * 6, 0, SlotTable()
        for number in range(1, self.header.chunks + 1):
            chunk = self._chunk(number, table)
            sums = [old + new for old, new in zip(sums, _counts(chunk.head), strict=True)]
            most = max(most, chunk.head.size)
            yield chunk
        header = self.header
        with self._blamed(None):
            if (*sums, most) != (*_counts(header), header.most_chunk):
                raise DamagedError("holds other counts than its header says")
            if self._bytes.read(1):
                raise DamagedError("goes on after its last chunk")

    def verified(self) -> Iterator[Chunk]:
        """Yield the chunks; raise TraceError at the end for another digest or number of pages."""
        digest, pages = hashlib.sha256(), set[int]()
        for chunk in self.chunks():
            chunk.add_to(digest)
            pages |= chunk.pages()
            yield chunk
        with self._blamed(None):
            if len(pages) != self.header.pages:
                raise DamagedError("holds other counts than its header says")
            if digest.digest() != self.header.sha256:
                raise DamagedError("holds other accesses than its header's sha256 is of")

    def windows(self) -> Iterator[tuple[array[int], array[int]]]:
        """Yield all accesses by window, STRADDLES set in kinds, and check everything on the way.

        Raise TraceError also for a second page that does not go on from the access before it.
        """
        last_gva = last_kind = 0
        for number, chunk in enumerate(self.verified(), 1):
            for gva, kind in chunk.windows():
                for match in _SECONDS.finditer(kind.tobytes()):
                    at = match.start()
                    first = (gva[at - 1], kind[at - 1]) if at else (last_gva, last_kind)
                    if (gva[at] >> PAGE_SHIFT, kind[at]) != _second(*first):
                        with self._blamed(number):
                            raise DamagedError("a second page has no first")
                last_gva, last_kind = gva[-1], kind[-1]
                yield gva, kind

    def _chunk(self, number: int, table: SlotTable) -> Chunk:
        with self._blamed(number):
            head = read_chunk_head(bytes(self._read(CHUNK_SIZE)))
            body = self._read(sum(map(padded, head.columns)))
            if zlib.crc32(body) != head.crc:
                raise DamagedError("its CRC is wrong")
            columns, at = [], 0
            for size in head.columns:
                columns.append(body[at : at + size])
                at += padded(size)
            packed = self._bytes.later(padded(head.packed))
            if packed is None:
                raise DamagedError(_CUT_SHORT)
            where = f"{self._name}: chunk {number}"
            return Chunk(head, columns, packed, table, where)

    def _read(self, size: int) -> memoryview:
        found = self._bytes.read(size)
        if len(found) < size:
            raise DamagedError(_CUT_SHORT)
        return found

    @contextlib.contextmanager
    def _blamed(self, chunk: int | None) -> Iterator[None]:
        where = self._name if chunk is None else f"{self._name}: chunk {chunk}"
        try:
            yield
        except DamagedError as error:
            raise TraceError(where, None, str(error), AGAIN) from None


def _counts(of: ChunkHead | Header) -> tuple[int, ...]:
    """Return the counts that a chunk's head and the file's header both have."""
    return of.references, of.accesses, of.window_kept, of.span_kept, of.fetches, of.writes


def _second(gva: int, kind: int) -> tuple[int, int]:
    """Return page and kind of the second page of the reference that an access begins.

    For a second page, which begins none, that is no kind that occurs.
    """
    return (gva >> PAGE_SHIFT) + 1, kind ^ STRADDLES
