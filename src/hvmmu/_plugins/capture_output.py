"""Capture what a plugin prints while it is loaded: our own output may be a JSON document."""

import io
import sys
from collections.abc import Iterator
from contextlib import contextmanager

from hvmmu.params import printable


class CapturedOutput(io.BytesIO):
    """Bytes that stay readable after the stream over them is closed."""

    def close(self) -> None:
        """Do nothing."""

    @property
    def text(self) -> str:
        """Return what was printed, as one line of bounded length."""
        return printable(" ".join(self.getvalue().decode("utf-8", "replace").split()))


@contextmanager
def captured_output() -> Iterator[CapturedOutput]:
    """Capture stdout and stderr; stdin is empty.

    These are full text streams, with `buffer` and `reconfigure`: what works on a terminal works.
    """
    printed = CapturedOutput()
    stream = io.TextIOWrapper(printed, "utf-8", "backslashreplace", write_through=True)
    before = sys.stdin, sys.stdout, sys.stderr
    sys.stdin, sys.stdout, sys.stderr = io.StringIO(), stream, stream
    try:
        yield printed
    finally:
        sys.stdin, sys.stdout, sys.stderr = before
