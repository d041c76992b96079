"""The layout of an .hvt file: a header, then chunks of columns, little-endian.

A chunk's columns start at multiples of eight bytes: for each newly listed pair of page and kind its
slot (u16), address (u64) and kind (u8); for each span the references, the kept accesses and the
bytes of packed spans up to its end (u32 each); the kept accesses (u16, a page slot each); the
packed spans, each a zstd frame, or plain with a CRC-32 behind it.
"""

from __future__ import annotations

import struct
import sys
import zlib
from typing import TYPE_CHECKING, Any, NamedTuple

from hvmmu._trace.codec import ZSTD_MAGIC, zstd_unpack
from hvmmu._trace.grammar import MOST_STORED, SETS, SPAN, WAYS, WINDOW
from hvmmu._trace.magic import HVT_MAGIC as MAGIC
from hvmmu._trace.magic import is_hvt_head
from hvmmu.types import PAGE_SLOTS

if TYPE_CHECKING:
    from array import array

    from hvmmu.types import Buffer

VERSION = 3
_BYTE_ORDER = 0x0102
"""Reads as 0x0201 where bytes are swapped."""
_HEADER = struct.Struct("<8sHHIIIHHI9Q32s")
_CHUNK = struct.Struct("<4s11I16x")
_CHUNK_MAGIC = b"HVTC"
CHUNK_SIZE = _CHUNK.size
SPANS = 256
"""Spans in a chunk, at most."""
MOST_ACCESSES = SPANS * SPAN
PLAIN_SHARE = 5
"""Accesses of a chunk for each byte of its spans that are not compressed, at least."""
MOST_PLAIN = MOST_ACCESSES // PLAIN_SHARE
MOST_PROVENANCE = 4096
"""Bytes of provenance, at most."""
HEADER_SIZE = _HEADER.size
COUNTS = struct.Struct("<III")
"""A chunk's accesses, references, and pairs listed before it: digested after its spans."""
DIGESTED = (0, 1, 2, 3, 4, 6)
"""The columns digested after these; how spans are packed makes no difference to a trace."""


class DamagedError(Exception):
    """Content that no writer makes; the message says what is wrong."""


class Header(NamedTuple):
    """Totals of a trace, and where it came from."""

    window: int
    span: int
    sets: int
    ways: int
    chunks: int
    references: int
    accesses: int
    window_kept: int
    """Accesses that the window filter keeps."""
    span_kept: int
    """Those of them that the span filter keeps."""
    fetches: int
    writes: int
    pages: int
    """Distinct pages of 4 KiB."""
    most_chunk: int
    """Bytes of the largest chunk, its head included."""
    sha256: bytes
    """Digest of every chunk's spans, decompressed, counts and columns, in order."""
    provenance: str
    """Where the trace came from: lines of key=value."""

    @property
    def reads(self) -> int:
        """Accesses that neither write nor fetch."""
        return self.accesses - self.fetches - self.writes

    def pack(self) -> bytes:
        """Return it as bytes, a multiple of eight."""
        text = self.provenance.encode()
        size = padded(_HEADER.size + len(text))
        filters, numbers = self[:4], self[4:13]
        head = _HEADER.pack(
            MAGIC, VERSION, _BYTE_ORDER, size, *filters, len(text), *numbers, self.sha256
        )
        return (head + text).ljust(size, b"\0")


def header_start(head: bytes) -> tuple[int, tuple[Any, ...], bytes]:
    """Return the length of the provenance in bytes, the numbers, and the digest.

    *head* is a file's first HEADER_SIZE bytes. Raise DamagedError for a damaged header and for one
    of another version.
    """
    if is_hvt_head(head) and not head.startswith(MAGIC[: len(head)]):
        raise DamagedError("was changed on its way, as by a transfer in text mode")
    if len(head) < _HEADER.size:
        raise DamagedError("the file is cut short")
    fields = _HEADER.unpack(head[: _HEADER.size])
    _, version, order, size, *filters, provenance = fields[:9]
    *numbers, digest = fields[9:]
    if order != _BYTE_ORDER:
        raise DamagedError("has its bytes in an unknown order")
    if version != VERSION:
        raise DamagedError(f"is of version {version}, and this hvmmu reads version {VERSION}")
    if provenance > MOST_PROVENANCE or size != padded(_HEADER.size + provenance):
        raise DamagedError("has a damaged header")
    return provenance, (*filters, *numbers), digest


def read_header(head: bytes, provenance: bytes) -> Header:
    """Return the header of HEADER_SIZE bytes and the *provenance* behind it; raise DamagedError."""
    _, numbers, digest = header_start(head)
    fields: tuple[Any, ...] = (*numbers, digest, provenance.decode("utf-8", "replace"))
    made = Header(*fields)
    if (made.window, made.span, made.sets, made.ways) != (WINDOW, SPAN, SETS, WAYS):
        raise DamagedError("was reduced with other filters than this hvmmu has")
    if not made.references:
        raise DamagedError("holds no references")
    return made


class ChunkHead(NamedTuple):
    """The counts and checksums of a chunk."""

    accesses: int
    references: int
    fetches: int
    writes: int
    listed: int
    """Pairs of page and kind that it lists."""
    listed_before: int
    """Pairs that the chunks before it list."""
    window_kept: int
    span_kept: int
    packed: int
    """Bytes of packed spans."""
    crc: int
    """CRC-32 of the columns before the packed spans, padding included."""
    packed_crc: int
    """CRC-32 of the packed spans, for readers of all of them; each has a checksum of its own."""

    @property
    def spans(self) -> int:
        """Spans, of which the last may be short."""
        return -(-self.accesses // SPAN)

    @property
    def columns(self) -> tuple[int, ...]:
        """Return the bytes of each column before the packed spans, padding not included."""
        ends = 4 * self.spans
        pairs = 2 * self.listed, 8 * self.listed, self.listed
        return *pairs, ends, ends, ends, 2 * self.span_kept

    def pack(self) -> bytes:
        """Return it as CHUNK_SIZE bytes."""
        return _CHUNK.pack(_CHUNK_MAGIC, *self)


def read_chunk_head(head: bytes) -> ChunkHead:
    """Return the head of a chunk; raise DamagedError for counts that cannot be."""
    magic, *numbers = _CHUNK.unpack(head)
    made = ChunkHead(*numbers)
    possible = (
        magic == _CHUNK_MAGIC
        and 0 < made.accesses <= MOST_ACCESSES
        # The first access may be the second page of a reference in the chunk before.
        and made.accesses - 1 <= 2 * made.references <= 2 * made.accesses
        and made.fetches + made.writes <= made.accesses
        and made.listed <= min(made.window_kept, PAGE_SLOTS)
        and made.span_kept <= made.window_kept <= made.accesses
        and made.packed <= 2 * MOST_STORED * made.spans
    )
    if not possible:
        raise DamagedError("its head is damaged")
    return made


def uncompressed(stored: bytes) -> bytes:
    """Return a span as a file has it that is not compressed.

    It cannot start like a zstd frame: the magic would be a window of too many accesses.
    """
    return stored + struct.pack("<I", zlib.crc32(stored))


def decompressed(packed: Buffer) -> bytes | None:
    """Return the stored span in *packed*, or None if that is damaged."""
    packed = bytes(packed)
    if packed.startswith(ZSTD_MAGIC):
        return zstd_unpack(packed, MOST_STORED)
    stored, crc = packed[:-4], packed[-4:]
    if len(crc) < 4 or zlib.crc32(stored) != int.from_bytes(crc, "little"):
        return None
    return stored


def padded(size: int) -> int:
    """Return *size* rounded up to a multiple of eight."""
    return size + 7 & -8


def column(values: array[int]) -> bytes:
    """Return a column's bytes, little-endian and padded."""
    if sys.byteorder == "big":  # pragma: no cover - no such machine to test on
        values = values[:]
        values.byteswap()
    plain = values.tobytes()
    return plain.ljust(padded(len(plain)), b"\0")
