"""Invalid values of a parameter that a lenient parser would accept."""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from hvmmu.params import Param

_NEVER = ("", " ", "none", "null", "1.0", "1e3", "٣", "0b1", "0o7", "1_000", "+1", "--1", "1\n")
_BOOLS = ("2", "-1", "00", "01", "t", "f", "T", "enabled", "disabled", "ja", " 1", "1 ", "True!")
_INTS = ("yes", "on", "true", "1x", "x1", "0x", "0xg", "1K5", "1.5", " 7", "7 ", "010", "1e2", "-")


def invalid_texts(param: Param) -> list[object]:
    """Return invalid values of *param* as a file or a command line may give them."""
    wrong: list[object] = [1.0, 0.5, None, [], {}, [True], b"1"]
    if param.type is bool:
        return [*wrong, *_NEVER, *_BOOLS, 2, -1]
    if param.type is int:
        return [*wrong, *_NEVER, *_INTS, True, False, *(str(n) for n in _beyond(param))]
    return [*wrong, *_words(param), True, 1]


def invalid_values(param: Param) -> list[object]:
    """Return invalid values of *param* for the class of the parameters."""
    wrong: list[object] = [None, 1.0, 0.0, 0.5, [], {}, (), b"", b"1", object]
    if param.type is bool:
        return [*wrong, 0, 1, 2, -1, "", "0", "1", "2", "yes", "no", "true", "off"]
    if param.type is int:
        return [*wrong, True, False, "", "0", "1", "0x1", "1.5", *_beyond(param)]
    return [*wrong, *_words(param), True, 0, 1]


def _beyond(param: Param) -> list[int]:
    """Return the numbers just out of bounds."""
    least = -(1 << 63) if param.least is None else param.least
    most = (1 << 64) - 1 if param.most is None else param.most
    return [least - 1, most + 1, least - (1 << 64), most + (1 << 64)]


def _words(param: Param) -> list[str]:
    """Return words that resemble a choice."""
    near = ["", "\n", "\x00"]
    for choice in param.choices:
        near += [
            f" {choice}",
            f"{choice} ",
            choice.upper(),
            choice.title(),
            choice[:-1],
            f"{choice}s",
        ]
    return [word for word in near if word not in param.choices]
