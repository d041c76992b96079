"""How an .hvt file lies on the disk: one header, then chunks of columns, little-endian, aligned.

A chunk's columns, each on a multiple of eight bytes: of new sites the slot (u16), address (u64)
and kind (u8); by span, the number of references, of kept accesses and of bytes of frames up to its
end (u32 each); the kept accesses (u16, a site each); the spans' frames, each packed with zstd or
plain with a CRC-32 behind it.
"""

from __future__ import annotations

import struct
import sys
import zlib
from typing import TYPE_CHECKING, Any, NamedTuple

from hvmmu._trace.codec import ZSTD_MAGIC, zstd_unpack
from hvmmu._trace.magic import HVT_MAGIC as MAGIC
from hvmmu._trace.magic import is_hvt_head
from hvmmu._trace.tokens import MOST_FRAME, SETS, SPAN_WINDOWS, WAYS, WINDOW, DamagedError
from hvmmu.steps import SITES

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
SPAN = SPAN_WINDOWS * WINDOW
"""Accesses in a span, but for a chunk's last one."""
SPANS = 256
"""Spans in a chunk, at most."""
MOST_ACCESSES = SPANS * SPAN
PLAIN_SHARE = 5
"""Accesses of a chunk for each byte of frames that are not packed, at least."""
MOST_PLAIN = MOST_ACCESSES // PLAIN_SHARE
MOST_WORDS = 4096
"""Bytes of provenance, at most."""
HEADER_SIZE = _HEADER.size
COUNTS = struct.Struct("<III")
"""A chunk's accesses, references, and sites listed before it: digested after its spans' frames."""
DIGESTED = (0, 1, 2, 3, 4, 6)
"""The columns that are digested after these: how frames are packed makes no other trace."""


class Header(NamedTuple):
    """What a whole trace comes to."""

    window: int
    span: int
    sets: int
    ways: int
    chunks: int
    references: int
    accesses: int
    near: int
    """Accesses that the windows' filters keep."""
    kept: int
    """Those of them that the spans' filters keep."""
    fetches: int
    writes: int
    pages: int
    """Distinct pages of 4 KiB."""
    most_chunk: int
    """Bytes of the largest chunk, its head included."""
    sha256: bytes
    """Digest of every chunk's counts and columns, frames unpacked, in order."""
    words: str
    """Where the trace came from: lines of key=value."""

    @property
    def reads(self) -> int:
        """Accesses that neither write nor fetch."""
        return self.accesses - self.fetches - self.writes

    def pack(self) -> bytes:
        """Return it as bytes, a multiple of eight."""
        words = self.words.encode()
        size = padded(_HEADER.size + len(words))
        filters, numbers = self[:4], self[4:13]
        head = _HEADER.pack(
            MAGIC, VERSION, _BYTE_ORDER, size, *filters, len(words), *numbers, self.sha256
        )
        return (head + words).ljust(size, b"\0")


def header_start(head: bytes) -> tuple[int, tuple[Any, ...], bytes]:
    """Return from a file's first HEADER_SIZE bytes: size of words, numbers, digest.

    Raise DamagedError for a header that is none, or of another version.
    """
    if is_hvt_head(head) and not head.startswith(MAGIC[: len(head)]):
        raise DamagedError("was changed on its way, as by a transfer in text mode")
    if len(head) < _HEADER.size:
        raise DamagedError("the file is cut short")
    fields = _HEADER.unpack(head[: _HEADER.size])
    _, version, order, size, *filters, words = fields[:9]
    *numbers, digest = fields[9:]
    if order != _BYTE_ORDER:
        raise DamagedError("has its bytes in an unknown order")
    if version != VERSION:
        raise DamagedError(f"is of version {version}, and this hvmmu reads version {VERSION}")
    if words > MOST_WORDS or size != padded(_HEADER.size + words):
        raise DamagedError("has a damaged header")
    return words, (*filters, *numbers), digest


def read_header(head: bytes, words: bytes) -> Header:
    """Return the header of HEADER_SIZE bytes and the *words* behind it; raise DamagedError."""
    _, numbers, digest = header_start(head)
    fields: tuple[Any, ...] = (*numbers, digest, words.decode("utf-8", "replace"))
    made = Header(*fields)
    if (made.window, made.span, made.sets, made.ways) != (WINDOW, SPAN, SETS, WAYS):
        raise DamagedError("was reduced in a way that this hvmmu does not know")
    if not made.references:
        raise DamagedError("holds no references")
    return made


class ChunkHead(NamedTuple):
    """What a chunk holds."""

    accesses: int
    references: int
    fetches: int
    writes: int
    sites: int
    """Sites that it lists."""
    known: int
    """How many the chunks before have listed."""
    near: int
    kept: int
    packed: int
    """Bytes of frames as they are packed."""
    crc: int
    """CRC-32 of the columns before the frames, as they lie there."""
    frames_crc: int
    """CRC-32 of the frames, for who reads all of them; each has a checksum of what it holds."""

    @property
    def spans(self) -> int:
        """Spans, of which the last may be short."""
        return -(-self.accesses // SPAN)

    @property
    def columns(self) -> tuple[int, ...]:
        """Return the size of each column before the frames in bytes, before padding."""
        ends = 4 * self.spans
        sites = 2 * self.sites, 8 * self.sites, self.sites
        return *sites, ends, ends, ends, 2 * self.kept

    def pack(self) -> bytes:
        """Return it as CHUNK_SIZE bytes."""
        return _CHUNK.pack(_CHUNK_MAGIC, *self)


def read_chunk_head(head: bytes) -> ChunkHead:
    """Return the head of a chunk; raise DamagedError if it is none, or holds more than may be."""
    magic, *numbers = _CHUNK.unpack(head)
    made = ChunkHead(*numbers)
    possible = (
        magic == _CHUNK_MAGIC
        and 0 < made.accesses <= MOST_ACCESSES
        # The first access may be the second page of a reference in the chunk before.
        and made.accesses - 1 <= 2 * made.references <= 2 * made.accesses
        and made.fetches + made.writes <= made.accesses
        and made.sites <= min(made.near, SITES)
        and made.kept <= made.near <= made.accesses
        and made.packed <= 2 * MOST_FRAME * made.spans
    )
    if not possible:
        raise DamagedError("its head is damaged")
    return made


def plain_frame(frame: bytes) -> bytes:
    """Return a frame that is not packed as it lies in a file.

    It is never taken for a packed one: no window has as many accesses as zstd's magic would tell.
    """
    return frame + struct.pack("<I", zlib.crc32(frame))


def unpacked_frame(stored: Buffer) -> bytes | None:
    """Return the frame in what a file has of it, or None if it is damaged."""
    stored = memoryview(stored)
    if stored[:4] == ZSTD_MAGIC:
        return zstd_unpack(stored, MOST_FRAME)
    frame, crc = stored[:-4], stored[-4:]
    if len(crc) < 4 or zlib.crc32(frame) != int.from_bytes(crc, "little"):
        return None
    return bytes(frame)


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
