"""Reading an .hvt file: bounded reads, every count checked before memory is taken for it."""

from __future__ import annotations

import contextlib
import hashlib
import zlib
from typing import TYPE_CHECKING

from hvmmu.errors import TraceError
from hvmmu.params import plain
from hvmmu.workloads.codec import blocks
from hvmmu.workloads.hvt.chunk import AGAIN, Chunk, Sites
from hvmmu.workloads.hvt.layout import (
    CHUNK_SIZE,
    HEADER_SIZE,
    Header,
    header_start,
    padded,
    read_chunk_head,
    read_header,
)
from hvmmu.workloads.hvt.reduction import DamagedError

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path


def opened(path: Path) -> contextlib.closing[HvtFile]:
    """Return an .hvt file for a with statement."""
    return contextlib.closing(HvtFile(path))


class HvtFile:
    """An .hvt file read from its start, plain or packed; close it.

    Raise TraceError, naming the file and the chunk, for whatever is not as the header says.
    """

    def __init__(self, path: Path) -> None:
        self._name = plain(str(path))
        self._bytes = _Bytes(path)
        with self._blamed(None):
            head = self._bytes.read(HEADER_SIZE)
            words, _, _ = header_start(head)
            self.header: Header = read_header(head, self._read(padded(words))[:words])

    def close(self) -> None:
        """Let go of the file."""
        self._bytes.close()

    def chunks(self) -> Iterator[Chunk]:
        """Yield the chunks in order; raise TraceError if they are not what the header counts."""
        sums, sites = [0] * 5, Sites()
        for number in range(1, self.header.chunks + 1):
            chunk = self._chunk(number, sites)
            head = chunk.head
            counts = (head.references, head.accesses, head.kept, head.fetches, head.writes)
            sums = [old + new for old, new in zip(sums, counts, strict=True)]
            yield chunk
        header = self.header
        told = (header.references, header.accesses, header.kept, header.fetches, header.writes)
        with self._blamed(None):
            if tuple(sums) != told:
                raise DamagedError("holds other counts than its header tells")
            if self._bytes.read(1):
                raise DamagedError("goes on after its last chunk")

    def verified(self) -> Iterator[Chunk]:
        """Yield the chunks, and raise TraceError at the end if the digest is another."""
        digest = hashlib.sha256()
        for chunk in self.chunks():
            chunk.add_to(digest)
            yield chunk
        with self._blamed(None):
            if digest.digest() != self.header.sha256:
                raise DamagedError("holds other accesses than its header's sha256 is of")

    def _chunk(self, number: int, sites: Sites) -> Chunk:
        with self._blamed(number):
            head = read_chunk_head(self._read(CHUNK_SIZE))
            body = self._read(head.size)
            if zlib.crc32(body) != head.crc:
                raise DamagedError("its CRC is wrong")
            columns, at = [], 0
            for size in head.columns:
                columns.append(body[at : at + size])
                at += padded(size)
            where = f"{self._name}: chunk {number}"
            return Chunk(head, self.header.sets, columns, sites, where)

    def _read(self, size: int) -> bytes:
        found = self._bytes.read(size)
        if len(found) < size:
            raise DamagedError("the file is cut short")
        return found

    @contextlib.contextmanager
    def _blamed(self, chunk: int | None) -> Iterator[None]:
        where = self._name if chunk is None else f"{self._name}: chunk {chunk}"
        try:
            yield
        except DamagedError as error:
            raise TraceError(where, None, str(error), AGAIN) from None


class _Bytes:
    """A file's bytes, unpacked if it is packed, so many at a time."""

    def __init__(self, path: Path) -> None:
        self._blocks = blocks(path)
        self._rest = b""

    def read(self, size: int) -> bytes:
        """Return *size* bytes, fewer at the end."""
        pieces, missing = [self._rest], size - len(self._rest)
        while missing > 0 and (block := next(self._blocks, b"")):
            pieces.append(block)
            missing -= len(block)
        whole = b"".join(pieces)
        self._rest = whole[size:]
        return whole[:size]

    def close(self) -> None:
        """Let go of the file."""
        self._blocks.close()
