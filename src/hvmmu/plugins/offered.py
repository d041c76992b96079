"""What a plugin may offer: backends that are for this interface, whole, and well named."""

import re
from collections.abc import Iterable
from typing import Any, ClassVar, get_origin

import attrs

from hvmmu.backend import API_VERSION, Backend
from hvmmu.errors import PluginError
from hvmmu.native import NativeBackend
from hvmmu.params import declared, shown
from hvmmu.plugins.registry import State

BUILT_INS: dict[str, type[Backend[Any]]] = {NativeBackend.name: NativeBackend}

TAKEN = frozenset({"backend", "costs", "cpu", "engine", "guest", "mmu"})
"""Keys and sections of the configuration, where a backend's name is a section too."""

_NAME = re.compile(r"[A-Za-z][A-Za-z0-9_-]{0,63}")
_CLASS: Any = ClassVar
_MEMBERS = (
    *(name for name, kind in Backend.__annotations__.items() if get_origin(kind) is _CLASS),
    *(name for name, made in vars(Backend).items() if name[0] != "_" and callable(made)),
)
"""What a backend class must have: `in_force` comes with an instance."""


class RefusedError(PluginError):
    """A plugin that breaks a rule of ours; `state` is what that makes it."""

    def __init__(self, cause: str, state: State = State.BROKEN) -> None:
        """Keep the state beside the cause."""
        self.state = state
        super().__init__(cause)


def check_interface(what: str, version: object) -> None:
    """Raise RefusedError if *what* is not for this version of the interface."""
    if version != API_VERSION:
        cause = f"{what} is for api_version {shown(version)}, and this is {API_VERSION}"
        raise RefusedError(cause, State.INCOMPATIBLE)


def check_backends(offered: Iterable[Any]) -> list[type[Backend[Any]]]:
    """Return the backends that one plugin offers; raise RefusedError for one that cannot be."""
    checked: dict[str, type[Backend[Any]]] = {}
    for backend in offered:
        if not isinstance(backend, type):
            raise RefusedError(f"hvmmu_backends gave {shown_type(backend)}, which is no class")
        name = getattr(backend, "name", None)
        if not isinstance(name, str) or not _NAME.fullmatch(name):
            raise RefusedError(f"backend class {backend.__name__} has no usable name")
        check_interface(f"backend {name!r}", getattr(backend, "api_version", None))
        if name in BUILT_INS:
            raise RefusedError(f"backend {name!r} is {_BUILT_IN}", State.DUPLICATE)
        if name in TAKEN:
            raise RefusedError(f"backend {name!r} has the name of a section of the configuration")
        if name in checked:
            raise RefusedError(f"backend {name!r} is offered twice")
        _check_whole(name, backend)
        checked[name] = backend
    return list(checked.values())


_BUILT_IN = "built in, and a plugin has it too; give the plugin's another name"


def _check_whole(name: str, backend: Any) -> None:  # noqa: ANN401 - a class of a plugin
    """Raise RefusedError if a member is missing that the listing or the run would look for."""
    lacking = [member for member in _MEMBERS if not hasattr(backend, member)]
    if lacking:
        raise RefusedError(f"backend {name!r} lacks {', '.join(lacking)}")
    if not isinstance(backend.params, type) or not attrs.has(backend.params):
        raise RefusedError(f"backend {name!r}: its params are no attrs class")
    declared(backend.params)


def shown_type(given: object) -> str:
    """Return an object for an error message by its type, whatever it says of itself."""
    return f"an object of type {type(given).__name__}"
