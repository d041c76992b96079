"""The built-in trace formats; a format's reader is imported when a file needs it."""

from __future__ import annotations

from typing import TYPE_CHECKING

from hvmmu._trace.magic import is_hvt_head
from hvmmu.errors import TraceError

if TYPE_CHECKING:
    from pathlib import Path

    from hvmmu._trace.hvt import HvtTrace
    from hvmmu._trace.lackey import LackeyTrace


# As PNG's: a transfer that changes line ends, or cuts the eighth bit, is seen at once.
class Hvt:
    """The format of reduced traces."""

    name = "hvt"
    summary = "the reduced trace that `hvmmu trace import` writes"

    @staticmethod
    def recognises(path: Path, head: bytes) -> bool:
        """Return whether the file starts like one, damaged by a transfer or not."""
        del path
        return is_hvt_head(head)

    @staticmethod
    def open(path: Path, limit: int | None) -> HvtTrace:
        """Return the trace in a file; raise TraceError if its start is none."""
        from hvmmu._trace.hvt import HvtTrace  # noqa: PLC0415 - not for another load

        trace = HvtTrace(path, limit)
        trace.check()
        return trace


class Lackey:
    """Lackey's traces; a file of no other format is read as one, and refused by line."""

    name = "lackey"
    summary = "what valgrind prints with --tool=lackey --trace-mem=yes"

    @staticmethod
    def recognises(path: Path, head: bytes) -> bool:
        """Return True: the error of a file that is no such trace says what is wrong."""
        del path, head
        return True

    @staticmethod
    def open(path: Path, limit: int | None) -> LackeyTrace:
        """Return the trace in a file; raise TraceError if its start is none."""
        from hvmmu._trace.lackey import LackeyTrace  # noqa: PLC0415 - as above

        trace = LackeyTrace(path, limit)
        try:
            trace.check()
        except TraceError as error:
            from hvmmu._trace.codec import head  # noqa: PLC0415 - only for a message
            from hvmmu._trace.importers.foreign import explained  # noqa: PLC0415 - as above

            raise explained(error, head(path)) from None
        return trace
