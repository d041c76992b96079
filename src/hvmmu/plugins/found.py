"""The entry points there are, whatever else is installed beside them.

One distribution with an unreadable entry_points.txt makes the standard library give none at all.
"""

import re
from collections.abc import Iterable
from importlib.metadata import Distribution, EntryPoint, distributions, entry_points

from hvmmu.hooks import told
from hvmmu.params import plain
from hvmmu.plugins.registry import Plugin, State

__all__ = ["GROUP", "NOBODY", "about", "installed", "told"]

GROUP = "hvmmu"
"""The entry-point group that plugins are found through."""

NOBODY = "unknown distribution"


def installed() -> tuple[list[EntryPoint], list[Plugin]]:
    """Return the entry points of the group, and the distributions that cannot be read."""
    try:
        return list(entry_points(group=GROUP)), []
    except Exception:  # noqa: BLE001 - some file of anybody's: read them one by one
        return _one_by_one(distributions())


def _one_by_one(found: Iterable[Distribution]) -> tuple[list[EntryPoint], list[Plugin]]:
    """Return the same; of two distributions of one name the first on the path counts."""
    points: list[EntryPoint] = []
    unread, seen = [], set()
    for distribution in found:
        name, version = about(distribution)
        normal = re.sub(r"[-_.]+", "-", name).lower()
        if name != NOBODY and normal in seen:
            continue
        seen.add(normal)
        try:
            points += distribution.entry_points.select(group=GROUP)
        except Exception as error:  # noqa: BLE001 - as above
            if _is_ours(distribution):
                cause = f"its entry_points.txt cannot be read: {told(error)}"
                unread.append(Plugin(name, name, version, State.BROKEN, cause))
    return points, unread


def _is_ours(distribution: Distribution) -> bool:
    """Return whether a file that cannot be read may have meant to be about our plugins."""
    try:
        return f"[{GROUP}]" in (distribution.read_text("entry_points.txt") or "")
    except Exception:  # noqa: BLE001 - not even text
        return False


def about(distribution: Distribution | None) -> tuple[str, str]:
    """Return a distribution's name and version, whatever state its metadata are in."""
    if distribution is None:
        return NOBODY, ""
    try:
        metadata = distribution.metadata  # parsed anew each time it is asked for
        name, version = metadata["Name"], metadata["Version"]
    except Exception:  # noqa: BLE001 - a file that anybody wrote
        return NOBODY, ""
    return (plain(str(name)), plain(str(version or ""))) if name else (NOBODY, "")
