"""The compact trace: what of a trace can change a TLB, and all the rest in a packed column."""

from __future__ import annotations

import contextlib
from array import array
from itertools import islice
from typing import TYPE_CHECKING

import attrs

from hvmmu.guest.steps import Accesses, Step
from hvmmu.guest.tokens import SECOND
from hvmmu.workloads.hvt.reading import HvtFile
from hvmmu.workloads.tracefile import WHOLE, TraceFile

if TYPE_CHECKING:
    from collections.abc import Iterator

    from hvmmu.workloads.hvt.chunk import Chunk


_SECONDS = bytes(k for k in range(256) if k & SECOND)
_FIRSTS = bytes(k & ~SECOND for k in range(256))
"""The kinds with SECOND set, and all kinds with it clear."""


@attrs.frozen
class HvtTrace(TraceFile):
    """The compact trace in the file *path*, up to *limit* references."""

    def check(self) -> None:
        """Read as far as the first chunk; raise TraceError if this is no compact trace."""
        with contextlib.closing(HvtFile(self.path)) as file:
            next(file.chunks(), None)

    def steps(self) -> Iterator[Step]:
        """Yield one mapping of the whole user half, then the accesses, reduced.

        Raise TraceError where the file is damaged. Only a last chunk that the limit cuts through
        comes unreduced.
        """
        yield WHOLE
        left = self.limit
        with contextlib.closing(HvtFile(self.path)) as file:
            for chunk in file.chunks():
                if left is not None and chunk.head.references > left:
                    yield from _first(chunk, left)
                    return
                yield chunk.reduced()
                if left is not None:
                    left -= chunk.head.references


def _first(chunk: Chunk, references: int) -> Iterator[Accesses]:
    """Yield the accesses of the first *references* references of a chunk, which has more.

    With 0 that is the second page of a reference that the chunk before ends with, or nothing.
    """
    for gva, kind in chunk.windows():
        kinds, end = kind.tobytes(), len(kind)
        count = len(kinds.translate(None, _SECONDS))
        if count <= references:
            references -= count
        else:
            firsts = (index for index, k in enumerate(kinds) if not k & SECOND)
            end = next(islice(firsts, references, None))
        if end:
            yield Accesses(gva[:end], array("B", kinds[:end].translate(_FIRSTS)))
        if end < len(kind):
            return
