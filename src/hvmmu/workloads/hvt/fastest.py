"""The reduction in C where it was built, in Python elsewhere: the same files, other times."""

from __future__ import annotations

from typing import TYPE_CHECKING

from hvmmu.workloads.hvt.reduction import (
    NO_SITE,
    DamagedError,
    PythonReducer,
    Reducer,
    python_expand,
    python_look_up,
)

try:
    from hvmmu.workloads import compiled
except ImportError:  # no compiler where this was installed
    compiled = None  # type: ignore[assignment]

if TYPE_CHECKING:
    from array import array

    from hvmmu.guest.steps import Words


def make_reducer() -> Reducer:
    """Return an empty chunk in the making."""
    return PythonReducer() if compiled is None else compiled.CompiledReducer()


def expand(
    tokens: bytes, gva: Words, kind: Words, room: int
) -> tuple[array[int], array[int], array[int]]:
    """Return all accesses of a window, as `python_expand` does; raise DamagedError."""
    if compiled is None:
        return python_expand(tokens, gva, kind, room)
    wrong, made = compiled.expand(tokens, gva, kind, room)
    if wrong:
        raise DamagedError(wrong)
    return made


def look_up(
    kept: array[int], site_gva: array[int], site_kind: bytes | bytearray
) -> tuple[array[int], array[int]]:
    """Return address and kind of each kept access; raise DamagedError for one of no site."""
    if compiled is None:
        return python_look_up(kept, site_gva, site_kind)
    made = compiled.look_up(kept, site_gva, site_kind)
    if made is None:
        raise DamagedError(NO_SITE)
    return made
