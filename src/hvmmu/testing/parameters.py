"""Level 1: module parameters: documented, strictly read, and honest about the CPU."""

from __future__ import annotations

import logging
from contextlib import contextmanager
from typing import TYPE_CHECKING

import attrs
from structlog.testing import capture_logs

from hvmmu.errors import BackendUnavailableError, ConfigError
from hvmmu.params import Param, declared, parse, written
from hvmmu.testing.check import BOTH, CheckFailure, check
from hvmmu.testing.loose import loose_text, wrong_values

if TYPE_CHECKING:
    from collections.abc import Iterator

    from hvmmu.testing.context import Context
    from hvmmu.testing.settings import Setting

_PAGE = "hvmmu.params: param"
_TYPES = (bool, int, str)


@check(
    "parameters.declared",
    rule="Parameters are a frozen attrs class, each field of it declared with hvmmu.params.param.",
    reference=_PAGE,
    of=BOTH,
)
def are_declared(context: Context) -> None:
    """Look at the fields of the class, and try to change one."""
    params = context.params
    names = {param.name for param in declared(params)}
    for field in attrs.fields(params):
        if field.name not in names:
            raise CheckFailure(f"{params.__name__}.{field.name} is not declared with param()")
        made = params()
        try:
            setattr(made, field.name, getattr(made, field.name))
        except attrs.exceptions.FrozenInstanceError:
            continue
        raise CheckFailure(f"{params.__name__} is not frozen: {field.name} can be set")


@check(
    "parameters.documented",
    rule="Every parameter says in one line what it is for, and is a bool, an int or a str.",
    reference=_PAGE,
    of=BOTH,
)
def are_documented(context: Context) -> None:
    """Look at what is declared."""
    for param in declared(context.params):
        if not isinstance(param.doc, str) or not param.doc.strip() or not param.doc.isprintable():
            raise CheckFailure(f"{param.name} has the doc {param.doc!r}")
        if param.type not in _TYPES or type(param.default) is not param.type:
            raise CheckFailure(f"{param.name} has the type {param.type!r}, not bool, int or str")


@check(
    "parameters.defaults-are-accepted",
    rule="Every default is a value that the parameter itself accepts, typed or as text.",
    reference=_PAGE,
    of=BOTH,
)
def defaults_are_accepted(context: Context) -> None:
    """Give each default back, as a value and as the text that stands for it."""
    params = context.params
    for param in declared(params):
        shown = f"{param.name}={param.default!r}"
        try:
            made = getattr(params(**{param.name: param.default}), param.name)
            read = parse(param, written(param, param.default), key=param.name, source="check")
        except ConfigError as error:
            raise CheckFailure(f"the default {shown} is refused: {error}") from None
        for value in (getattr(params(), param.name), made, read):
            if value != param.default or type(value) is not param.type:
                raise CheckFailure(f"the default {shown} is read as {value!r}")


@check(
    "parameters.text-is-read-strictly",
    rule="Text that is not exactly a value of the parameter is refused in one line: no loose"
    " spelling, no wrong type, nothing out of bounds.",
    reference=_PAGE,
    of=BOTH,
)
def text_is_read_strictly(context: Context) -> None:
    """Hand every parameter what a loose parser would take."""
    for param in declared(context.params):
        for given in loose_text(param):
            try:
                value = parse(param, given, key=param.name, source="check")
            except ConfigError as error:
                _in_one_line(param, given, error)
                continue
            raise CheckFailure(f"{param.name}={given!r} is read as {value!r}")


@check(
    "parameters.values-are-taken-strictly",
    rule="The class of the parameters refuses every value of another type or out of bounds, in one"
    " line: it converts nothing.",
    reference=_PAGE,
    of=BOTH,
)
def values_are_taken_strictly(context: Context) -> None:
    """Make the class with wrong values, one at a time."""
    params = context.params
    for param in declared(params):
        for given in wrong_values(param):
            try:
                made = params(**{param.name: given})
            except ConfigError as error:
                _in_one_line(param, given, error)
                continue
            taken = getattr(made, param.name)
            raise CheckFailure(f"{params.__name__}({param.name}={given!r}) is taken as {taken!r}")


def _in_one_line(param: Param, given: object, error: ConfigError) -> None:
    """Fail unless the error says in one line of plain text which parameter it is about."""
    said = str(error)
    if not said.isprintable() or param.name not in said or len(error.problems) != 1:
        raise CheckFailure(f"{param.name}={given!r} is refused with {said!r}")


@check(
    "parameters.in-force",
    rule="effective is an instance of params with the values that were given, unless the CPU model"
    " cannot do one of them.",
    reference="hvmmu.backend: Backend.effective",
)
def effective(context: Context) -> None:
    """Make the backend with every setting, on a CPU that has all there is."""
    for setting in context.settings():
        made = context.made(setting).effective
        if type(made) is not context.backend.params:
            raise CheckFailure(f"effective is {type(made).__name__}, with {setting}")
        if made != setting:
            raise CheckFailure(f"given {setting}, {made} is in force on {context.cpu()}")


@check(
    "parameters.compare-over",
    rule="compare_params names parameters that exist and are bools, each once.",
    reference="hvmmu.backend: Backend.compare_params",
)
def compare_params(context: Context) -> None:
    """Look each name up."""
    over = context.backend.compare_params
    if isinstance(over, str) or len(set(over)) != len(over):
        raise CheckFailure(f"compare_params is {over!r}")
    bools = [p.name for p in declared(context.backend.params) if p.type is bool]
    for name in over:
        if name not in bools:
            raise CheckFailure(f"compare_params names {name!r}; the bools are {bools}")


@check(
    "parameters.unsupported",
    rule="What is refused is not also a parameter, and its reason is one line for people.",
    reference="hvmmu.backend: Backend.unsupported",
)
def refused(context: Context) -> None:
    """Look at each name and reason."""
    names = {param.name for param in declared(context.backend.params)}
    for name, reason in context.backend.unsupported.items():
        if name in names:
            raise CheckFailure(f"{name!r} is a parameter and refused")
        if not isinstance(reason, str) or not reason.strip() or not reason.isprintable():
            raise CheckFailure(f"{name!r} is refused because of {reason!r}")


@check(
    "parameters.never-silently-changed",
    rule="What the CPU model cannot do is refused if somebody set it, naming the parameter, and"
    " turned off with a warning if nobody did; nothing else is changed or refused.",
    reference="hvmmu.backend: Backend",
)
def never_silently_changed(context: Context) -> None:
    """Make the backend on every CPU model, its parameters set by somebody and by nobody."""
    for cpu in context.cpus():
        for setting in context.settings():
            with _heard() as heard:
                made = context.made(setting, cpu).effective
            changed = _changed(setting, made)
            what = f"{', '.join(sorted(changed))} of {setting} on {cpu}"
            if changed and not heard:
                raise CheckFailure(f"{what} was changed to {made} without a warning")
            for name in attrs.asdict(setting):
                _asked(context, setting, name, frozenset(changed), cpu)


def _changed(setting: Setting, made: Setting) -> set[str]:
    before, after = attrs.asdict(setting), attrs.asdict(made)
    return {name for name, value in before.items() if after.get(name) != value}


def _asked(
    context: Context, setting: Setting, name: str, changed: frozenset[str], cpu: object
) -> None:
    """Make the backend with one parameter set by somebody."""
    what = f"{name} of {setting}, set by somebody, on {cpu}"
    try:
        made = context.made(setting, cpu, frozenset({name})).effective  # type: ignore[arg-type]
    except BackendUnavailableError as error:
        said = str(error)
        if name not in changed:
            raise CheckFailure(f"{what}: {said}; set by nobody, it is left as it is") from None
        if not said.isprintable() or name not in said:
            raise CheckFailure(f"{what}: refused with {said!r}") from None
        return
    if name in changed or name in _changed(setting, made):
        raise CheckFailure(f"{what} is turned to {getattr(made, name)!r} and not refused")


class _Listener(logging.Handler):
    """Notes the warnings that go through the standard library's logging."""

    def __init__(self) -> None:
        super().__init__(logging.WARNING)
        self.heard: list[object] = []

    def emit(self, record: logging.LogRecord) -> None:
        """Note it."""
        self.heard.append(record.msg)


@contextmanager
def _heard() -> Iterator[list[object]]:
    """Yield a list that will have whatever was warned of, by structlog or by logging."""
    listener = _Listener()
    said: list[object] = []
    logging.getLogger().addHandler(listener)
    try:
        with capture_logs() as logs:
            yield said
        said += [log for log in logs if log["log_level"] in ("warning", "error", "critical")]
        said += listener.heard
    finally:
        logging.getLogger().removeHandler(listener)
