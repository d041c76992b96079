"""Plan the cells of a grid: each combination that can differ from the others, once."""

import itertools
import math
from collections.abc import Iterator, Mapping, Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any

import attrs

from hvmmu._config.schema import Key
from hvmmu._plugins.registry import CORE
from hvmmu._sweep.cells import FORMAT, Cell, canonical, sha256_of
from hvmmu._sweep.grid import TOP, Axes, Grid
from hvmmu._sweep.installation import Installation, Values, file_sha256, hvmmu_version
from hvmmu.errors import ConfigError, HvmmuError
from hvmmu.params import printable, values

MOST_CELLS = 100_000
"""The largest number of combinations of one grid."""

Axis = tuple[Key, tuple[Any, ...]]
Chosen = Mapping[Key, Any]


def cells(grid: Grid, installation: Installation) -> list[Cell]:
    """Return the cells of a grid in the order of its axes.

    Raise ConfigError with every problem of combining values.
    """
    return _Planner(grid, installation).cells()


@attrs.frozen
class _Opened:
    """A workload, as a cell's identity needs it."""

    spec: str | None
    """The argument with which a worker opens it."""
    facts: Mapping[str, Any]
    sha256: str | None
    """Of the trace's file; None for a synthetic workload."""


@attrs.define
class _Planner:
    """One pass over all combinations; it collects problems, and opens each workload once."""

    grid: Grid
    installation: Installation
    problems: dict[str, None] = attrs.field(factory=dict)
    workloads: dict[tuple[str | None, int | None], _Opened | None] = attrs.field(factory=dict)
    hashes: dict[Path, str] = attrs.field(factory=dict)
    effective: dict[str, Values | None] = attrs.field(factory=dict)
    """A backend's effective parameters, by the explicit ones and the CPU."""

    def cells(self) -> list[Cell]:
        """Return the cells, each once."""
        self.check_size()
        found: dict[str, Cell] = {}
        used: set[int] = set()
        for chosen in self.combinations():
            rules = [n for n, rule in enumerate(self.grid.exclude) if _matches(rule, chosen)]
            used.update(rules)
            if not rules and (cell := self.cell(chosen)):
                found.setdefault(cell.id, cell)
        for nth in range(len(self.grid.exclude)):
            if nth not in used:
                self.problem(f"exclude {nth + 1}", "matches no cell; correct it or leave it out")
        if not found and not self.problems:
            self.problem("exclude", "leaves no cell; take a rule out")
        if self.problems:
            raise ConfigError(list(self.problems))
        return list(found.values())

    def problem(self, label: str, why: str) -> None:
        """Note a problem, once."""
        self.problems[f"{label} ({self.grid.where}): {why}"] = None

    def problem_of(self, label: str, error: Exception) -> None:
        """Note the problems of an error."""
        lines = error.problems if isinstance(error, ConfigError) else [str(error)]
        for line in lines:
            self.problem(label, printable(line, 400))

    def check_size(self) -> None:
        """Raise ConfigError if the grid is too large, before anything else is done."""
        shared = _size(self.shared())
        total = sum(shared * _size(self.own(backend)) for backend in self.backends())
        if total > MOST_CELLS:
            why = f"{total:,} combinations; a sweep has at most {MOST_CELLS:,}: split it"
            raise ConfigError([f"{self.grid.where}: {why}"])

    def backends(self) -> tuple[str, ...]:
        """Return the backends of the grid."""
        chosen = self.grid.axes.get((None, "backend"), tuple(self.installation.schema.backends))
        return tuple(map(str, chosen))

    def shared(self) -> list[Axis]:
        """Return the axes that all backends share."""
        defaults = {name: param.default for name, param in self.installation.schema.top().items()}
        keys = [(None, name) for name in TOP if name != "backend"]
        top = [(key, self.grid.axes.get(key, (defaults.get(key[1]),))) for key in keys]
        own = self.installation.schema.backends
        sections = [(key, axis) for key, axis in self.grid.axes.items() if key[0]]
        return [*top, *((key, axis) for key, axis in sections if key[0] not in own)]

    def own(self, backend: str) -> list[Axis]:
        """Return the axes of one backend's own parameters."""
        return [(key, axis) for key, axis in self.grid.axes.items() if key[0] == backend]

    def combinations(self) -> Iterator[Chosen]:
        """Yield every combination: the shared axes vary slowest."""
        for shared in _product(self.shared()):
            for backend in self.backends():
                for own in _product(self.own(backend)):
                    yield {**shared, (None, "backend"): backend, **own}

    def cell(self, chosen: Chosen) -> Cell | None:
        """Return the cell of one combination; None if it has a problem."""
        workload, limit, backend, costs, engine = (chosen[None, name] for name in TOP)
        opened = self.workload(workload, limit)
        config = self.config(chosen)
        params = None if config is None else self.params(backend, chosen, config["cpu"])
        if opened is None or config is None or params is None:
            return None
        kind = str(workload).partition(":")[0]
        used = [f"backend {backend}", f"engine {engine}", f"cost model {costs}", f"workload {kind}"]
        if mmu := config.get("mmu", {}).get("type"):
            used.append(f"MMU {mmu}")
        is_trace = opened.sha256 is not None
        identity = {
            "format": FORMAT,
            "hvmmu": hvmmu_version(),
            "plugins": self.installation.taking_part(*used, trace=is_trace),
            "workload": opened.facts,
            "trace_sha256": opened.sha256,
            "backend": backend,
            "params": params,
            "config": config,
            "costs": costs,
            "engine": engine,
        }
        unit = {"workload": opened.spec, "limit": limit, "identity": identity}
        return Cell(
            sha256_of(identity), identity, unit | {"plugins": dict(self.installation.selection)}
        )

    def workload(self, given: str | None, limit: int | None) -> _Opened | None:
        """Return a workload, opened to identify it; None if it cannot be opened."""
        if (given, limit) not in self.workloads:
            opened = None
            try:
                opened = self.opened(self.installation.located(given, self.grid.folder), limit)
            except (HvmmuError, ValueError) as error:
                self.problem_of("workload", error)
            except OSError as error:
                self.problem("workload", f"{printable(str(given))}: {error.strerror}")
            self.workloads[given, limit] = opened
        return self.workloads[given, limit]

    def opened(self, spec: str | None, limit: int | None) -> _Opened:
        """Open a workload; its file is read once for all cells."""
        facts = self.installation.registry.workload(spec, limit).facts()
        canonical(facts)
        path = self.installation.trace(spec)
        if path is None:
            return _Opened(spec, facts, None)
        if path not in self.hashes:
            self.hashes[path] = file_sha256(path)
        return _Opened(spec, facts, self.hashes[path])

    def config(self, chosen: Chosen) -> dict[str, Values] | None:
        """Return the values of every section that is no backend's; None if one has a problem.

        Left out are the MMU's if the machine has no hypervisor, and a plugin's if all are at their
        defaults: a plugin that is only installed must change no cell.
        """
        config = {}
        bare = self.installation.is_bare(chosen[None, "backend"])
        for section, kind in {**CORE, **self.installation.schema.plugin_sections}.items():
            if section == "mmu" and bare:
                continue
            params = self.section(section, kind, chosen)
            if params is None:
                return None
            if section in CORE or values(params) != values(kind()):
                config[section] = values(params)
        return config

    def section(self, section: str, kind: type, chosen: Chosen) -> object | None:
        """Return the object of one section; its class may reject a combination of values."""
        explicit = {name: value for (home, name), value in chosen.items() if home == section}
        try:
            params: object = kind(**explicit)
        except (HvmmuError, ValueError) as error:
            self.problem_of(section, error)
            return None
        return params

    def params(self, backend: str, chosen: Chosen, cpu: Values) -> Values | None:
        """Return a backend's effective parameters.

        Of explicit parameters that it rejects, the run will report why.
        """
        explicit = {name: value for (home, name), value in chosen.items() if home == backend}
        key = canonical([backend, explicit, cpu])
        if key not in self.effective:
            kind = self.installation.registry.backends[backend]
            params = self.section(backend, kind.params, chosen)
            found = None if params is None else values(params)
            with suppress(Exception):  # its run meets the same, and fails alone
                features = CORE["cpu"](**cpu).features
                found = values(kind(params, features, frozenset(explicit)).effective)
            self.effective[key] = found
        return self.effective[key]


def _size(axes: Sequence[Axis]) -> int:
    return math.prod(len(axis) for _, axis in axes)


def _product(axes: Sequence[Axis]) -> Iterator[dict[Key, Any]]:
    keys = [key for key, _ in axes]
    for combination in itertools.product(*(axis for _, axis in axes)):
        yield dict(zip(keys, combination, strict=True))


def _matches(rule: Axes, chosen: Chosen) -> bool:
    """Return whether a combination has one of the values of every key of a rule."""
    return all(key in chosen and chosen[key] in allowed for key, allowed in rule.items())
