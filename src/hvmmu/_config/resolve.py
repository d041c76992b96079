"""From settings to values: the last source wins, and every problem is found in one pass.

Sources from the lowest: the declared defaults; the nearest `hvmmu.toml`, or `[tool.hvmmu]` of the
nearest `pyproject.toml`; the environment; the command line.
"""

from collections.abc import Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from types import MappingProxyType
from typing import Any, NamedTuple

import attrs

from hvmmu._config import sources
from hvmmu._config.sources import PREFIX, Setting
from hvmmu.errors import ConfigError, InputError
from hvmmu.params import Param, Value, declared, nearest, parse, plain, shown, written

DEFAULT = "default"


class Known(NamedTuple):
    """Say what can be configured; the first engine and the first cost model are the defaults.

    `core` maps a section to its attrs class, `backends` a backend's name to its class (of which
    `params` and `refused` are read), in the order in which they run when none is named. `own` are
    the plugins' own sections.
    """

    core: Mapping[str, type]
    backends: Mapping[str, Any]
    engines: Sequence[str]
    models: Sequence[str]
    own: Mapping[str, type] = MappingProxyType({})

    def classes(self) -> dict[str, type]:
        """Return every section's attrs class."""
        backends = {name: made.params for name, made in self.backends.items()}
        return {**self.core, **self.own, **backends}

    def top(self) -> dict[str, Param]:
        """Return the keys that stand in no section, but for `backend`, as parameters."""
        costs = _word("costs", "the cost model cycles are estimated with", self.models)
        engine = _word("engine", "what plays the hardware", self.engines)
        return {"costs": costs, "engine": engine}


class Row(NamedTuple):
    """One line of `hvmmu config --explain`, as text."""

    key: str
    value: str
    source: str
    default: str

    @property
    def is_asked(self) -> bool:
        """Return whether a source other than the default set it."""
        return self.source != DEFAULT


class Config(NamedTuple):
    """Hold what was resolved: the chosen names, and each section's object.

    `explicit` are the names, by section, that a source other than the defaults set.
    """

    backends: tuple[str, ...]
    costs: str
    engine: str
    sections: Mapping[str, Any]
    explicit: Mapping[str, frozenset[str]]
    rows: tuple[Row, ...]


def resolve(
    known: Known,
    *,
    cwd: Path,
    environ: Mapping[str, str],
    settings: Sequence[str] = (),
    backends: Sequence[str] = (),
    costs: str | None = None,
    engine: str | None = None,
) -> Config:
    """Resolve the configuration; *settings* are the arguments of -p, in order.

    Raise ConfigError with every problem of every source, one line each.
    """
    resolution = _Resolution(known)
    found = resolution.collect(cwd, environ)
    if backends:
        source = " ".join(f"-b {plain(name)}" for name in backends)
        found.append(Setting(None, "backend", list(backends), source))
    options = {"costs": costs, "engine": engine}
    found += [Setting(None, k, v, f"--{k} {plain(v)}") for k, v in options.items() if v is not None]
    arguments, problems = sources.from_arguments(settings)
    resolution.problems += problems
    return resolution.resolve(found + arguments)


@attrs.define(eq=False)
class _Resolution:
    """One pass over all settings in rising precedence; it collects problems as it goes."""

    known: Known
    problems: list[str] = attrs.field(factory=list)
    values: dict[tuple[str | None, str], tuple[Value, str]] = attrs.field(factory=dict)
    backends: tuple[str, ...] = ()
    backends_source: str = DEFAULT
    sections: dict[str, dict[str, Param]] = attrs.field(init=False)
    top: dict[str, Param] = attrs.field(init=False)

    def __attrs_post_init__(self) -> None:
        classes = self.known.classes().items()
        self.sections = {name: {p.name: p for p in declared(made)} for name, made in classes}
        self.top = self.known.top()

    def collect(self, cwd: Path, environ: Mapping[str, str]) -> list[Setting]:
        """Return the settings of the file and the environment."""
        found = []
        try:
            found += sources.from_file(cwd)
        except ConfigError as error:
            self.problems += error.problems
        keys: list[tuple[str | None, str]] = [(None, name) for name in ("backend", *self.top)]
        for section, params in self.sections.items():
            keys += [(section, name) for name in (*params, *self.unsupported(section))]
        variables: dict[str, list[tuple[str | None, str]]] = {}
        for key in keys:
            variables.setdefault(_variable(*key), []).append(key)
        settings, problems = sources.from_environ(environ, variables)
        self.problems += problems
        return found + settings

    def resolve(self, found: Sequence[Setting]) -> Config:
        """Set every value in the order given, and return the whole."""
        for setting in found:
            if setting.is_backend:
                self.choose_backends(setting)
        for setting in found:
            if setting.anywhere:
                self.set_anywhere(str(setting.name), setting)
            elif not setting.is_backend:
                self.set_in(setting.section, setting)
        made = self.made()
        if self.problems:
            raise ConfigError(list(dict.fromkeys(self.problems)))
        return Config(
            backends=self.backends or tuple(self.known.backends),
            costs=str(self.value(None, self.top["costs"])[0]),
            engine=str(self.value(None, self.top["engine"])[0]),
            sections=made,
            explicit={s: frozenset(n for t, n in self.values if t == s) for s in self.sections},
            rows=tuple(self.rows()),
        )

    def choose_backends(self, setting: Setting) -> None:
        """Choose the backends of this setting; a later one replaces them."""
        names, source = _listed(setting.given), setting.source
        kept = [name for name in names if isinstance(name, str) and name in self.known.backends]
        for name in names:
            if name not in kept:
                near = nearest(name, self.known.backends) if isinstance(name, str) else ""
                self.problems.append(
                    f"backend ({source}): {shown(name)} is not an installed backend "
                    f"({', '.join(self.known.backends)}){near} (see `hvmmu backends`)"
                )
        if not names:
            self.problems.append(f"backend ({source}): names none; leave the key out for all")
        self.backends, self.backends_source = tuple(dict.fromkeys(kept)), source

    def set_anywhere(self, name: str, setting: Setting) -> None:
        """Set a name given without section: in every chosen backend, or else in one section.

        A plugin's section is last in line: what it adds must not change what was clear before.
        """
        homes = [section for section, params in self.sections.items() if name in params]
        core = [section for section in homes if section in self.known.core]
        core = core or [section for section in homes if section in self.known.own]
        chosen = self.backends or tuple(self.known.backends)
        targets = [section for section in homes if section in chosen] or core
        targets = targets or [section for section in chosen if name in self.unsupported(section)]
        if len(core) > 1 and targets == core:
            which = " or ".join(f"-p {section}.{name}=..." for section in core)
            self.problems.append(f"{setting.source}: say which one: {which}")
        elif targets or not homes:
            for section in targets:
                self.set_in(section, setting)
            if not targets:
                near = nearest(name, self.names()) or "; `hvmmu params` lists them all"
                self.problems.append(f"{setting.source}: no parameter {shown(name)}{near}")
        else:
            self.problems.append(
                f"{setting.source}: {name} is a parameter of {homes[0]}, which is not chosen; "
                f"add -b {homes[0]}"
            )

    def set_in(self, section: str | None, setting: Setting) -> None:
        """Set one value, or report why it cannot be set."""
        params = self.top if section is None else self.sections.get(section)
        name, source = setting.name, setting.source
        if params is None:
            self.problems.append(self.no_section(str(section), source))
        elif name is None:
            return  # an empty section says nothing
        elif name in self.unsupported(section):
            self.problems.append(f"{section}.{name} ({source}): {self.unsupported(section)[name]}")
        elif name not in params:
            self.problems.append(self.no_name(section, name, source))
        else:
            try:
                key = _key(section, name)
                self.values[section, name] = (
                    parse(params[name], setting.given, key=key, source=source),
                    source,
                )
            except ConfigError as error:
                self.problems += error.problems

    def no_section(self, section: str, source: str) -> str:
        """Say that there is no such section, and which there are."""
        near = nearest(section, self.sections) or "; if it is a backend, is its plugin installed?"
        there = ", ".join(self.sections)
        return f"{plain(section)} ({source}): no such section ({there}){near}"

    def no_name(self, section: str | None, name: str, source: str) -> str:
        """Say that the section has no such parameter, and which is nearest."""
        key = f"{plain(_key(section, name))} ({source})"
        if section is None:
            if name in self.sections:
                return f"{key}: that is a section; write [{name}] and its parameters below"
            return f"{key}: no such key{nearest(name, ('backend', *self.top, *self.sections))}"
        near = nearest(name, self.sections[section]) or f"; `hvmmu params {section}` lists them"
        return f"{key}: {section} has no such parameter{near}"

    def names(self) -> list[str]:
        """Return the names of all parameters of all sections."""
        return sorted({name for params in self.sections.values() for name in params})

    def unsupported(self, section: str | None) -> Mapping[str, str]:
        """Return the parameters a backend refuses, each with the reason."""
        backend = self.known.backends.get(section or "")
        return {} if backend is None else backend.unsupported

    def value(self, section: str | None, param: Param) -> tuple[Value, str]:
        """Return a parameter's value and its source."""
        return self.values.get((section, param.name), (param.default, DEFAULT))

    def made(self) -> dict[str, Any]:
        """Make each section's object; its class may refuse values that do not go together."""
        made = {}
        for section, params in self.known.classes().items():
            own = {name: value for (s, name), value in self.values.items() if s == section}
            try:
                made[section] = params(**{name: value for name, (value, _) in own.items()})
            except (InputError, ValueError) as error:
                where = ", ".join(sorted({source for _, source in own.values()}))
                lines = error.problems if isinstance(error, ConfigError) else [str(error)]
                self.problems += [f"{section} ({where}): {plain(line)}" for line in lines]
        return made

    def rows(self) -> Iterator[Row]:
        """Yield every key with its value, source and default."""
        every = ",".join(self.known.backends)
        yield Row("backend", ",".join(self.backends) or every, self.backends_source, every)
        for section, params in ((None, self.top), *self.sections.items()):
            for name, param in params.items():
                value, source = self.value(section, param)
                default = written(param, param.default)
                yield Row(_key(section, name), written(param, value), source, default)


def _word(name: str, doc: str, choices: Iterable[str]) -> Param:
    words = tuple(choices)
    return Param(name, str, words[0], doc, choices=words)


def _key(section: str | None, name: str) -> str:
    return name if section is None else f"{section}.{name}"


def _variable(section: str | None, name: str) -> str:
    return PREFIX + _key(section, name).upper().replace(".", "_").replace("-", "_")


def _listed(given: object) -> list[object]:
    """Return the backends a source names: a list, or text with commas."""
    if isinstance(given, str):
        return list(given.split(","))
    return given if isinstance(given, list) else [given]
