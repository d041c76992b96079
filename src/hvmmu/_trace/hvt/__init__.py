"""The compact trace: what of a trace can change a TLB, and all the rest in a packed column."""

from __future__ import annotations

import contextlib
from typing import TYPE_CHECKING

from attrs import frozen

from hvmmu._trace.hvt.reader import HvtFile
from hvmmu._trace.tracefile import WHOLE, TraceFile

if TYPE_CHECKING:
    from collections.abc import Iterator

    from hvmmu.steps import Step


@frozen(eq=False)
class HvtTrace(TraceFile):
    """The compact trace in the file *path*, up to *limit* references."""

    def check(self) -> None:
        """Read as far as the first chunk; raise TraceError if this is no compact trace."""
        with contextlib.closing(HvtFile(self.path)) as file:
            next(file.chunks(), None)

    def steps(self) -> Iterator[Step]:
        """Yield one mapping of the whole user half, then the accesses, reduced.

        Raise TraceError where the file is damaged. Only a last span that the limit cuts through
        comes unreduced.
        """
        yield WHOLE
        left = self.limit
        with contextlib.closing(HvtFile(self.path)) as file:
            for chunk in file.chunks():
                if left is not None and chunk.head.references > left:
                    yield from chunk.first(left)
                    return
                yield chunk.reduced()
                if left is not None:
                    left -= chunk.head.references
