"""The reduction in C where it was built, in Python elsewhere: the same files, other times."""

from __future__ import annotations

from typing import TYPE_CHECKING

from hvmmu._trace.hvt.reduction import PythonReducer, Reducer

try:
    from hvmmu._trace import reduce as compiled
except ImportError:  # no compiler where this was installed
    compiled = None  # type: ignore[assignment]

if TYPE_CHECKING:
    from hvmmu._trace.tokens import Sites
    from hvmmu.steps import Words


def make_reducer() -> Reducer:
    """Return an empty chunk in the making."""
    return PythonReducer() if compiled is None else compiled.CompiledReducer()


def within(gva: Words, start: int, end: int) -> bool:
    """Return whether all addresses are in start..end."""
    if compiled is not None:
        return compiled.within(gva, start, end)
    return not gva or (min(gva) >= start and max(gva) < end)


def listed(slots: Words, site_kind: bytearray) -> int:
    """Return how many of *slots* have a kind, as those have that are listed."""
    if compiled is not None:
        return compiled.listed(slots, site_kind)
    return sum(site_kind[slot] != 0 for slot in slots)


def list_sites(slots: Words, gva: Words, kind: memoryview, sites: Sites) -> None:
    """List sites, each in its slot."""
    if compiled is not None:
        compiled.list_sites(slots, gva, kind, sites)
        return
    for slot, va, k in zip(slots, gva, kind, strict=True):
        sites.gva[slot], sites.kind[slot] = va, k
