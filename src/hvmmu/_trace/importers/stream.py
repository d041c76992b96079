"""A trace that is read once, from a file or a pipe; and references made into accesses."""

from __future__ import annotations

from array import array
from typing import IO, TYPE_CHECKING

from hvmmu._trace.codec import blocks, unpacked
from hvmmu._trace.grammar import STRADDLES
from hvmmu._trace.tracefile import reference_error
from hvmmu.errors import TraceError
from hvmmu.types import PAGE_SIZE

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

LONGEST_LINE = 4096
BATCH = 1 << 14
"""References made into accesses at a time."""


class Stream:
    """The bytes of a trace, unpacked, from *path* or from *file*, a pipe.

    `path` is None for what can be read only once.
    """

    def __init__(self, path: Path | None, file: IO[bytes] | None, name: str) -> None:
        self.name = name
        assert (path is None) != (file is None)  # one of them is the trace
        self.path = path if path is not None and path.is_file() else None
        self._blocks = blocks(path, once=True) if path is not None else unpacked(file, name)  # type: ignore[arg-type]
        self.head = next(self._blocks, b"")
        if not self.head:
            raise self.error(None, "is empty, once unpacked", "check what made it")

    def blocks(self) -> Iterator[bytes]:
        """Yield all bytes, once."""
        yield self.head
        yield from self._blocks

    def lines(self) -> Iterator[tuple[int, list[bytes]]]:
        """Yield whole lines with the number of the first of them, from 1."""
        number, tail = 1, b""
        for block in self.blocks():
            lines = (tail + block).split(b"\n")
            long = next((i for i, line in enumerate(lines) if len(line) > LONGEST_LINE), None)
            if long is not None:
                what = f"a line of over {LONGEST_LINE} bytes"
                raise self.error(number + long, what, "give a text trace")
            tail = lines.pop()
            yield number, lines
            number += len(lines)
        if tail:
            yield number, [tail]

    def error(self, line: int | None, what: str, todo: str) -> TraceError:
        """Return the error for what is wrong at a line, or in all."""
        return TraceError(self.name, line, what, todo)


class References:
    """References in order, made into accesses: one for each page."""

    def __init__(self) -> None:
        self.gva, self.kind = array("Q"), array("B")

    def add(self, kind: int, gva: int, size: int) -> None:
        """Add a reference of *size* bytes; raise ValueError for one that is not a program's."""
        problem = reference_error(gva, size)
        if problem is not None:
            raise ValueError(problem[0])
        self.gva.append(gva)
        self.kind.append(kind)
        if gva % PAGE_SIZE + size > PAGE_SIZE:
            self.gva.append((gva | (PAGE_SIZE - 1)) + 1)
            self.kind.append(kind | STRADDLES)
