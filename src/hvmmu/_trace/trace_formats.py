"""The trace formats that are built in: what each is, and its reader only where a file needs it."""

from __future__ import annotations

from typing import TYPE_CHECKING

from hvmmu._trace.magic import is_hvt_head

if TYPE_CHECKING:
    from pathlib import Path

    from hvmmu._trace.hvt import HvtTrace
    from hvmmu._trace.lackey import LackeyTrace


# As PNG's: a transfer that changes line ends, or cuts the eighth bit, is seen at once.
class Hvt:
    """The format of compact traces."""

    name = "hvt"
    summary = "the compact trace that `hvmmu trace import` writes"

    @staticmethod
    def recognises(path: Path, head: bytes) -> bool:
        """Return whether the file starts as one does, damaged by a transfer or not."""
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
    """Lackey's traces; what nobody else reads is taken for one, and refused by line."""

    name = "lackey"
    summary = "what valgrind prints with --tool=lackey --trace-mem=yes"

    @staticmethod
    def recognises(path: Path, head: bytes) -> bool:
        """Return True: a file that is no such trace gets the message that says why."""
        del path, head
        return True

    @staticmethod
    def open(path: Path, limit: int | None) -> LackeyTrace:
        """Return the trace in a file; raise TraceError if its start is none."""
        from hvmmu._trace.lackey import LackeyTrace  # noqa: PLC0415 - as above

        trace = LackeyTrace(path, limit)
        trace.check()
        return trace
