"""Sequential reads of an .hvt file; packed spans are read only on demand."""

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
    """A part of a file whose slices can be read in any order, as long as it is referenced."""

    def __getitem__(self, part: slice, /) -> Buffer:
        """Return these bytes; fewer if the file has become shorter."""
        ...


class FileBytes(Protocol):
    """A file's bytes, read in order."""

    def read(self, size: int) -> memoryview:
        """Return the next *size* bytes, fewer at the end."""
        ...

    def later(self, size: int) -> Stored | None:
        """Return the next *size* bytes, read on demand if possible; None if there are fewer."""
        ...

    def close(self) -> None:
        """Release the file; what `later` returned stays readable."""
        ...


def opened_file(path: Path) -> FileBytes:
    """Open a file; `_Packed` reads a compressed one, and says what is wrong with any other."""
    with contextlib.suppress(OSError, ValueError):
        if stat.S_ISREG(path.stat().st_mode):
            file = _Descriptor(path)
            if is_hvt_head(file.read(0, HEADER_SIZE)):
                return _Plain(file)
    return _Packed(path)


class _Descriptor:
    """An open file, closed when nothing refers to it any more."""

    def __init__(self, path: Path) -> None:
        self._fd = -1
        self._fd = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
        self.size = os.fstat(self._fd).st_size

    def read(self, at: int, size: int) -> bytes:
        """Return the bytes from *at* on; fewer at the end, or if they cannot be read."""
        with contextlib.suppress(OSError):
            return os.pread(self._fd, min(size, max(self.size - at, 0)), at)
        return b""

    def __del__(self) -> None:
        if self._fd >= 0:
            os.close(self._fd)


class _Plain:
    """The bytes of a file that is not compressed."""

    def __init__(self, file: _Descriptor) -> None:
        self._file: _Descriptor | None = file
        self._at = 0

    def read(self, size: int) -> memoryview:
        """Return the next *size* bytes, fewer at the end."""
        found = b"" if self._file is None else self._file.read(self._at, size)
        self._at += len(found)
        return memoryview(found)

    def later(self, size: int) -> Stored | None:
        """Return the next *size* bytes, read on demand."""
        file, at = self._file, self._at
        if file is None or file.size - at < size:
            return None
        self._at += size
        return _Later(file, at, size)

    def close(self) -> None:
        """Release the file; what `later` returned stays readable."""
        self._file = None


class _Later:
    """Bytes of a file that are read on demand."""

    def __init__(self, file: _Descriptor, at: int, size: int) -> None:
        self._file, self._at, self._size = file, at, size

    def __getitem__(self, part: slice) -> bytes:
        start, end, _ = part.indices(self._size)
        return self._file.read(self._at + start, end - start)


class _Packed:
    """A compressed file's bytes, decompressed."""

    def __init__(self, path: Path) -> None:
        self._blocks = blocks(path)
        self._block = memoryview(b"")

    def read(self, size: int) -> memoryview:
        """Return the next *size* bytes, fewer at the end."""
        pieces, missing = [self._block[:size]], size - len(self._block)
        while missing > 0 and (block := next(self._blocks, b"")):
            self._block = memoryview(block)
            pieces.append(self._block[:missing])
            missing -= len(block)
        self._block = self._block[len(pieces[-1]) :]
        return pieces[0] if len(pieces) == 1 else memoryview(b"".join(pieces))

    def later(self, size: int) -> Stored | None:
        """Return the next *size* bytes."""
        found = self.read(size)
        return found if len(found) == size else None

    def close(self) -> None:
        """Release the file; what `later` returned stays readable."""
        self._blocks.close()
