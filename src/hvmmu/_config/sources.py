"""Read settings from the nearest file, the environment and the arguments of -p.

Each is a key, a value and its source; whether the key exists is decided later.
"""

import os
import re
import stat
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

from hvmmu._config.schema import Key
from hvmmu.errors import ConfigError
from hvmmu.params import printable

MOST_BYTES = 1 << 20  # a configuration file over 1 MiB is a mistake, and not read
_MOST_PARTS = 64
_LONG_KEY = rf"""(?<![\w"'-])(?:[\w"'-]++\s*+\.\s*+){{{_MOST_PARTS}}}"""
PREFIX = "HVMMU_"
RESERVED = frozenset({"HVMMU_PLUGINS", "HVMMU_DISABLE_PLUGIN_AUTOLOAD"})  # the plugin loader's


class Setting(NamedTuple):
    """One key set by one source.

    Section None: a top-level key, or with `is_unqualified` a name that -p gave without section.
    Name None: a section that sets nothing.
    """

    section: str | None
    name: str | None
    given: object
    source: str
    is_unqualified: bool = False
    is_typed: bool = False
    """Whether it was typed with the command, not left in a file or the environment."""

    @property
    def is_backend(self) -> bool:
        """Return whether this is the top-level key that chooses the backends."""
        return self.section is None and self.name == "backend" and not self.is_unqualified


def from_file(cwd: Path) -> list[Setting]:
    """Return the settings of the nearest configuration file; raise ConfigError if unreadable."""
    found = _nearest_file(cwd)
    if found is None:
        return []
    source, table = found
    settings = []
    for key, given in table.items():
        if not isinstance(given, dict):
            settings.append(Setting(None, key, given, source))
            continue
        settings += [Setting(key, name, value, source) for name, value in given.items()]
        if not given:
            settings.append(Setting(key, None, None, source))
    return settings


def from_environ(
    environ: Mapping[str, str], names: Mapping[str, Sequence[Key]]
) -> tuple[list[Setting], list[str], list[str]]:
    """Return the settings in the environment, the problems, and the variables that set nothing.

    *names* maps each variable to its keys. One of several keys is a problem, as `a-b.c` and `a.b_c`
    have the same.
    """
    settings, problems, idle = [], [], []
    for variable in sorted(environ):
        if len(keys := names.get(variable, ())) > 1:
            which = " or ".join(f"-p {section}.{name}=..." for section, name in keys)
            problems.append(f"{variable}: may mean several; write {which}")
        elif keys:
            settings.append(Setting(*keys[0], environ[variable], variable))
        elif variable.startswith(PREFIX) and variable not in RESERVED:
            idle.append(variable)
    return settings, problems, idle


def from_arguments(texts: Sequence[str]) -> tuple[list[Setting], list[str]]:
    """Return the settings of -p's arguments, and the problems."""
    settings, problems = [], []
    for text in texts:
        source = f"-p {printable(text)}"
        key, equals, given = text.partition("=")
        section, dot, name = key.rpartition(".")
        if equals and name:
            settings.append(Setting(section if dot else None, name, given, source, not dot, True))
        else:
            problems.append(f"{source}: write -p name=value or -p section.name=value")
    return settings, problems


def _nearest_file(cwd: Path) -> tuple[str, dict[str, Any]] | None:
    """Return the file's name and its table: hvmmu.toml before pyproject.toml, then upwards.

    Of pyproject.toml only the nearest is read: its project is the one worked on.
    """
    projects = _nearest_project(cwd)
    for directory in (cwd, *cwd.parents):
        if os.path.lexists(directory / "hvmmu.toml"):
            where = printable(os.path.relpath(directory / "hvmmu.toml", cwd))
            return where, read_toml(directory / "hvmmu.toml", where)
        if directory == projects:
            where = printable(os.path.relpath(directory / "pyproject.toml", cwd))
            table = _tool_table(read_toml(directory / "pyproject.toml", where), where)
            if table is not None:
                return f"{where} [tool.hvmmu]", table
    return None


def _nearest_project(cwd: Path) -> Path | None:
    directories: Iterator[Path] = iter((cwd, *cwd.parents))
    return next((d for d in directories if os.path.lexists(d / "pyproject.toml")), None)


def _tool_table(project: dict[str, Any], where: str) -> dict[str, Any] | None:
    tool = project.get("tool")
    table = tool.get("hvmmu") if isinstance(tool, dict) else None
    if table is not None and not isinstance(table, dict):
        raise ConfigError([f"{where}: tool.hvmmu is no table; write [tool.hvmmu]"])
    return table


def read_toml(path: Path, where: str) -> dict[str, Any]:
    """Return the file's tables; raise ConfigError with one clear line."""
    try:
        if not stat.S_ISREG(path.stat().st_mode):
            raise ConfigError([f"{where}: not a regular file; move it away or write one"])
        with path.open("rb") as file:
            raw = file.read(MOST_BYTES + 1)
    except OSError as error:
        raise ConfigError([f"{where}: cannot be read: {error.strerror}"]) from None
    if len(raw) > MOST_BYTES:
        raise ConfigError([f"{where}: over 1 MiB; hvmmu's configuration is a few lines"])
    import tomllib  # noqa: PLC0415 - where there is a file

    try:
        text = raw.decode("utf-8-sig")
        if re.search(_LONG_KEY, text):  # the standard library's reader takes seconds for one
            raise ConfigError([f"{where}: a key of more than {_MOST_PARTS} parts"])
        return tomllib.loads(text)
    except UnicodeDecodeError as error:
        raise ConfigError([f"{where}: not UTF-8 at byte {error.start}; save it as UTF-8"]) from None
    except RecursionError:
        raise ConfigError([f"{where}: not TOML that can be read: nested too deep"]) from None
    except ValueError as error:
        raise ConfigError([f"{where}: not TOML: {printable(str(error))}"]) from None
