"""The bytes of an .hvt file: read in order, but for what may never be asked for."""

from __future__ import annotations

import contextlib
import os
import stat
from typing import TYPE_CHECKING, Protocol

from hvmmu._trace.codec import blocks
from hvmmu._trace.hvt.layout import HEADER_SIZE
from hvmmu._trace.magic import is_hvt_head

if TYPE_CHECKING:
    from pathlib import Path

    from hvmmu.types import Buffer


class Stored(Protocol):
    """A part of a file, of which slices can be had, in whatever order, as long as it is held."""

    def __getitem__(self, part: slice, /) -> Buffer:
        """Return these bytes; fewer where the file has become shorter."""
        ...


class FileBytes(Protocol):
    """A file's bytes, so many at a time."""

    def read(self, size: int) -> memoryview:
        """Return *size* bytes, fewer at the end.

        They start on a multiple of eight if all that were read are multiples of eight.
        """
        ...

    def later(self, size: int) -> Stored | None:
        """Return the next *size* bytes, unread if that can be; None if there are fewer."""
        ...

    def close(self) -> None:
        """Read no more."""
        ...


def opened_file(path: Path) -> FileBytes:
    """Return a file to be read; `Packed` says what is wrong with one that cannot be."""
    with contextlib.suppress(OSError, ValueError):
        if stat.S_ISREG(path.stat().st_mode):
            file = _Descriptor(path)
            if is_hvt_head(file.read(0, HEADER_SIZE)):
                return _Plain(file)
    return _Packed(path)


class _Descriptor:
    """An open file, for as long as anybody may want something of it."""

    def __init__(self, path: Path) -> None:
        self._fd = -1
        self._fd = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
        self.size = os.fstat(self._fd).st_size

    def read(self, at: int, size: int) -> bytes:
        """Return the bytes from *at* on; fewer at the end, or where they cannot be read."""
        with contextlib.suppress(OSError):
            return os.pread(self._fd, min(size, max(self.size - at, 0)), at)
        return b""

    def __del__(self) -> None:
        if self._fd >= 0:
            os.close(self._fd)


class _Plain:
    """The bytes of a file that is not packed."""

    def __init__(self, file: _Descriptor) -> None:
        self._file: _Descriptor | None = file
        self._at = 0

    def read(self, size: int) -> memoryview:
        """Return *size* bytes, fewer at the end."""
        found = b"" if self._file is None else self._file.read(self._at, size)
        self._at += len(found)
        return memoryview(found)

    def later(self, size: int) -> Stored | None:
        """Return the next *size* bytes, to be read when they are asked for."""
        file, at = self._file, self._at
        if file is None or file.size - at < size:
            return None
        self._at += size
        return _Later(file, at, size)

    def close(self) -> None:
        """Read no more."""
        self._file = None


class _Later:
    """Bytes of a file that are read when they are asked for."""

    def __init__(self, file: _Descriptor, at: int, size: int) -> None:
        self._file, self._at, self._size = file, at, size

    def __getitem__(self, part: slice) -> bytes:
        start, end, _ = part.indices(self._size)
        return self._file.read(self._at + start, end - start)


class _Packed:
    """A packed file's bytes, unpacked."""

    def __init__(self, path: Path) -> None:
        self._blocks = blocks(path)
        self._block = memoryview(b"")

    def read(self, size: int) -> memoryview:
        """Return *size* bytes, fewer at the end; copied only where they lie in two blocks."""
        pieces, missing = [self._block[:size]], size - len(self._block)
        while missing > 0 and (block := next(self._blocks, b"")):
            self._block = memoryview(block)
            pieces.append(self._block[:missing])
            missing -= len(block)
        self._block = self._block[len(pieces[-1]) :]
        if len(pieces) > 1:
            self._block = memoryview(bytes(self._block))  # columns of numbers must be aligned
        return pieces[0] if len(pieces) == 1 else memoryview(b"".join(pieces))

    def later(self, size: int) -> Stored | None:
        """Return the next *size* bytes."""
        found = self.read(size)
        return found if len(found) == size else None

    def close(self) -> None:
        """Read no more."""
        self._blocks.close()
