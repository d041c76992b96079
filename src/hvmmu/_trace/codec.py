"""Files as bounded blocks of bytes, plain or compressed: gzip, xz and zstd, told by magic bytes.

Decoders are asked for so many bytes at a time and no more: a small file that unpacks to a
terabyte costs time, never memory.
"""

from __future__ import annotations

import importlib
import stat
import sys
import zlib
from functools import cache
from typing import IO, TYPE_CHECKING, Any, Protocol, cast

from attrs import frozen

from hvmmu.errors import TraceError
from hvmmu.params import printable

if TYPE_CHECKING:
    from collections.abc import Callable, Generator, Iterator
    from pathlib import Path

    from hvmmu.types import Buffer

ZSTD_MAGIC = b"\x28\xb5\x2f\xfd"
BLOCK = 1 << 18
"""Bytes of text in one block, at most."""

HEAD = 4096
"""Bytes of text by which a trace's format is recognised."""

BOM = b"\xef\xbb\xbf"
"""The byte order mark of UTF-8, which some editors put before a text."""

_CHUNK = 1 << 16
# xz -9 needs 65 MiB to unpack; a dictionary beyond this is an attack or a mistake.
_XZ_MEMORY = 256 << 20
# zstd's own default for what a decoder accepts: a window of 128 MiB.
_ZSTD_WINDOW = 27
# xz at preset 6 writes traces a tenth smaller, in four times the time; recording waits for it.
_XZ_PRESET, _GZIP_LEVEL, _ZSTD_LEVEL = 3, 6, 9


class _Decoder(Protocol):
    @property
    def eof(self) -> bool: ...
    @property
    def needs_input(self) -> bool: ...
    @property
    def unused_data(self) -> bytes: ...
    def decompress(self, data: Buffer, max_length: int) -> bytes: ...


class _Gunzip:
    """zlib's decoder in the shape that the other two have."""

    def __init__(self) -> None:
        self._inflate = zlib.decompressobj(wbits=16 + zlib.MAX_WBITS)

    @property
    def eof(self) -> bool:
        return self._inflate.eof

    @property
    def needs_input(self) -> bool:
        return not self._inflate.unconsumed_tail

    @property
    def unused_data(self) -> bytes:
        return self._inflate.unused_data

    def decompress(self, data: Buffer, max_length: int) -> bytes:
        return self._inflate.decompress(self._inflate.unconsumed_tail + data, max_length)


def _unxz() -> _Decoder:
    import lzma  # noqa: PLC0415 - only where a file is packed so

    return lzma.LZMADecompressor(lzma.FORMAT_XZ, memlimit=_XZ_MEMORY)


def _xz_damage() -> type[Exception]:
    import lzma  # noqa: PLC0415 - as above

    return lzma.LZMAError


@cache
def _zstd() -> Any:  # noqa: ANN401  # one module under two names, the old one without types
    return importlib.import_module(
        "compression.zstd" if sys.version_info >= (3, 14) else "backports.zstd"
    )


def _unzstd() -> _Decoder:
    zstd = _zstd()
    most = {zstd.DecompressionParameter.window_log_max: _ZSTD_WINDOW}
    return cast("_Decoder", zstd.ZstdDecompressor(options=most))


@frozen(eq=False)
class _Format:
    name: str
    suffix: str
    magic: bytes
    decoder: Callable[[], _Decoder]
    damage: Callable[[], type[Exception]]
    writer: Callable[[IO[bytes]], IO[bytes]]


def _gzip_writer(file: IO[bytes]) -> IO[bytes]:
    import gzip  # noqa: PLC0415 - as above

    # Neither name nor time: the same trace gives the same bytes.
    return cast(
        "IO[bytes]", gzip.GzipFile("", "wb", compresslevel=_GZIP_LEVEL, fileobj=file, mtime=0)
    )


def _xz_writer(file: IO[bytes]) -> IO[bytes]:
    import lzma  # noqa: PLC0415 - as above

    return lzma.LZMAFile(file, "wb", preset=_XZ_PRESET)


def _zstd_writer(file: IO[bytes]) -> IO[bytes]:
    return cast("IO[bytes]", _zstd().ZstdFile(file, "wb", options=_with_checksum(_ZSTD_LEVEL)))


def _with_checksum(level: int) -> dict[Any, int]:
    """Return the options of a zstd stream that holds a checksum of its content: xz and gzip do."""
    parameter = _zstd().CompressionParameter
    return {parameter.compression_level: level, parameter.checksum_flag: 1}


_FORMATS = (
    _Format("xz", ".xz", b"\xfd7zXZ\0", _unxz, _xz_damage, _xz_writer),
    _Format("gzip", ".gz", b"\x1f\x8b", _Gunzip, lambda: zlib.error, _gzip_writer),
    _Format(
        "zstd",
        ".zst",
        ZSTD_MAGIC,
        _unzstd,
        lambda: cast("type[Exception]", _zstd().ZstdError),
        _zstd_writer,
    ),
)
SUFFIXES = tuple(fmt.suffix for fmt in _FORMATS)
"""The endings of a file name that ask `writer` for compression."""

_FOREIGN = (
    (b"\x7fELF", "a program or library (ELF)"),
    (b"PERFILE2", "a recording of perf"),
    (b"BZh", "compressed with bzip2, which hvmmu does not read"),
    (b"PK\x03\x04", "a zip archive"),
    (b"7z\xbc\xaf", "a 7z archive"),
)
_RECORD = "record a trace with `hvmmu record -o FILE -- COMMAND`"
_TAR_MAGIC = slice(257, 262)
_UTF_16 = (b"\xff\xfe", b"\xfe\xff")
_AGAIN = "copy or record the file again"


_ZSTD_COLUMN_LEVEL = 6


def zstd_pack(plain_bytes: bytes) -> bytes:
    """Return *plain_bytes* as one zstd frame, with a checksum of them."""
    options = _with_checksum(_ZSTD_COLUMN_LEVEL)
    return cast("bytes", _zstd().compress(plain_bytes, options=options))


def zstd_unpack(frame: Buffer, most: int) -> bytes | None:
    """Return what one zstd frame holds if that is *most* bytes or fewer, else None."""
    decoder = _unzstd()
    damage = _zstd().ZstdError
    try:
        found = decoder.decompress(frame, most + 1)
    except damage:
        return None
    return found if len(found) <= most and decoder.eof and not decoder.unused_data else None


def writer(file: IO[bytes], suffix: str) -> IO[bytes] | None:
    """Return a compressing file over *file* for one of `SUFFIXES`, or None for any other suffix.

    Closing it ends the stream and leaves *file* open.
    """
    return next((fmt.writer(file) for fmt in _FORMATS if fmt.suffix == suffix), None)


def blocks(path: Path, *, once: bool = False) -> Generator[bytes, None, None]:
    """Yield a regular file's text, unpacked if need be, in blocks of at most `BLOCK` bytes.

    A named pipe will do where it is read only *once*.
    Raise TraceError for a file that cannot be read, is empty, is packed in a way not known here,
    or whose compressed stream is damaged or cut short.
    """
    try:
        mode = path.stat().st_mode
        if not (stat.S_ISREG(mode) or (once and stat.S_ISFIFO(mode))):
            raise _not_a_file(path)
        with path.open("rb") as file:
            yield from _unpacked(file, printable(str(path)))
    except (OSError, ValueError) as error:
        why = getattr(error, "strerror", None) or str(error)
        raise TraceError(
            printable(str(path)), None, f"cannot be read: {why}", "check the path"
        ) from None


def head(path: Path) -> bytes:
    """Return a file's first `HEAD` bytes, unpacked if need be; packed in a way not known: as is.

    Empty for what cannot be read and what is no regular file: `blocks` says what is wrong with it.
    """
    try:
        if not stat.S_ISREG(path.stat().st_mode):
            return b""
        with path.open("rb") as file:
            raw = file.read(HEAD)
    except (OSError, ValueError):
        return b""
    try:
        return next(blocks(path))[:HEAD]
    except (StopIteration, TraceError):
        return raw


def _not_a_file(path: Path) -> TraceError:
    if path.is_dir():
        return TraceError(printable(str(path)), None, "is a directory", "name a trace file in it")
    what = "is a pipe or a device, and a trace is read more than once"
    return TraceError(printable(str(path)), None, what, "save it to a file first")


def unpacked(file: IO[bytes], name: str) -> Iterator[bytes]:
    """Yield what an open file or pipe holds, as `blocks` does; messages call it *name*."""
    try:
        yield from _unpacked(file, name)
    except OSError as error:
        raise TraceError(name, None, f"cannot be read: {error.strerror}", "try again") from None


def _unpacked(file: IO[bytes], name: str) -> Iterator[bytes]:
    head = file.read(_CHUNK)
    if not head:
        raise TraceError(name, None, "is empty", _RECORD)
    for magic, what in _FOREIGN:
        if head.startswith(magic):
            raise TraceError(name, None, f"is {what}, not a trace", _RECORD)
    for fmt in _FORMATS:
        if head.startswith(fmt.magic):
            text = _decoded(file, head, fmt, name)
            first = next(text, b"")
            _refuse_wrapped(first, name)
            yield first
            yield from text
            return
    _refuse_wrapped(head, name)
    while head:
        yield head
        head = file.read(BLOCK)


def _refuse_wrapped(text: bytes, name: str) -> None:
    """Raise TraceError for what must be unpacked once more, or is in another encoding."""
    inner = next((fmt.name for fmt in _FORMATS if text.startswith(fmt.magic)), None)
    if inner is not None:
        raise TraceError(name, None, "is compressed twice", f"decompress it; {inner} is inside")
    if text[_TAR_MAGIC] == b"ustar":
        raise TraceError(name, None, "is a tar archive", "unpack it, and name a trace in it")
    if text.startswith(_UTF_16):
        raise TraceError(name, None, "is UTF-16 text", "convert it to UTF-8")


def _decoded(file: IO[bytes], chunk: bytes, fmt: _Format, name: str) -> Iterator[bytes]:
    """Yield the text of one stream after another, as `cat a.xz b.xz` makes them."""
    damage = fmt.damage()
    while chunk:
        decoder = fmt.decoder()
        while not decoder.eof:
            try:
                block = decoder.decompress(chunk, BLOCK)
            except damage as error:
                what = f"its {fmt.name} stream is damaged ({error})"
                raise TraceError(name, None, what, _AGAIN) from None
            if block:
                yield block
            chunk = file.read(_CHUNK) if decoder.needs_input and not decoder.eof else b""
            if not (chunk or block or decoder.eof):
                raise TraceError(name, None, f"its {fmt.name} stream is cut short", _AGAIN)
        # Between streams there may be padding of zero bytes.
        chunk = decoder.unused_data.lstrip(b"\0")
        while not chunk and (more := file.read(_CHUNK)):
            chunk = more.lstrip(b"\0")
