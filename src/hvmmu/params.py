"""Module parameters: declared once as attrs classes, read by one strict grammar.

A parameter is a bool, a whole number or a word. Text of any source is read by the same grammar;
TOML booleans and integers keep their values.
"""

import re
from collections.abc import Iterable
from typing import Any, NamedTuple, TypeVar

import attrs

from hvmmu.errors import ConfigError

Value = bool | int | str
V = TypeVar("V", bool, int, str)

_KEY = "hvmmu.param"  # the key of the declaration in an attrs field's metadata
_BOOLS = {
    **dict.fromkeys(("1", "y", "yes", "on", "true"), True),
    **dict.fromkeys(("0", "n", "no", "off", "false"), False),
}
_SIZE = r"(-?(?:0|[1-9][0-9]{0,19})|0x[0-9a-fA-F]{1,16})([KMGTkmgt]?)"
_SHIFT = {"": 0, "k": 10, "m": 20, "g": 30, "t": 40}
_LEAST, _MOST = -(1 << 63), (1 << 64) - 1
_QUOTED = 48  # characters of a wrong value that an error message repeats


class Param(NamedTuple):
    """One module parameter; `type` is bool, int or str, `size` allows 64M and the like."""

    name: str
    type: type
    default: Value
    doc: str = ""
    least: int | None = None
    most: int | None = None
    size: bool = False
    choices: tuple[str, ...] = ()
    silent_default: bool = False

    @property
    def kind(self) -> str:
        """Return the type as modinfo prints it."""
        return "size" if self.size else self.type.__name__

    @property
    def grammar(self) -> str:
        """Return the valid values of this parameter for an error message."""
        if self.type is bool:
            return "one of 1/0/y/n/yes/no/on/off/true/false"
        if self.type is int:
            unit = " and K, M, G or T after it" if self.size else ""
            bounds = f", {self.bounds}" if self.bounds else ""
            return f"a whole number, decimal or 0x{unit}{bounds}"
        return f"one of {', '.join(self.choices)}" if self.choices else "a word"

    @property
    def bounds(self) -> str:
        """Return the bounds of an int as text; empty if it has none."""
        least, most = (
            None if n is None else format_value(self, n) for n in (self.least, self.most)
        )
        if least is not None and most is not None:
            return f"{least} to {most}"
        if least is not None:
            return f"{least} or more"
        return "" if most is None else f"{most} or less"


def param(
    *,
    default: V,
    doc: str,
    least: int | None = None,
    most: int | None = None,
    size: bool = False,
    choices: tuple[str, ...] = (),
    silent_default: bool = False,
) -> V:
    """Declare a module parameter as a field of an attrs class.

    Its type is that of the default. `least` and `most` bound an int, `size=True` allows 64M or 1G,
    `choices` are the valid words of a str. `silent_default=True` leaves the parameter out of
    documents while it has its default.
    """
    declaration = Param("", type(default), default, doc, least, most, size, choices, silent_default)

    def allowed(_: object, field: "attrs.Attribute[Value]", value: Value) -> None:
        if type(value) is not declaration.type or not _is_within(declaration, value):
            wrong = f"{quote(value)} is not {declaration.grammar}"
            raise ConfigError([f"{field.name}: {wrong}"])

    field: Any = attrs.field  # its stub cannot say: the field's type is that of its default
    made: V = field(default=default, validator=allowed, metadata={_KEY: declaration})
    return made


def params_of(params: type) -> tuple[Param, ...]:
    """Return the parameters of an attrs class, in the order of their declaration."""
    fields = [field for field in attrs.fields(params) if _KEY in field.metadata]
    return tuple(field.metadata[_KEY]._replace(name=field.name) for field in fields)


def values(made: Any) -> dict[str, Value]:  # noqa: ANN401 - any attrs object of parameters
    """Return the parameters of an attrs object by name, as documents have them."""
    found = {param: getattr(made, param.name) for param in params_of(type(made))}
    return {
        param.name: value
        for param, value in found.items()
        if not param.silent_default or value != param.default
    }


def parse(param: Param, given: object, *, key: str, source: str) -> Value:
    """Return the value of *given*, which is text or a TOML value.

    Raise ConfigError naming the key, the source, *given* and the valid values.
    """
    value = _read(param, given)
    if value is None or not _is_within(param, value):
        near = did_you_mean(given, param.choices) if isinstance(given, str) else ""
        raise ConfigError([f"{key} ({source}): {quote(given)} is not {param.grammar}{near}"])
    return value


def format_value(param: Param, value: Value) -> str:
    """Return a value as text that `parse` reads back."""
    if isinstance(value, bool):
        return "1" if value else "0"
    if isinstance(value, int) and param.size and value > 0:
        shift = max(shift for shift in _SHIFT.values() if not value % (1 << shift))
        return f"{value >> shift}{' KMGT'[shift // 10].strip()}"
    return str(value)


def quote(given: object) -> str:
    """Return a wrong value for an error message: one line, plain ASCII, of bounded length."""
    if not isinstance(given, (str, bool, int, float)):
        return f"a TOML {_toml_name(given)}"
    if isinstance(given, int) and not _LEAST <= given <= _MOST:
        return "a number of more than 64 bits"
    text = ascii(given[: _QUOTED + 1] if isinstance(given, str) else given)
    cut = len(text) > _QUOTED + 2
    return f"{text[:_QUOTED]}..." if cut else text


def did_you_mean(name: str, known: Iterable[str], cutoff: float = 0.5) -> str:
    """Return `; did you mean 'x'?` for the known name nearest to *name*, else nothing.

    *cutoff* is how alike they must be, from 0 to 1: the share of characters in common.
    """
    spelt = {one.lower(): one for one in known}
    typed = name[:_QUOTED].lower()
    begun = [one for one in spelt if typed and one.startswith(typed)]
    if not begun:
        import difflib  # noqa: PLC0415 - something was misspelt

    near = begun or difflib.get_close_matches(typed, list(spelt), n=1, cutoff=cutoff)
    return f"; did you mean {spelt[near[0]]!r}?" if near else ""


def printable(text: str, most: int = 200) -> str:
    """Return text from outside (a path, an argument) fit for one line of a message."""
    line = "".join(c if c.isprintable() else ascii(c)[1:-1] for c in text[: most + 1])
    return line if len(line) <= most else line[:most] + "..."


def _read(param: Param, given: object) -> Value | None:
    """Return the value by the grammar of the type, or None."""
    if param.type is str:
        return given if isinstance(given, str) else None
    if isinstance(given, bool):
        return given if param.type is bool else None
    if isinstance(given, int):
        return given if param.type is int else {0: False, 1: True}.get(given)
    if not isinstance(given, str):
        return None
    return _BOOLS.get(given.lower()) if param.type is bool else _read_int(param, given)


def _read_int(param: Param, text: str) -> int | None:
    match = re.fullmatch(_SIZE, text)
    if match is None or (match[2] and not param.size):
        return None
    return int(match[1], 0) << _SHIFT[match[2].lower()]


def _is_within(param: Param, value: Value) -> bool:
    if isinstance(value, str):
        return value in param.choices if param.choices else value.isprintable() and value != ""
    least = _LEAST if param.least is None else param.least
    return least <= value <= (_MOST if param.most is None else param.most)


def _toml_name(given: object) -> str:
    if isinstance(given, (list, dict)):
        return "array" if isinstance(given, list) else "table"
    return type(given).__name__
