"""The reduction in C where it was built, in Python elsewhere: the same files, other times."""

from __future__ import annotations

from typing import TYPE_CHECKING

from hvmmu.workloads.hvt.reduction import PythonReducer, Reducer

try:
    from hvmmu.workloads import compiled
except ImportError:  # no compiler where this was installed
    compiled = None  # type: ignore[assignment]

if TYPE_CHECKING:
    from hvmmu.guest.steps import Words


def make_reducer() -> Reducer:
    """Return an empty chunk in the making."""
    return PythonReducer() if compiled is None else compiled.CompiledReducer()


def within(gva: Words, start: int, end: int) -> bool:
    """Return whether all addresses are in start..end."""
    if compiled is not None:
        return compiled.within(gva, start, end)
    return not gva or (min(gva) >= start and max(gva) < end)


def are_listed(kept: Words, site_kind: bytearray) -> bool:
    """Return whether all sites that *kept* names have a kind, as those have that are listed."""
    if compiled is not None:
        return compiled.are_listed(kept, site_kind)
    return all(site_kind[site] for site in set(kept))
