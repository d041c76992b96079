"""The grid of a sweep: a `hvmmu.toml` in which every value may be a list, an axis of the grid.

Beside the keys of `hvmmu.toml` it has `workload`, `limit` and `[[exclude]]`. All its problems are
found in one pass.
"""

from collections.abc import Mapping
from pathlib import Path
from types import MappingProxyType
from typing import Any

import attrs

from hvmmu._config import Known
from hvmmu._config.sources import read_toml
from hvmmu.errors import ConfigError
from hvmmu.params import Param, Value, declared, nearest, parse, plain, shown

TOP = ("workload", "limit", "backend", "costs", "engine")
"""The keys that stand in no section, in the order in which cells vary."""

Key = tuple[str | None, str]
"""Section, None at the top, and name."""

Axes = Mapping[Key, tuple[Value, ...]]
_NONE: Axes = MappingProxyType({})


@attrs.frozen
class Grid:
    """What a grid sets: each key with the values it takes, and the combinations left out."""

    where: str
    """Its name in messages."""
    folder: Path
    """Where its traces are looked for."""
    axes: Axes = _NONE
    exclude: tuple[Axes, ...] = ()


def read_grid(path: Path, known: Known) -> Grid:
    """Read a grid from a file; raise ConfigError with every problem, one line each."""
    where = plain(str(path))
    return grid_of(read_toml(path, where), known, where=where, folder=path.absolute().parent)


def grid_of(
    table: Mapping[str, Any], known: Known, *, where: str = "grid", folder: Path | None = None
) -> Grid:
    """Return the grid that a table makes; raise ConfigError with every problem, one line each."""
    reading = _Reading(known, where)
    rules = table.get("exclude", [])
    axes = reading.axes({key: given for key, given in table.items() if key != "exclude"}, "")
    exclude = []
    if isinstance(rules, list) and all(isinstance(rule, dict) for rule in rules):
        exclude = [reading.axes(rule, f"exclude {nth}: ") for nth, rule in enumerate(rules, 1)]
    else:
        reading.problems.append(f"{where}: exclude is no list of tables; write [[exclude]]")
    reading.check_sections(axes)
    if reading.problems:
        raise ConfigError(reading.problems)
    return Grid(where, folder or Path.cwd(), axes, tuple(exclude))


@attrs.define
class _Reading:
    """One pass over a grid; it collects problems as it goes."""

    known: Known
    where: str
    problems: list[str] = attrs.field(factory=list)
    top: dict[str, Param] = attrs.field(init=False)
    sections: dict[str, dict[str, Param]] = attrs.field(init=False)

    def __attrs_post_init__(self) -> None:
        classes = self.known.classes().items()
        self.sections = {name: {p.name: p for p in declared(made)} for name, made in classes}
        one = Param("", str, "")
        named = one._replace(choices=tuple(self.known.backends))
        count = one._replace(type=int, least=1)
        self.top = {"workload": one, "limit": count, "backend": named, **self.known.top()}

    def axes(self, table: Mapping[str, Any], prefix: str) -> Axes:
        """Return what a table sets, each key with its values."""
        axes: dict[Key, tuple[Value, ...]] = {}
        for name, given in table.items():
            if isinstance(given, dict) and name not in self.top:
                for inner, value in given.items():
                    self.set_one(axes, (name, inner), value, prefix)
                if not given or name not in self.sections:
                    self.check_section(name, prefix, is_empty=not given)
            else:
                self.set_one(axes, (None, name), given, prefix)
        if prefix and not table:
            self.problems.append(f"{prefix[:-2]} ({self.where}): says nothing; leave it out")
        return axes

    def set_one(
        self, axes: dict[Key, tuple[Value, ...]], key: Key, given: object, prefix: str
    ) -> None:
        """Read the values of one key, or report why they cannot be."""
        section, name = key
        params = self.top if section is None else self.sections.get(section)
        if params is None:
            return  # reported once, for the section
        told = f"{prefix}{plain(_dotted(key))}"
        if name in self.unsupported(section):
            self.problems.append(f"{told} ({self.where}): {self.unsupported(section)[name]}")
        elif name not in params:
            self.problems.append(f"{told} ({self.where}): {self.unknown(section, name)}")
        elif given == []:
            self.problems.append(f"{told} ({self.where}): an empty list; leave the key out")
        else:
            axes[key] = self.values(params[name], given, told)

    def values(self, param: Param, given: object, told: str) -> tuple[Value, ...]:
        """Return the values of a key, each once."""
        kept: list[Value] = []
        for one in given if isinstance(given, list) else [given]:
            try:
                value = parse(param, one, key=told, source=self.where)
            except ConfigError as error:
                self.problems += error.problems
                continue
            if value in kept:
                self.problems.append(f"{told} ({self.where}): {shown(one)} is there twice")
            kept.append(value)
        return tuple(kept)

    def check_section(self, name: str, prefix: str, *, is_empty: bool) -> None:
        """Report a section that is none, or sets nothing."""
        told = f"{prefix}{plain(name)} ({self.where})"
        if name not in self.sections:
            near = nearest(name, [*self.sections, "exclude"])
            near = near or "; if it is a backend, is its plugin installed?"
            self.problems.append(f"{told}: no such section ({', '.join(self.sections)}){near}")
        elif is_empty:
            self.problems.append(f"{told}: sets nothing; leave it out")

    def unknown(self, section: str | None, name: str) -> str:
        """Say that there is no such key, and which is nearest."""
        if section is not None:
            near = nearest(name, self.sections[section]) or f"; see `hvmmu params {section}`"
            return f"{section} has no such parameter{near}"
        if name in self.sections:
            return f"that is a section; write [{name}] and its parameters below"
        near = nearest(name, (*TOP, *self.sections))
        there = f"; there are {', '.join(TOP)} and the sections"
        return f"no such key{near or there}"

    def unsupported(self, section: str | None) -> Mapping[str, str]:
        """Return the parameters a backend refuses, each with the reason."""
        backend = self.known.backends.get(section or "")
        return {} if backend is None else backend.unsupported

    def check_sections(self, axes: Axes) -> None:
        """Report the parameters of a backend that the grid does not run."""
        chosen = axes.get((None, "backend"), tuple(self.known.backends))
        idle = [s for s, _ in axes if s in self.known.backends and s not in chosen]
        self.problems += [
            f"{section} ({self.where}): not among the backends; add it to backend, or leave "
            "the section out"
            for section in dict.fromkeys(idle)
        ]


def _dotted(key: Key) -> str:
    return key[1] if key[0] is None else f"{key[0]}.{key[1]}"
