"""Level 1: module parameters: documented, strictly parsed, and never changed silently."""

from __future__ import annotations

import logging
from contextlib import contextmanager
from typing import TYPE_CHECKING

import attrs
from structlog.testing import capture_logs

from hvmmu.errors import BackendUnavailableError, ConfigError
from hvmmu.params import Param, format_value, params_of, parse
from hvmmu.testing.check import BOTH, CheckFailure, check
from hvmmu.testing.invalid_values import invalid_texts, invalid_values

if TYPE_CHECKING:
    from collections.abc import Iterator

    from hvmmu.testing.context import Context
    from hvmmu.testing.settings import Setting

_PAGE = "hvmmu.params: param"
_TYPES = (bool, int, str)


@check(
    "parameters.declared",
    rule="The parameters are a frozen attrs class with every field declared by hvmmu.params.param.",
    reference=_PAGE,
    of=BOTH,
)
def are_declared(context: Context) -> None:
    """Look at the fields of the class, and try to change one."""
    params = context.params
    names = {param.name for param in params_of(params)}
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
    rule="Every parameter has a description of one line, and is a bool, an int or a str.",
    reference=_PAGE,
    of=BOTH,
)
def are_documented(context: Context) -> None:
    """Look at the declarations."""
    for param in params_of(context.params):
        if not isinstance(param.doc, str) or not param.doc.strip() or not param.doc.isprintable():
            raise CheckFailure(f"{param.name} has the doc {param.doc!r}")
        if param.type not in _TYPES or type(param.default) is not param.type:
            raise CheckFailure(f"{param.name} has the type {param.type!r}, not bool, int or str")


@check(
    "parameters.defaults-are-accepted",
    rule="Every default is a valid value of its parameter, as a value and as text.",
    reference=_PAGE,
    of=BOTH,
)
def defaults_are_accepted(context: Context) -> None:
    """Pass each default, as a value and as text."""
    params = context.params
    for param in params_of(params):
        shown = f"{param.name}={param.default!r}"
        try:
            made = getattr(params(**{param.name: param.default}), param.name)
            read = parse(param, format_value(param, param.default), key=param.name, source="check")
        except ConfigError as error:
            raise CheckFailure(f"the default {shown} is rejected: {error}") from None
        for value in (getattr(params(), param.name), made, read):
            if value != param.default or type(value) is not param.type:
                raise CheckFailure(f"the default {shown} is read as {value!r}")


@check(
    "parameters.text-is-read-strictly",
    rule="Text that is not exactly a value of the parameter is rejected in one line: no lenient"
    " spelling, no wrong type, nothing out of bounds.",
    reference=_PAGE,
    of=BOTH,
)
def text_is_read_strictly(context: Context) -> None:
    """Pass every parameter values that a lenient parser would accept."""
    for param in params_of(context.params):
        for given in invalid_texts(param):
            try:
                value = parse(param, given, key=param.name, source="check")
            except ConfigError as error:
                _in_one_line(param, given, error)
                continue
            raise CheckFailure(f"{param.name}={given!r} is read as {value!r}")


@check(
    "parameters.values-are-taken-strictly",
    rule="The class of the parameters rejects every value of another type or out of bounds, in one"
    " line: it converts nothing.",
    reference=_PAGE,
    of=BOTH,
)
def values_are_taken_strictly(context: Context) -> None:
    """Make the class with wrong values, one at a time."""
    params = context.params
    for param in params_of(params):
        for given in invalid_values(param):
            try:
                made = params(**{param.name: given})
            except ConfigError as error:
                _in_one_line(param, given, error)
                continue
            taken = getattr(made, param.name)
            raise CheckFailure(f"{params.__name__}({param.name}={given!r}) becomes {taken!r}")


def _in_one_line(param: Param, given: object, error: ConfigError) -> None:
    """Fail unless the error names the parameter in one line of plain text."""
    message = str(error)
    if not message.isprintable() or param.name not in message or len(error.problems) != 1:
        raise CheckFailure(f"{param.name}={given!r} is rejected with {message!r}")


@check(
    "parameters.effective",
    rule="effective is an instance of params with the given values, unless the CPU model does not"
    " support one of them.",
    reference="hvmmu.backend: Backend.effective",
)
def effective(context: Context) -> None:
    """Create the backend with every setting, on a CPU with all features."""
    for setting in context.settings():
        made = context.made(setting).effective
        if type(made) is not context.backend.params:
            raise CheckFailure(f"effective is {type(made).__name__}, with {setting}")
        if made != setting:
            raise CheckFailure(f"given {setting}, {made} is effective on {context.cpu()}")


@check(
    "parameters.compare-params",
    rule="compare_params names parameters that exist and are bools, each once.",
    reference="hvmmu.backend: Backend.compare_params",
)
def compare_params(context: Context) -> None:
    """Look each name up."""
    over = context.backend.compare_params
    if isinstance(over, str) or len(set(over)) != len(over):
        raise CheckFailure(f"compare_params is {over!r}")
    bools = [p.name for p in params_of(context.backend.params) if p.type is bool]
    for name in over:
        if name not in bools:
            raise CheckFailure(f"compare_params names {name!r}; the bools are {bools}")


@check(
    "parameters.unsupported",
    rule="An unsupported parameter is not declared, and its reason is one line of text.",
    reference="hvmmu.backend: Backend.unsupported",
)
def unsupported(context: Context) -> None:
    """Look at each name and reason."""
    names = {param.name for param in params_of(context.backend.params)}
    for name, reason in context.backend.unsupported.items():
        if name in names:
            raise CheckFailure(f"{name!r} is both declared and unsupported")
        if not isinstance(reason, str) or not reason.strip() or not reason.isprintable():
            raise CheckFailure(f"the reason of {name!r} is {reason!r}")


@check(
    "parameters.never-silently-changed",
    rule="A parameter that the CPU model does not support is an error naming it if it is explicit,"
    " and is turned off with a warning otherwise; no other parameter is changed or rejected.",
    reference="hvmmu.backend: Backend",
)
def never_silently_changed(context: Context) -> None:
    """Create the backend on every CPU model, with explicit and with default parameters."""
    for cpu in context.cpus():
        for setting in context.settings():
            with _warnings() as warned:
                made = context.made(setting, cpu).effective
            changed = _changed(setting, made)
            what = f"{', '.join(sorted(changed))} of {setting} on {cpu}"
            if changed and not warned:
                raise CheckFailure(f"{what} was changed to {made} without a warning")
            for name in attrs.asdict(setting):
                _check_explicit(context, setting, name, frozenset(changed), cpu)


def _changed(setting: Setting, made: Setting) -> set[str]:
    before, after = attrs.asdict(setting), attrs.asdict(made)
    return {name for name, value in before.items() if after.get(name) != value}


def _check_explicit(
    context: Context, setting: Setting, name: str, changed: frozenset[str], cpu: object
) -> None:
    """Create the backend with one explicit parameter."""
    what = f"explicit {name} of {setting} on {cpu}"
    try:
        made = context.made(setting, cpu, frozenset({name})).effective  # type: ignore[arg-type]
    except BackendUnavailableError as error:
        message = str(error)
        if name not in changed:
            raise CheckFailure(f"{what}: {message}; as a default it is not changed") from None
        if not message.isprintable() or name not in message:
            raise CheckFailure(f"{what}: rejected with {message!r}") from None
        return
    if name in changed or name in _changed(setting, made):
        raise CheckFailure(f"{what} is changed to {getattr(made, name)!r} and not rejected")


class _Handler(logging.Handler):
    """Collects the warnings of the standard library's logging."""

    def __init__(self) -> None:
        super().__init__(logging.WARNING)
        self.warned: list[object] = []

    def emit(self, record: logging.LogRecord) -> None:
        """Collect it."""
        self.warned.append(record.msg)


@contextmanager
def _warnings() -> Iterator[list[object]]:
    """Yield a list that will hold every warning of structlog and of logging."""
    handler = _Handler()
    found: list[object] = []
    logging.getLogger().addHandler(handler)
    try:
        with capture_logs() as logs:
            yield found
        found += [log for log in logs if log["log_level"] in ("warning", "error", "critical")]
        found += handler.warned
    finally:
        logging.getLogger().removeHandler(handler)
