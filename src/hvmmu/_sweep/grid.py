"""The grid of a sweep: a `hvmmu.toml` in which every value may be a list, an axis of the grid.

Beside the keys of `hvmmu.toml` it has `workload`, `limit` and `[[exclude]]`. All its problems are
found in one pass.
"""

from collections.abc import Mapping
from pathlib import Path
from types import MappingProxyType
from typing import Any

import attrs

from hvmmu._config import ConfigSchema
from hvmmu._config.schema import Key, SchemaReader, dotted
from hvmmu._config.sources import read_toml
from hvmmu.errors import ConfigError
from hvmmu.params import Param, Value, parse, printable, quote

TOP = ("workload", "limit", "backend", "costs", "engine")
"""The keys in no section, in the order in which cells vary."""

Axes = Mapping[Key, tuple[Value, ...]]
_NONE: Axes = MappingProxyType({})


@attrs.frozen
class Grid:
    """The values of each key, and the combinations to leave out."""

    where: str
    """Its name in messages."""
    folder: Path
    """The folder that traces are relative to."""
    axes: Axes = _NONE
    exclude: tuple[Axes, ...] = ()


def read_grid(path: Path, schema: ConfigSchema) -> Grid:
    """Read a grid from a file; raise ConfigError with every problem, one line each."""
    where = printable(str(path))
    return grid_of(read_toml(path, where), schema, where=where, folder=path.absolute().parent)


def grid_of(
    table: Mapping[str, Any],
    schema: ConfigSchema,
    *,
    where: str = "grid",
    folder: Path | None = None,
) -> Grid:
    """Return the grid of a table; raise ConfigError with every problem, one line each."""
    reader = _GridReader(schema, where)
    rules = table.get("exclude", [])
    axes = reader.axes({key: given for key, given in table.items() if key != "exclude"}, "")
    exclude = []
    if isinstance(rules, list) and all(isinstance(rule, dict) for rule in rules):
        exclude = [reader.axes(rule, f"exclude {nth}: ") for nth, rule in enumerate(rules, 1)]
    else:
        reader.problems.append(f"{where}: exclude is no list of tables; write [[exclude]]")
    reader.check_backends(axes)
    if reader.problems:
        raise ConfigError(reader.problems)
    return Grid(where, folder or Path.cwd(), axes, tuple(exclude))


class _GridReader:
    """One pass over a grid; it collects problems as it goes."""

    def __init__(self, schema: ConfigSchema, where: str) -> None:
        self.schema, self.where = schema, where
        self.problems: list[str] = []
        text, count = Param("", str, ""), Param("", int, 1, least=1)
        backend = text._replace(choices=tuple(schema.backends))
        top = {"workload": text, "limit": count, "backend": backend, **schema.top()}
        self.reader = SchemaReader(schema, top)

    def axes(self, table: Mapping[str, Any], prefix: str) -> Axes:
        """Return the values of each key of a table."""
        axes: dict[Key, tuple[Value, ...]] = {}
        for name, given in table.items():
            if not isinstance(given, dict) or name in self.reader.top:
                self.read(axes, (None, name), given, prefix)
            elif name not in self.reader.sections:
                self.problems.append(self.reader.no_section(name, self.where, prefix))
            else:
                for inner, value in given.items():
                    self.read(axes, (name, inner), value, prefix)
                if not given:
                    self.problem(f"{prefix}{name}", "sets nothing; leave it out")
        if prefix and not table:
            self.problem(prefix[:-2], "is empty; leave it out")
        return axes

    def read(
        self, axes: dict[Key, tuple[Value, ...]], key: Key, given: object, prefix: str
    ) -> None:
        """Read the values of one key, or report its problems."""
        label = f"{prefix}{printable(dotted(key))}"
        try:
            param = self.reader.param(key, self.where, prefix)
        except ConfigError as error:
            self.problems += error.problems
            return
        if given == []:
            self.problem(label, "an empty list; leave the key out")
        values: dict[Value, None] = {}
        for one in given if isinstance(given, list) else [given]:
            try:
                value = parse(param, one, key=label, source=self.where)
            except ConfigError as error:
                self.problems += error.problems
                continue
            if value in values:
                self.problem(label, f"{quote(one)} is there twice")
            values[value] = None
        axes[key] = tuple(values)

    def problem(self, label: str, why: str) -> None:
        """Note a problem of this grid."""
        self.problems.append(f"{label} ({self.where}): {why}")

    def check_backends(self, axes: Axes) -> None:
        """Report the parameters of a backend that the grid does not run."""
        backends = self.schema.backends
        chosen = axes.get((None, "backend"), tuple(backends))
        idle = dict.fromkeys(s for s, _ in axes if s in backends and s not in chosen)
        for section in idle:
            why = "not among the backends; add it to backend, or leave the section out"
            self.problem(str(section), why)
