"""What a plugin may offer: every kind of it, of the right form, whole, and well named.

A kind is a row of the table at the end; the loader has no branch on one.
"""

import re
from collections.abc import Callable, Collection, Iterable, Mapping
from typing import Any, ClassVar, NamedTuple, get_origin

import attrs

from hvmmu._engines import ENGINES as BUILT_IN_ENGINES
from hvmmu._native import NativeBackend
from hvmmu._plugins.known import CORE
from hvmmu._plugins.registry import State
from hvmmu.backend import API_VERSION, Backend, DeprivilegedBackend
from hvmmu.costs import MODELS, Cost, CostModel
from hvmmu.engine import Engine, EngineCaps
from hvmmu.errors import PluginError
from hvmmu.params import declared, shown
from hvmmu.workloads import FORMATS, WORKLOADS, TraceFormat, WorkloadKind

TAKEN = frozenset({"backend", "costs", "engine", *CORE})
"""Keys and sections of the configuration, where a backend's name is a section too."""

_NAME = re.compile(r"[A-Za-z][A-Za-z0-9_-]{0,63}")
_PARTS = frozenset({"model", "routes", "total"})
"""What a cost cannot price: keys beside the parts of an estimate, and a counter of rows."""
_CLASS: Any = ClassVar


def _methods(protocol: type) -> tuple[str, ...]:
    return tuple(name for name, made in vars(protocol).items() if name[0] != "_" and callable(made))


_BACKEND = (
    *(name for name, kind in Backend.__annotations__.items() if get_origin(kind) is _CLASS),
    *_methods(Backend),
)
"""What a backend class must have: `effective` comes with an instance."""

_DEPRIVILEGED = _methods(DeprivilegedBackend)
"""What it must have besides, where its caps say deprivileged."""


class RefusedError(PluginError):
    """A plugin that breaks a rule of ours; `state` is what that makes it."""

    def __init__(self, cause: str, state: State = State.BROKEN) -> None:
        """Keep the state beside the cause."""
        self.state = state
        super().__init__(cause)


class Kind(NamedTuple):
    """One kind of thing that plugins offer."""

    word: str
    hook: str
    built_in: Mapping[str, Any]
    check: Callable[[str, Any], None]
    """Takes a label and what was offered; raises RefusedError if it cannot be used."""
    form: Callable[[Any], str] = lambda _: ""
    """Returns what something is not, if it is not even of the right form."""
    is_section: bool = False
    """Whether its name is a section of the configuration."""
    guarded: Callable[[str, str, Any], Any] = lambda _plugin, _label, made: made
    """Takes the plugin's name, the label and what was offered; returns what the core calls."""

    def label(self, name: str) -> str:
        """Return what one of this kind is called in a message."""
        return f"{self.word} {name!r}"


def check_interface(what: str, version: object) -> None:
    """Raise RefusedError if *what* is not for this version of the interface."""
    if version != API_VERSION:
        cause = f"{what} is for api_version {shown(version)}, and this is {API_VERSION}"
        raise RefusedError(cause, State.INCOMPATIBLE)


def check_offers(kind: Kind, given: Iterable[Any], taken: Collection[str] = ()) -> dict[str, Any]:
    """Return what one plugin offers of a kind, by name; *taken* are names besides the built-in.

    Raise RefusedError for one that cannot be.
    """
    checked: dict[str, Any] = {}
    for name, made in given.items() if isinstance(given, Mapping) else map(_named, given):
        if is_not := kind.form(made):
            raise RefusedError(f"{kind.hook} gave {shown_type(made)}, which is no {is_not}")
        if not isinstance(name, str) or not _NAME.fullmatch(name):
            raise RefusedError(f"{_anonymous(kind, made)} has no usable name")
        label = kind.label(name)
        check_interface(label, getattr(made, "api_version", API_VERSION))
        if name in kind.built_in or name in taken:
            raise RefusedError(f"{label} is {_BUILT_IN}", State.DUPLICATE)
        if kind.is_section and (name in TAKEN or name in BUILT_INS):
            raise RefusedError(f"{label} has the name of a section of the configuration")
        if name in checked:
            raise RefusedError(f"{label} is offered twice")
        kind.check(label, made)
        checked[name] = made
    return checked


def check_backends(given: Iterable[Any]) -> list[type[Backend[Any]]]:
    """Return the backends that one plugin offers; raise RefusedError for one that cannot be."""
    return list(check_offers(BACKEND, given).values())


def check_sections(offers: Mapping[str, Mapping[str, Any]]) -> None:
    """Raise RefusedError if a plugin gives a section and a backend of its own the same name."""
    both = sorted(set(offers.get(BACKEND.hook, ())) & set(offers.get(PARAMETERS.hook, ())))
    if both:
        raise RefusedError(f"{PARAMETERS.label(both[0])} has the name of its own backend")


_BUILT_IN = "built in, and a plugin has it too; give the plugin's another name"


def _named(made: object) -> tuple[object, Any]:
    return getattr(made, "name", None), made


def _anonymous(kind: Kind, made: object) -> str:
    return f"{kind.word} class {made.__name__}" if isinstance(made, type) else f"a {kind.word}"


def shown_type(given: object) -> str:
    """Return an object for an error message by its type, whatever it says of itself."""
    return f"an object of type {type(given).__name__}"


# What each kind must be.


def _no_class(made: object) -> str:
    return "" if isinstance(made, type) else "class"


def _no_model(made: object) -> str:
    return "" if isinstance(made, CostModel) else "CostModel"


def _no_command(made: object) -> str:
    import click  # noqa: PLC0415 - only where a plugin has commands, and so has imported it

    return "" if isinstance(made, click.Command) else "click.Command"


def _whole(label: str, made: object, members: Iterable[str]) -> None:
    """Raise RefusedError if a member is missing that the listing or the run would look for."""
    lacking = [member for member in members if not hasattr(made, member)]
    if lacking:
        raise RefusedError(f"{label} lacks {', '.join(lacking)}")


def _check_backend(label: str, backend: Any) -> None:  # noqa: ANN401 - a class of a plugin
    _whole(label, backend, _BACKEND)
    if getattr(backend.caps, "deprivileged", False):
        _whole(label, backend, _DEPRIVILEGED)
    if not isinstance(backend.params, type) or not attrs.has(backend.params):
        raise RefusedError(f"{label}: its params are no attrs class")
    declared(backend.params)


def _check_engine(label: str, engine: Any) -> None:  # noqa: ANN401 - as above
    _whole(label, engine, ("summary", "caps", *_methods(Engine)))
    _check_summary(label, engine)
    if not isinstance(engine.caps, EngineCaps):
        raise RefusedError(f"{label}: its caps are no EngineCaps")


def _check_workload(label: str, made: Any) -> None:  # noqa: ANN401 - an object of a plugin
    _whole(label, made, ("summary", "open"))
    _check_summary(label, made)


def _check_format(label: str, made: Any) -> None:  # noqa: ANN401 - as above
    _whole(label, made, ("summary", "recognises", "open"))
    _check_summary(label, made)


def _check_summary(label: str, made: Any) -> None:  # noqa: ANN401 - as above
    if not isinstance(made.summary, str):
        raise RefusedError(f"{label}: its summary is no text")


def _check_model(label: str, model: CostModel) -> None:
    for cost in model.costs:
        if not isinstance(cost, Cost) or type(cost.cycles) is not int or cost.cycles < 0:
            raise RefusedError(f"{label}: a Cost of whole cycles, 0 or more, is what it may have")
        if cost.name in _PARTS:
            raise RefusedError(f"{label}: nothing named {cost.name!r} can be priced")


def _check_parameters(label: str, params: Any) -> None:  # noqa: ANN401 - a class of a plugin
    if not attrs.has(params) or not declared(params):
        raise RefusedError(f"{label}: no attrs class with parameters made by hvmmu.params.param")
    params()


def _guarded_kind(plugin: str, label: str, made: Any) -> WorkloadKind:  # noqa: ANN401 - as above
    from hvmmu._plugins.guard import GuardedKind  # noqa: PLC0415 - only where a plugin has some

    return GuardedKind(plugin, label, made, made.name, made.summary)


def _guarded_format(plugin: str, label: str, made: Any) -> TraceFormat:  # noqa: ANN401 - as above
    from hvmmu._plugins.guard import GuardedFormat  # noqa: PLC0415 - only where a plugin has some

    return GuardedFormat(plugin, label, made, made.name, made.summary)


BUILT_INS: Mapping[str, type[Backend[Any]]] = {NativeBackend.name: NativeBackend}
"""The backends that are built in, by name."""

ENGINES: Mapping[str, type[Engine]] = {made.name: made for made in BUILT_IN_ENGINES}

BACKEND = Kind("backend", "hvmmu_backends", BUILT_INS, _check_backend, _no_class, is_section=True)
ENGINE = Kind("engine", "hvmmu_engines", ENGINES, _check_engine, _no_class)
WORKLOAD = Kind("workload", "hvmmu_workloads", WORKLOADS, _check_workload, guarded=_guarded_kind)
TRACE_FORMAT = Kind(
    "trace format", "hvmmu_trace_formats", FORMATS, _check_format, guarded=_guarded_format
)
COST_MODEL = Kind("cost model", "hvmmu_cost_models", MODELS, _check_model, _no_model)
COMMAND = Kind("command", "hvmmu_commands", {}, lambda *_: None, _no_command)
PARAMETERS = Kind(
    "parameters", "hvmmu_parameters", {}, _check_parameters, _no_class, is_section=True
)

KINDS = {
    kind.hook: kind
    for kind in (BACKEND, ENGINE, WORKLOAD, TRACE_FORMAT, COST_MODEL, COMMAND, PARAMETERS)
}
"""Every kind by its hook, in the order of the hooks."""
