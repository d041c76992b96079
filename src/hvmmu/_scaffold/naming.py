"""What a new backend may be called: the name is a section, a package, and a factor of tox's too."""

import importlib.util
import keyword
import re
from collections.abc import Collection

from hvmmu._plugins.registry import BASELINE
from hvmmu.errors import InputError
from hvmmu.params import quote

MOST = 24  # characters: every line of the template keeps within its width

_NAME = re.compile(rf"(?=.{{1,{MOST}}}\Z)[a-z][a-z0-9]*(?:-[a-z0-9]+)*")
_PYTHON = re.compile(r"(?:py|cpython|pypy|jython|graalpy|rustpython|ironpython)[0-9]*")
"""What tox takes for an interpreter."""


def module_of(name: str) -> str:
    """Return the module that a backend's package has."""
    return f"hvmmu_{name.replace('-', '_')}"


def check_name(name: str, taken: Collection[str]) -> None:
    """Raise InputError, saying why, if *name* cannot be a new backend's.

    *taken* are the backends and plugins there are, and the sections of the configuration.
    """
    if not _NAME.fullmatch(name):
        raise InputError(
            f"{quote(name)} cannot be a backend's name: write at most {MOST} lower-case letters,"
            " digits, and single hyphens between them, a letter first"
        )
    if why := _objection(name, taken):
        raise InputError(f"{name!r} cannot be a new backend's name: {why}; choose another")


def _objection(name: str, taken: Collection[str]) -> str:
    parts = name.split("-")
    if name in taken:
        return "a backend, plugin, cost model or section of the configuration has it"
    if keyword.iskeyword(name):
        return "it is a word of Python's"
    if any(_PYTHON.fullmatch(part) for part in parts):
        return "tox would take it for a Python"
    if BASELINE in parts:
        return f"{BASELINE} is the built-in backend"
    if importlib.util.find_spec(module_of(name)) is not None:
        return f"a module {module_of(name)} is installed"
    return ""
