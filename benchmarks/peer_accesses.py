"""The first accesses of a compact trace, for peers that are fed from memory."""

from __future__ import annotations

from array import array
from typing import TYPE_CHECKING

from hvmmu._trace.grammar import STRADDLES
from hvmmu._trace.hvt.reader import opened

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

UNMARKED = bytes(kind & ~STRADDLES for kind in range(256))


def accesses(trace: Path, most: int) -> tuple[array[int], array[int], int]:
    """Return addresses and kinds of *most* accesses or a window more, and their references."""
    gva, kind, references = array("Q"), array("B"), 0
    for more_gva, more_kind in _windows(trace):
        gva += more_gva
        marked = more_kind.tobytes()
        plain = marked.translate(UNMARKED)
        references += sum(map(int.__eq__, marked, plain))
        kind.frombytes(plain)
        if len(gva) >= most:
            break
    return gva, kind, references


def _windows(trace: Path) -> Iterator[tuple[array[int], array[int]]]:
    with opened(trace) as file:
        for chunk in file.chunks():
            yield from chunk.windows()
