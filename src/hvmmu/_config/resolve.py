"""From settings to values: the last source wins, and every problem is found in one pass.

Sources from the lowest: the declared defaults; the nearest `hvmmu.toml`, or `[tool.hvmmu]` of the
nearest `pyproject.toml`; the environment; the command line.
"""

from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

from hvmmu._config import sources
from hvmmu._config.schema import ConfigSchema, Key, SchemaReader, dotted
from hvmmu._config.sources import PREFIX, Setting
from hvmmu.errors import ConfigError, InputError
from hvmmu.params import Param, Value, did_you_mean, format_value, parse, printable, quote

DEFAULT = "default"

_MMU_TYPE: Key = ("mmu", "type")

_ALIKE = 0.75


class ExplainRow(NamedTuple):
    """One line of `hvmmu config --explain`, as text."""

    key: str
    value: str
    source: str
    default: str

    @property
    def is_explicit(self) -> bool:
        """Return whether a source other than the default set it."""
        return self.source != DEFAULT


class Config(NamedTuple):
    """The chosen names, and each section's object.

    `mmus` are the MMUs to compare, one for most commands. `backends` are empty if those that were
    chosen are not installed. `explicit` are the names, by section, that a source other than the
    defaults set. `ignored` are the settings of plugins that are not loaded, one line each.
    """

    backends: tuple[str, ...]
    costs: str
    engine: str
    mmus: tuple[str, ...]
    sections: Mapping[str, Any]
    explicit: Mapping[str, frozenset[str]]
    rows: tuple[ExplainRow, ...]
    ignored: tuple[str, ...] = ()


def resolve(
    schema: ConfigSchema,
    *,
    cwd: Path,
    environ: Mapping[str, str],
    settings: Sequence[str] = (),
    backends: Sequence[str] = (),
    costs: str | None = None,
    engine: str | None = None,
    mmus: Sequence[str] = (),
) -> Config:
    """Resolve the configuration; *settings* are the arguments of -p, in order.

    One of *mmus* sets `mmu.type`; of several each is for a run of its own. Raise ConfigError with
    every problem of every source, one line each. A setting in a file or the environment for a
    plugin that is not loaded is none.
    """
    resolution = _Resolution(schema)
    found = resolution.shared(cwd, environ)
    if backends:
        source = " ".join(f"-b {printable(name)}" for name in backends)
        found.append(Setting(None, "backend", list(backends), source, is_typed=True))
    for name, given in {"costs": costs, "engine": engine}.items():
        if given is not None:
            found.append(Setting(None, name, given, f"--{name} {printable(given)}", is_typed=True))
    arguments, problems = sources.from_arguments(settings)
    resolution.problems += problems
    return resolution.resolve(found + arguments, tuple(dict.fromkeys(mmus)))


class _Resolution:
    """One pass over all settings in rising precedence; it collects problems as it goes."""

    def __init__(self, schema: ConfigSchema) -> None:
        self.schema = schema
        self.top = schema.top()
        self.reader = SchemaReader(schema, {"backend": Param("backend", str, ""), **self.top})
        self.problems: list[str] = []
        self.ignored: list[str] = []
        self.effective: dict[Key, Setting] = {}
        self.values: dict[Key, tuple[Value, str]] = {}
        self.backends = tuple(schema.backends)
        self.backends_source = DEFAULT

    def shared(self, cwd: Path, environ: Mapping[str, str]) -> list[Setting]:
        """Return the settings of the file and the environment."""
        found = []
        try:
            found += sources.from_file(cwd)
        except ConfigError as error:
            self.problems += error.problems
        keys: list[Key] = [(None, name) for name in self.reader.top]
        for section, params in self.reader.sections.items():
            keys += [(section, name) for name in (*params, *self.reader.unsupported(section))]
        variables: dict[str, list[Key]] = {}
        for key in keys:
            variables.setdefault(_variable(key), []).append(key)
        settings, problems, idle = sources.from_environ(environ, variables)
        self.problems += problems
        for variable in idle:
            self.unknown_variable(variable, variables)
        return found + settings

    def unknown_variable(self, variable: str, known: Mapping[str, list[Key]]) -> None:
        """Report a variable that sets nothing, unless it may be for a plugin that is not loaded."""
        prefixes = tuple(_variable((section, "")) for section in self.reader.sections)
        if variable.startswith(prefixes):
            section = max(filter(variable.startswith, prefixes), key=len)
            near = did_you_mean(variable, [name for name in known if name.startswith(section)])
            near = near or "; `hvmmu config --explain` lists the keys"
        else:
            core = (None, *self.schema.core)
            near = did_you_mean(
                variable, [name for name, keys in known.items() if keys[0][0] in core], 0.9
            )
        if near:
            self.problems.append(f"{printable(variable)}: no such setting{near}")
        else:
            self.ignored.append(
                f"{printable(variable)}: no plugin that is loaded has such a setting"
            )

    def resolve(self, found: Sequence[Setting], mmus: tuple[str, ...]) -> Config:
        """Let each setting replace those before it, read the values, and return the whole."""
        chosen = [setting for setting in found if setting.is_backend]
        if chosen:
            self.choose_backends(chosen[-1])
        for setting in found:
            if setting.is_unqualified:
                self.set_unqualified(str(setting.name), setting)
            elif not setting.is_backend:
                self.set_in(setting.section, setting)
        for name in mmus:
            self.set_in(
                "mmu", Setting("mmu", "type", name, f"--mmu {printable(name)}", is_typed=True)
            )
            if len(mmus) > 1 and _MMU_TYPE in self.effective:  # each run has its own
                self.read(_MMU_TYPE, self.effective.pop(_MMU_TYPE))
        self.values.clear()
        for key, setting in self.effective.items():
            self.read(key, setting)
        sections = self.build_sections()
        if self.problems:
            raise ConfigError(list(dict.fromkeys(self.problems)))
        return Config(
            backends=self.backends,
            costs=str(self.value(None, self.top["costs"])[0]),
            engine=str(self.value(None, self.top["engine"])[0]),
            mmus=mmus or (str(getattr(sections.get("mmu"), "type", "")),),
            sections=sections,
            explicit={
                section: frozenset(name for home, name in self.values if home == section)
                for section in self.reader.sections
            },
            rows=tuple(self.rows()),
            ignored=tuple(dict.fromkeys(self.ignored)),
        )

    def choose_backends(self, setting: Setting) -> None:
        """Choose the backends of this setting."""
        names, source, there = _names(setting.given), setting.source, self.schema.backends
        kept = [name for name in names if isinstance(name, str) and name in there]
        for name in names:
            if name in kept:
                continue
            near = did_you_mean(name, there, _ALIKE) if isinstance(name, str) else ""
            problem = (
                f"backend ({source}): {quote(name)} is not an installed backend "
                f"({', '.join(there)}){near} (see `hvmmu backends`)"
            )
            is_absent = isinstance(name, str) and not near and not setting.is_typed
            (self.ignored if is_absent else self.problems).append(problem)
        if not names:
            self.problems.append(f"backend ({source}): names none; leave the key out for all")
        self.backends, self.backends_source = tuple(dict.fromkeys(kept)), source

    def set_unqualified(self, name: str, setting: Setting) -> None:
        """Set a name given without section: in every chosen backend, or else in one section.

        A plugin's section comes last: what it adds must not change the meaning of a name.
        """
        sections = self.reader.sections
        homes = [section for section, params in sections.items() if name in params]
        core = [section for section in homes if section in self.schema.core]
        core = core or [section for section in homes if section in self.schema.plugin_sections]
        chosen = self.backends
        unsupported = [s for s in chosen if name in self.reader.unsupported(s)]
        targets = [section for section in homes if section in chosen] or core or unsupported
        if len(core) > 1 and targets == core:
            which = " or ".join(f"-p {section}.{name}=..." for section in core)
            self.problems.append(f"{setting.source}: say which one: {which}")
        elif targets:
            for section in targets:
                self.set_in(section, setting)
        elif homes:
            self.problems.append(
                f"{setting.source}: {name} is a parameter of {homes[0]}, which is not chosen; "
                f"add -b {homes[0]}"
            )
        else:
            known = sorted({name for params in sections.values() for name in params})
            near = did_you_mean(name, known, _ALIKE) or "; `hvmmu params` lists them all"
            self.problems.append(f"{setting.source}: no parameter {quote(name)}{near}")

    def set_in(self, section: str | None, setting: Setting) -> None:
        """Have a setting replace those before it, or report why it cannot be one."""
        reader, source = self.reader, setting.source
        if section is not None and section not in reader.sections:
            if setting.is_typed or not section or reader.is_misspelt(section):
                self.problems.append(reader.no_section(section, source))
            else:
                why = f"no plugin that is loaded has such a section ({', '.join(reader.sections)})"
                self.ignored.append(f"{printable(section)} ({source}): {why}")
        elif setting.name is not None:  # an empty section sets nothing
            key = section, setting.name
            try:
                reader.param(key, source)
            except ConfigError as error:
                self.problems += error.problems
            else:
                self.effective[key] = setting

    def read(self, key: Key, setting: Setting) -> None:
        """Read the value of a setting that nothing replaces, or report why it is none."""
        param, source = self.reader.param(key, setting.source), setting.source
        try:
            value = parse(param, setting.given, key=dotted(key), source=source)
        except ConfigError as error:
            self.problems += error.problems
        else:
            self.values[key] = value, source

    def value(self, section: str | None, param: Param) -> tuple[Value, str]:
        """Return a parameter's value and its source."""
        return self.values.get((section, param.name), (param.default, DEFAULT))

    def build_sections(self) -> dict[str, Any]:
        """Return each section's object; its class may reject values that do not go together."""
        built = {}
        for section, params in self.schema.classes().items():
            own = {name: value for (s, name), value in self.values.items() if s == section}
            try:
                built[section] = params(**{name: value for name, (value, _) in own.items()})
            except (InputError, ValueError) as error:
                where = ", ".join(sorted({source for _, source in own.values()}))
                lines = error.problems if isinstance(error, ConfigError) else [str(error)]
                self.problems += [f"{section} ({where}): {printable(line)}" for line in lines]
        return built

    def rows(self) -> Iterator[ExplainRow]:
        """Yield every key with its value, source and default."""
        every = ",".join(self.schema.backends)
        yield ExplainRow("backend", ",".join(self.backends), self.backends_source, every)
        for section, params in ((None, self.top), *self.reader.sections.items()):
            for name, param in params.items():
                value, source = self.value(section, param)
                default = format_value(param, param.default)
                yield ExplainRow(
                    dotted((section, name)), format_value(param, value), source, default
                )


def _variable(key: Key) -> str:
    return PREFIX + dotted(key).upper().replace(".", "_").replace("-", "_")


def _names(given: object) -> list[object]:
    """Return the backends that a source names: a list, or text with commas."""
    if isinstance(given, str):
        return list(given.split(","))
    return given if isinstance(given, list) else [given]
