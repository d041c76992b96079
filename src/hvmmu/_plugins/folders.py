"""The entry points that lie in plain folders on the path, read without `importlib.metadata`.

Importing that takes 20 ms, and hardly anything is installed otherwise. Whatever is not as usual
here is left to it: None, instead of a guess.
"""

import os
import re
import sys
from collections.abc import Iterable, Iterator
from contextlib import suppress
from importlib.machinery import PathFinder
from itertools import takewhile

from hvmmu._plugins.point import GROUP, Point
from hvmmu.params import plain

_SUFFIXES = (".dist-info", ".egg-info")
_MOST = 1 << 20  # bytes of a file; longer ones are not as usual


class _UnusualError(Exception):
    """Something that only the standard library knows how to read."""


def entry_points(path: Iterable[object] | None = None) -> list[Point] | None:
    """Return the entry points of our group, or None if some may lie where only others can look.

    *path* stands in for `sys.path`. Of two distributions of one name the first on it counts.
    """
    if any(hasattr(one, "find_distributions") and one is not PathFinder for one in sys.meta_path):
        return None
    points: list[Point] = []
    seen: set[str] = set()
    try:
        for folder in sys.path if path is None else path:
            for about in _distributions(folder):
                name = _normal(about)
                if name not in seen:
                    seen.add(name)
                    points += _points(f"{folder or '.'}/{about}")
    except (_UnusualError, OSError, ValueError):
        return None
    return points


def _normal(name: str) -> str:
    """Return what is the same for all spellings of a distribution's name, from its folder's."""
    return re.sub(r"[-_.]+", "-", name.rpartition(".")[0].partition("-")[0]).lower()


def _distributions(folder: object) -> list[str]:
    """Return the names of what tells of a distribution in this folder of the path."""
    if not isinstance(folder, str) or folder.lower().endswith(".egg"):
        raise _UnusualError
    try:
        names = os.listdir(folder or ".")  # noqa: PTH208 - tens of thousands of names, perhaps
    except FileNotFoundError:
        return []
    return [name for name in names if name.lower().endswith(_SUFFIXES)]


def _points(about: str) -> Iterator[Point]:
    """Yield the entry points of one distribution that are of our group."""
    text = _read(about, "entry_points.txt")
    if f"[{GROUP}]" not in text:
        return
    name, version = _identity(_read(about, "METADATA") or _read(about, "PKG-INFO"))
    group = None
    for line in map(str.strip, text.splitlines()):
        key, is_pair, value = line.partition("=")
        if line.startswith("[") and line.endswith("]"):
            group = line.strip("[]")
        elif line and group and not line.startswith("#"):
            if not is_pair:
                raise _UnusualError
            if group == GROUP:
                yield Point(key.strip(), value.strip(), name, version)


def _identity(metadata: str) -> tuple[str, str]:
    """Return the name and the version that the head of a METADATA file gives, once each."""
    head = list(takewhile(str.strip, metadata.splitlines()))
    fields = [line.partition(":") for line in head if line[0] not in " \t"]
    told = [(key.lower(), value.strip()) for key, _, value in fields]
    names, versions = ([v for k, v in told if k == key] for key in ("name", "version"))
    if len(names) != 1 or len(versions) != 1 or not all((*names, *versions)):
        raise _UnusualError
    return plain(names[0]), plain(versions[0])


def _read(about: str, name: str) -> str:
    """Return a file's text, nothing if there is none."""
    with suppress(FileNotFoundError, NotADirectoryError):
        with open(f"{about}/{name}", encoding="utf-8") as file:  # noqa: PTH123 - as above
            text = file.read(_MOST + 1)
        if len(text) > _MOST:
            raise _UnusualError
        return text
    return ""
