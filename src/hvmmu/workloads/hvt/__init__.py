"""The compact trace: what of a trace can change a TLB, and all the rest in a packed column."""

from __future__ import annotations

import contextlib
from array import array
from typing import TYPE_CHECKING

from hvmmu.guest.steps import Accesses, Step
from hvmmu.records import frozen
from hvmmu.workloads.hvt.reading import HvtFile
from hvmmu.workloads.hvt.reduction import SECOND
from hvmmu.workloads.tracefile import WHOLE, TraceFile

if TYPE_CHECKING:
    from collections.abc import Iterator

    from hvmmu.workloads.hvt.chunk import Chunk


@frozen
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
        end = len(kind)
        for index, k in enumerate(kind):
            if not k & SECOND:
                if not references:
                    end = index
                    break
                references -= 1
        if end:
            kinds = array("B", bytes(k & ~SECOND for k in kind[:end]))
            yield Accesses(gva[:end], kinds)
        if end < len(kind):
            return
