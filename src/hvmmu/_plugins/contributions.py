"""The kinds of things that a plugin contributes, and the checks that each must pass.

A kind is a row of the table at the end; the loader has no branch on one.
"""

import re
from collections.abc import Callable, Collection, Iterable, Mapping
from typing import Any, ClassVar, NamedTuple, get_origin

import attrs

from hvmmu._engines import ENGINES as BUILT_IN_ENGINES
from hvmmu._mmus import MMUS as BUILT_IN_MMUS
from hvmmu._native import NativeBackend
from hvmmu._plugins.registry import CORE, State
from hvmmu.backend import API_VERSION, Backend, DeprivilegedBackend
from hvmmu.costs import MODELS, Cost, CostModel
from hvmmu.engine import Engine
from hvmmu.errors import PluginError
from hvmmu.mmu import Mmu
from hvmmu.params import params_of, quote
from hvmmu.workloads import FORMATS, WORKLOADS, TraceFormat, WorkloadKind

RESERVED_NAMES = frozenset({"backend", "costs", "engine", *CORE})
"""Keys and sections of the configuration: a backend's name is a section too."""

_NAME = r"[A-Za-z][A-Za-z0-9_-]{0,63}"
_PARTS = frozenset({"fault_outcomes", "model", "total"})
"""Names that no cost can have: keys beside the parts of an estimate, and a counter of rows."""
_CLASS: Any = ClassVar


def _methods(protocol: type) -> tuple[str, ...]:
    return tuple(name for name, made in vars(protocol).items() if name[0] != "_" and callable(made))


_BACKEND = (
    *(name for name, kind in Backend.__annotations__.items() if get_origin(kind) is _CLASS),
    *_methods(Backend),
)
"""Members that a backend class must have: `effective` comes with an instance."""

_DEPRIVILEGED = _methods(DeprivilegedBackend)
"""Further members, where its caps say deprivileged."""


class PluginRejectedError(PluginError):
    """A plugin that breaks a rule; `state` is the state that it gets."""

    def __init__(self, cause: str, state: State = State.BROKEN) -> None:
        """Keep the state beside the cause."""
        self.state = state
        super().__init__(cause)


class ContributionKind(NamedTuple):
    """One kind of thing that plugins contribute."""

    word: str
    hook: str
    built_in: Mapping[str, Any]
    check: Callable[[str, Any], None]
    """Takes a label and the object; raises PluginRejectedError if it cannot be used."""
    lacks_type: Callable[[Any], str] = lambda _: ""
    """Takes the object; returns the name of the type that it should have and has not."""
    is_section: bool = False
    """Whether its name is a section of the configuration."""
    isolated: Callable[[str, str, Any], Any] = lambda _plugin, _label, value: value
    """Takes the plugin's name, the label and the object; returns the object that the core calls."""

    def label(self, name: str) -> str:
        """Return the name of one of this kind for a message."""
        return f"{self.word} {name!r}"


def check_interface(what: str, version: object) -> None:
    """Raise PluginRejectedError if *what* is for another version of the interface."""
    if version != API_VERSION:
        cause = f"{what} is for api_version {quote(version)}, and this is {API_VERSION}"
        raise PluginRejectedError(cause, State.INCOMPATIBLE)


def check_contributions(
    kind: ContributionKind, given: Iterable[Any], taken: Collection[str] = ()
) -> dict[str, Any]:
    """Return one plugin's contributions of a kind, by name; *taken* are names besides the built-in.

    Raise PluginRejectedError for the first that breaks a rule.
    """
    checked: dict[str, Any] = {}
    for name, value in given.items() if isinstance(given, Mapping) else map(_named, given):
        if lacking := kind.lacks_type(value):
            raise PluginRejectedError(
                f"{kind.hook} gave {quote_type(value)}, which is no {lacking}"
            )
        if not isinstance(name, str) or not re.fullmatch(_NAME, name):
            raise PluginRejectedError(f"{_anonymous(kind, value)} has no usable name")
        label = kind.label(name)
        check_interface(label, getattr(value, "api_version", API_VERSION))
        if name in kind.built_in or name in taken:
            raise PluginRejectedError(f"{label} is {_BUILT_IN}", State.DUPLICATE)
        if kind.is_section and (name in RESERVED_NAMES or name in BUILT_INS):
            raise PluginRejectedError(f"{label} has the name of a section of the configuration")
        if name in checked:
            raise PluginRejectedError(f"{label} is contributed twice")
        kind.check(label, value)
        checked[name] = value
    return checked


def check_backends(given: Iterable[Any]) -> list[type[Backend[Any]]]:
    """Return one plugin's backends; raise PluginRejectedError for one that breaks a rule."""
    return list(check_contributions(BACKEND, given).values())


def check_sections(contributions: Mapping[str, Mapping[str, Any]]) -> None:
    """Raise PluginRejectedError if a plugin gives a section and its own backend the same name."""
    backends, sections = (contributions.get(kind.hook, ()) for kind in (BACKEND, PARAMETERS))
    if both := sorted(set(backends) & set(sections)):
        raise PluginRejectedError(f"{PARAMETERS.label(both[0])} has the name of its own backend")


_BUILT_IN = "built in, and a plugin has it too; give the plugin's another name"


def _named(value: object) -> tuple[object, Any]:
    return getattr(value, "name", None), value


def _anonymous(kind: ContributionKind, value: object) -> str:
    return f"{kind.word} class {value.__name__}" if isinstance(value, type) else f"a {kind.word}"


def quote_type(given: object) -> str:
    """Return an object for an error message by its type, whatever it says of itself."""
    return f"an object of type {type(given).__name__}"


# The rules of each kind.


def _lacks_class(value: object) -> str:
    return "" if isinstance(value, type) else "class"


def _lacks_model(value: object) -> str:
    return "" if isinstance(value, CostModel) else "CostModel"


def _lacks_command(value: object) -> str:
    import click  # noqa: PLC0415 - a plugin with commands has imported it

    return "" if isinstance(value, click.Command) else "click.Command"


def _check_members(label: str, value: object, members: Iterable[str]) -> None:
    """Raise PluginRejectedError if a member is missing that the listing or the run needs."""
    lacking = [member for member in members if not hasattr(value, member)]
    if lacking:
        raise PluginRejectedError(f"{label} lacks {', '.join(lacking)}")


def _check_backend(label: str, backend: Any) -> None:  # noqa: ANN401 - a class of a plugin
    _check_members(label, backend, _BACKEND)
    if getattr(backend.caps, "deprivileged", False):
        _check_members(label, backend, _DEPRIVILEGED)
    if not isinstance(backend.params, type) or not attrs.has(backend.params):
        raise PluginRejectedError(f"{label}: its params are no attrs class")
    params_of(backend.params)


def _check_engine(label: str, engine: Any) -> None:  # noqa: ANN401 - as above
    _check_members(label, engine, ("summary", *_methods(Engine)))
    _check_summary(label, engine)


def _check_mmu(label: str, mmu: Any) -> None:  # noqa: ANN401 - as above
    _check_members(label, mmu, ("summary", *_methods(Mmu)))
    _check_summary(label, mmu)


def _check_workload(label: str, value: Any) -> None:  # noqa: ANN401 - an object of a plugin
    _check_members(label, value, ("summary", "open"))
    _check_summary(label, value)


def _check_format(label: str, value: Any) -> None:  # noqa: ANN401 - as above
    _check_members(label, value, ("summary", "recognises", "open"))
    _check_summary(label, value)


def _check_summary(label: str, value: Any) -> None:  # noqa: ANN401 - as above
    if not isinstance(value.summary, str):
        raise PluginRejectedError(f"{label}: its summary is no text")


def _check_model(label: str, model: CostModel) -> None:
    for cost in model.costs:
        if not isinstance(cost, Cost) or type(cost.cycles) is not int or cost.cycles < 0:
            raise PluginRejectedError(
                f"{label}: its costs must be Cost objects of whole cycles, 0 or more"
            )
        if cost.name in _PARTS:
            raise PluginRejectedError(f"{label}: no cost may be named {cost.name!r}")


def _check_parameters(label: str, params: Any) -> None:  # noqa: ANN401 - a class of a plugin
    if not attrs.has(params) or not params_of(params):
        raise PluginRejectedError(
            f"{label}: must be an attrs class with parameters made by hvmmu.params.param"
        )
    params()


def _isolated_kind(plugin: str, label: str, value: Any) -> WorkloadKind:  # noqa: ANN401 - as above
    from hvmmu._plugins.isolate import IsolatedWorkloadKind  # noqa: PLC0415 - next to never

    return IsolatedWorkloadKind(plugin, label, value, value.name, value.summary)


def _isolated_format(plugin: str, label: str, value: Any) -> TraceFormat:  # noqa: ANN401 - as above
    from hvmmu._plugins.isolate import IsolatedTraceFormat  # noqa: PLC0415 - next to never

    return IsolatedTraceFormat(plugin, label, value, value.name, value.summary)


BUILT_INS: Mapping[str, type[Backend[Any]]] = {NativeBackend.name: NativeBackend}
"""The backends that are built in, by name."""

ENGINES: Mapping[str, type[Engine]] = {engine.name: engine for engine in BUILT_IN_ENGINES}

MMUS: Mapping[str, type[Mmu]] = {mmu.name: mmu for mmu in BUILT_IN_MMUS}

BACKEND = ContributionKind(
    "backend", "hvmmu_backends", BUILT_INS, _check_backend, _lacks_class, is_section=True
)
ENGINE = ContributionKind("engine", "hvmmu_engines", ENGINES, _check_engine, _lacks_class)
MMU = ContributionKind("MMU", "hvmmu_mmus", MMUS, _check_mmu, _lacks_class)
WORKLOAD = ContributionKind(
    "workload", "hvmmu_workloads", WORKLOADS, _check_workload, isolated=_isolated_kind
)
TRACE_FORMAT = ContributionKind(
    "trace format", "hvmmu_trace_formats", FORMATS, _check_format, isolated=_isolated_format
)
COST_MODEL = ContributionKind("cost model", "hvmmu_cost_models", MODELS, _check_model, _lacks_model)
COMMAND = ContributionKind("command", "hvmmu_commands", {}, lambda *_: None, _lacks_command)
PARAMETERS = ContributionKind(
    "parameters", "hvmmu_parameters", {}, _check_parameters, _lacks_class, is_section=True
)

KINDS = {
    kind.hook: kind
    for kind in (BACKEND, ENGINE, MMU, WORKLOAD, TRACE_FORMAT, COST_MODEL, COMMAND, PARAMETERS)
}
"""Every kind by its hook, in the order of the hooks."""
