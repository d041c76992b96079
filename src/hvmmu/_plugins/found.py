"""The entry points there are, whatever else is installed beside them.

One distribution with an unreadable entry_points.txt makes the standard library give none at all.
"""

import re
from typing import TYPE_CHECKING

from hvmmu._hooks import told
from hvmmu._plugins import folders
from hvmmu._plugins.point import GROUP, NOBODY, Point, about
from hvmmu._plugins.registry import Plugin, State

if TYPE_CHECKING:
    from collections.abc import Iterable
    from importlib.metadata import Distribution

__all__ = ["installed", "told"]


def installed() -> tuple[list[Point], list[Plugin]]:
    """Return the entry points of the group, and the distributions that cannot be read."""
    quick = folders.entry_points()
    return _by_the_library() if quick is None else (quick, [])


def _by_the_library() -> tuple[list[Point], list[Plugin]]:
    """Return the same, from wherever the standard library can read it."""
    from importlib.metadata import distributions, entry_points  # noqa: PLC0415 - 20 ms

    try:
        return [Point.of(point) for point in entry_points(group=GROUP)], []
    except Exception:  # noqa: BLE001 - some file of anybody's: read them one by one
        return _one_by_one(distributions())


def _one_by_one(found: "Iterable[Distribution]") -> tuple[list[Point], list[Plugin]]:
    """Return the same; of two distributions of one name the first on the path counts."""
    points: list[Point] = []
    unread, seen = [], set()
    for distribution in found:
        name, version = about(distribution)
        normal = re.sub(r"[-_.]+", "-", name).lower()
        if name != NOBODY and normal in seen:
            continue
        seen.add(normal)
        try:
            points += map(Point.of, distribution.entry_points.select(group=GROUP))
        except Exception as error:  # noqa: BLE001 - as above
            if _is_ours(distribution):
                cause = f"its entry_points.txt cannot be read: {told(error)}"
                unread.append(Plugin(name, name, version, State.BROKEN, cause))
    return points, unread


def _is_ours(distribution: "Distribution") -> bool:
    """Return whether a file that cannot be read may have meant to be about our plugins."""
    try:
        return f"[{GROUP}]" in (distribution.read_text("entry_points.txt") or "")
    except Exception:  # noqa: BLE001 - not even text
        return False
