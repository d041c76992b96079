"""The reduction in C where it was built, in Python elsewhere: the same files, other times."""

from __future__ import annotations

from typing import TYPE_CHECKING

from hvmmu.workloads.hvt.reduction import (
    DamagedError,
    PythonReducer,
    Reducer,
    Sites,
    python_expand,
)

try:
    from hvmmu.workloads import compiled
except ImportError:  # no compiler where this was installed
    compiled = None  # type: ignore[assignment]

if TYPE_CHECKING:
    from array import array

    from hvmmu.guest.steps import Words
    from hvmmu.types import Buffer


def make_reducer() -> Reducer:
    """Return an empty chunk in the making."""
    return PythonReducer() if compiled is None else compiled.CompiledReducer()


def expand(
    tokens: Buffer, kept: Words, sites: Sites, room: int, *, first: int, mark: int
) -> tuple[array[int], array[int], int]:
    """Return all accesses of a window, as `python_expand` does; raise DamagedError."""
    if compiled is None:
        return python_expand(memoryview(tokens), kept, sites, room, first=first, mark=mark)
    wrong, made = compiled.expand(tokens, kept, (sites.gva, sites.kind), room, first, mark)
    if wrong:
        raise DamagedError(wrong)
    return made


def within(gva: Words, start: int, end: int) -> bool:
    """Return whether all addresses are in start..end."""
    if compiled is not None:
        return compiled.within(gva, start, end)
    return not gva or (min(gva) >= start and max(gva) < end)


def most(kept: Words) -> int:
    """Return the highest of these 16-bit numbers, 0 if there are none."""
    return max(kept, default=0) if compiled is None else compiled.most(kept)
