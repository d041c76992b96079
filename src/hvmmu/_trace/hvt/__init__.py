"""The .hvt format: a reduced trace, with the dropped accesses in a compressed column."""

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
    """The .hvt file *path*, up to *limit* references."""

    def check(self) -> None:
        """Read as far as the first chunk; raise TraceError if the file is damaged there."""
        with contextlib.closing(HvtFile(self.path)) as file:
            next(file.chunks(), None)

    def steps(self) -> Iterator[Step]:
        """Yield one mapping of the whole user half, then the accesses, reduced.

        Raise TraceError where the file is damaged. A span that the limit cuts through comes
        unreduced.
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
