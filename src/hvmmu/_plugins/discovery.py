"""Find hvmmu's entry points, even if another distribution's metadata are broken.

Plain folders of the path are read here, in a millisecond. Anything else (archives, other finders)
is left to `importlib.metadata`, which takes 20 ms to import.
"""

import os
import re
import sys
from collections.abc import Iterator, Sequence
from contextlib import suppress
from functools import reduce
from importlib import import_module
from importlib.machinery import PathFinder
from typing import TYPE_CHECKING, Any, NamedTuple

from hvmmu._plugins.registry import Plugin, State
from hvmmu.params import printable, quote

if TYPE_CHECKING:
    from importlib.metadata import Distribution, EntryPoint

GROUP = "hvmmu"
"""The entry-point group of plugins."""

UNKNOWN = "unknown distribution"

_METADATA = {"dist-info": "METADATA", "egg-info": "PKG-INFO"}


class PluginEntryPoint(NamedTuple):
    """An entry point's name, the module or attribute it stands for, and its distribution."""

    name: str
    value: str
    """As `module` or `module:attribute`."""
    distribution: str = UNKNOWN
    version: str = ""

    @classmethod
    def of(cls, point: "EntryPoint") -> "PluginEntryPoint":
        """Return an entry point of the standard library's as one of ours."""
        return cls(point.name, point.value, *_identity(point.dist))

    @property
    def module(self) -> str:
        """Return the module, or nothing if the value names none."""
        return self._parts()[0]

    def load(self) -> Any:  # noqa: ANN401 - whatever it stands for
        """Import it; what the import raises passes as it is."""
        module, attributes = self._parts()
        return reduce(getattr, filter(None, attributes.split(".")), import_module(module))

    def _parts(self) -> tuple[str, str]:
        pattern = r"([\w.]+)\s*(?::\s*([\w.]+)\s*)?(?:\[.*\]\s*)?"
        match = re.fullmatch(pattern, self.value)
        return (match[1], match[2] or "") if match else ("", "")


class _Distribution(NamedTuple):
    name: str
    version: str
    entry_points: str
    """The text of its entry_points.txt."""


def discover(path: Sequence[object] | None = None) -> tuple[list[PluginEntryPoint], list[Plugin]]:
    """Return the entry points of the group, and the distributions whose entry points are damaged.

    *path* stands in for `sys.path`. Of two distributions of one name the first on it counts.
    Leftovers of an interrupted installation are ignored, as pip does.
    """
    points: list[PluginEntryPoint] = []
    damaged: list[Plugin] = []
    seen: set[str] = set()
    for one in _distributions(sys.path if path is None else path):
        normal = re.sub(r"[-_.]+", "-", one.name).lower()
        if normal in seen:
            continue
        seen.add(normal)
        try:
            points += _points(one)
        except ValueError as error:
            cause = f"its entry_points.txt cannot be read: {error}"
            damaged.append(Plugin(one.name, one.name, one.version, State.BROKEN, cause))
    return points, damaged


def _distributions(path: Sequence[object]) -> Iterator[_Distribution]:
    finders = [one for one in sys.meta_path if hasattr(one, "find_distributions")]
    if finders == [PathFinder] and all(map(_is_folder, path)):
        return (one for folder in path for one in _in_folder(str(folder) or "."))
    return _by_the_library()


def _is_folder(entry: object) -> bool:
    """Return whether an entry of the path is a folder, or nothing at all."""
    if not isinstance(entry, str) or entry.lower().endswith(".egg"):
        return False
    return os.path.isdir(entry or ".") or not os.path.exists(entry)  # noqa: PTH110, PTH112 - strings


def _in_folder(folder: str) -> Iterator[_Distribution]:
    try:
        names = os.listdir(folder)  # noqa: PTH208 - tens of thousands of names, perhaps
    except OSError:
        return
    for name in names:
        stem, _, suffix = name.rpartition(".")
        if suffix not in _METADATA or not _is_name(stem):
            continue
        inside = f"{folder}/{name}"
        if not os.path.isfile(f"{inside}/{_METADATA[suffix]}"):  # noqa: PTH113 - as above
            continue
        distribution, _, rest = stem.partition("-")
        version = rest.partition("-")[0]
        yield _Distribution(distribution.replace("_", "-"), version, _read(inside))


def _is_name(text: str) -> bool:
    """Return whether this may be a distribution: pip puts a tilde before what it is replacing."""
    return text[:1].isalnum()


def _read(inside: str) -> str:
    try:
        with open(f"{inside}/entry_points.txt", encoding="utf-8", errors="replace") as file:  # noqa: PTH123 - as above
            return file.read()
    except OSError:
        return ""


def _by_the_library() -> Iterator[_Distribution]:
    from importlib.metadata import distributions  # noqa: PLC0415 - 20 ms

    for one in distributions():
        name, version = _identity(one)
        with suppress(Exception):  # a file that anybody wrote
            text = one.read_text("entry_points.txt") or ""
            inside = str(getattr(one, "_path", name)).rpartition("/")[2]
            if name != UNKNOWN and _is_name(inside):
                yield _Distribution(name, version, text)


def _points(distribution: _Distribution) -> Iterator[PluginEntryPoint]:
    """Yield the entry points of our group; raise ValueError for a line of it that is none."""
    if f"[{GROUP}]" not in distribution.entry_points:
        return
    group = None
    for line in map(str.strip, distribution.entry_points.splitlines()):
        if line.startswith("[") and line.endswith("]"):
            group = line.strip("[]")
        elif group == GROUP and line and not line.startswith("#"):
            name, is_pair, value = line.partition("=")
            if not is_pair:
                raise ValueError(f"{quote(line)} is not name = value")
            yield PluginEntryPoint(name.strip(), value.strip(), *distribution[:2])


def _identity(distribution: "Distribution | None") -> tuple[str, str]:
    """Return a distribution's name and version, whatever state its metadata are in."""
    if distribution is None:
        return UNKNOWN, ""
    try:
        metadata = distribution.metadata  # parsed anew each time it is read
        name, version = metadata["Name"], metadata["Version"]
    except Exception:  # noqa: BLE001 - a file that anybody wrote
        return UNKNOWN, ""
    return (printable(str(name)), printable(str(version or ""))) if name else (UNKNOWN, "")
