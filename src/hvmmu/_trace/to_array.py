"""Arrays that are copies of C's columns."""

from __future__ import annotations

from array import array
from typing import Any

from hvmmu._core.binding import ffi


def to_array(code: str, column: Any, count: int) -> array[int]:  # noqa: ANN401 - an array of cffi's
    """Return the first *count* elements of *column* as an array of this format."""
    made = array(code)
    made.frombytes(ffi.buffer(column, count * made.itemsize))
    return made
