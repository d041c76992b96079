"""An entry point and where it is from: what the loader needs of it, wherever it was read."""

import re
from functools import reduce
from importlib import import_module
from typing import TYPE_CHECKING, Any, NamedTuple

from hvmmu.params import plain

if TYPE_CHECKING:
    from importlib.metadata import Distribution, EntryPoint

GROUP = "hvmmu"
"""The entry-point group that plugins are found through."""

NOBODY = "unknown distribution"

_VALUE = re.compile(r"([\w.]+)\s*(?::\s*([\w.]+)\s*)?(?:\[.*\]\s*)?")


class Point(NamedTuple):
    """A name, and the module, or the attribute of one, that it stands for."""

    name: str
    value: str
    """As `module` or `module:attribute`."""
    distribution: str = NOBODY
    version: str = ""

    @classmethod
    def of(cls, point: "EntryPoint") -> "Point":
        """Return an entry point of the standard library's as one of ours."""
        return cls(point.name, point.value, *about(point.dist))

    @property
    def module(self) -> str:
        """Return the module, or nothing if the value names none."""
        match = _VALUE.fullmatch(self.value)
        return match[1] if match else ""

    def load(self) -> Any:  # noqa: ANN401 - whatever it stands for
        """Import it; what the import raises passes as it is."""
        match = _VALUE.fullmatch(self.value)
        assert match, "the loader asks for the module first"
        return reduce(getattr, filter(None, (match[2] or "").split(".")), import_module(match[1]))


def about(distribution: "Distribution | None") -> tuple[str, str]:
    """Return a distribution's name and version, whatever state its metadata are in."""
    if distribution is None:
        return NOBODY, ""
    try:
        metadata = distribution.metadata  # parsed anew each time it is asked for
        name, version = metadata["Name"], metadata["Version"]
    except Exception:  # noqa: BLE001 - a file that anybody wrote
        return NOBODY, ""
    return (plain(str(name)), plain(str(version or ""))) if name else (NOBODY, "")
