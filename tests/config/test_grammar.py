"""The grammar of values: what is read, and that nothing else is."""

import attrs
import pytest
from hypothesis import given
from hypothesis import strategies as st

from hvmmu.errors import ConfigError
from hvmmu.params import (
    Param,
    Value,
    did_you_mean,
    format_value,
    param,
    params_of,
    parse,
    printable,
    quote,
)


@attrs.frozen
class Every:
    """One parameter of every kind."""

    flag: bool = param(default=True, doc="a flag")
    number: int = param(default=3, doc="a number")
    bounded: int = param(default=3, doc="a bounded number", least=-4, most=1000)
    size: int = param(default=1 << 20, doc="a size", size=True, least=0)
    word: str = param(default="no", doc="a word", choices=("yes", "no", "maybe"))
    text: str = param(default="any", doc="any word")


EVERY = {one.name: one for one in params_of(Every)}
TRUE = ("1", "y", "Y", "yes", "YES", "on", "On", "true", "True", True, 1)
FALSE = ("0", "n", "N", "no", "NO", "off", "oFF", "false", "False", False, 0)
READ = [
    *(("flag", text, True) for text in TRUE),
    *(("flag", text, False) for text in FALSE),
    ("number", "0", 0),
    ("number", "42", 42),
    ("number", "-42", -42),
    ("number", "0x2a", 42),
    ("number", "0xFFFFFFFFFFFFFFFF", (1 << 64) - 1),
    ("number", 42, 42),
    ("bounded", "-4", -4),
    ("bounded", "1000", 1000),
    ("size", "4096", 4096),
    ("size", "0x1000", 4096),
    ("size", "64M", 64 << 20),
    ("size", "1g", 1 << 30),
    ("size", "2K", 2048),
    ("size", "1T", 1 << 40),
    ("size", 7, 7),
    ("word", "maybe", "maybe"),
    ("text", "whatever", "whatever"),
]
REFUSED = [
    *(
        ("flag", given)
        for given in ("", "2", "yeah", " 1", "1 ", "01", "ja", "t", "\uff11", "enable")
    ),
    *(("flag", given) for given in (2, -1, 1.0, None, [], {}, "ON\n")),
    *(
        ("number", given)
        for given in ("", "1_000", "+1", " 1", "1 ", "1\n", "\u0663", "\uff11", "\xb2")
    ),
    *(("number", given) for given in ("010", "0o10", "0b1", "0X10", "0x", "-0x1", "--1", "1e3")),
    *(("number", given) for given in ("1.0", "12.", "64M", "x", "0x1_0", "9" * 20, "9" * 9999)),
    *(("number", given) for given in (True, False, 1.0, 1 << 64, None, [1], {"a": 1})),
    *(("bounded", given) for given in ("-5", "1001", -5, 1001, "0x3e9")),
    *(("size", given) for given in ("M", "1MB", "1 M", "1KiB", "1.5G", "-1", "-1K", "20000000T")),
    *(("word", given) for given in ("", "Yes", "yess", True, 1)),
    *(("text", given) for given in ("", "a\nb", 1, True)),
]


def read(name: str, given: object) -> Value:
    """Parse as for a key `s.name` from the source `here`."""
    return parse(EVERY[name], given, key=f"s.{name}", source="here")


@pytest.mark.parametrize(("name", "given", "value"), READ)
def test_reads(name: str, given: object, value: Value) -> None:
    """A value of the grammar is read as something else, or as another type."""
    found = read(name, given)
    assert found == value
    assert type(found) is type(value)


@pytest.mark.parametrize(("name", "given"), REFUSED)
def test_refuses(name: str, given: object) -> None:
    """Something outside the grammar is taken, or its error is no one clear line."""
    with pytest.raises(ConfigError) as caught:
        read(name, given)
    (problem,) = caught.value.problems
    assert problem.startswith(f"s.{name} (here): ")
    assert EVERY[name].grammar in problem
    assert len(problem) < 250
    assert problem.isprintable()
    assert problem.isascii()


@given(st.text(), st.sampled_from(sorted(EVERY)))
def test_any_text_is_read_or_refused(text: str, name: str) -> None:
    """Some text makes the parser raise anything but a ConfigError, or gives a wrong type."""
    try:
        value = read(name, text)
    except ConfigError:
        return
    assert type(value) is EVERY[name].type


@given(st.integers(-(1 << 63), (1 << 64) - 1))
def test_numbers_round_trip(number: int) -> None:
    """`hvmmu config` writes a number that is not read back as itself."""
    assert read("number", format_value(EVERY["number"], number)) == number
    assert read("number", str(number)) == number


@given(st.integers(0, (1 << 64) - 1) | st.integers(0, 1023).map(lambda n: n << 40))
def test_sizes_round_trip(size: int) -> None:
    """`hvmmu config` writes a size that is not read back as itself."""
    assert read("size", format_value(EVERY["size"], size)) == size


@pytest.mark.parametrize(("number", "text"), [(0, "0"), (4096, "4K"), (1 << 30, "1G"), (7, "7")])
def test_sizes_are_written_for_people(number: int, text: str) -> None:
    """A size is shown with the wrong unit."""
    assert format_value(EVERY["size"], number) == text


def test_declarations_are_kept() -> None:
    """What `params` prints of a parameter is not what its class declares."""
    assert [one.name for one in params_of(Every)] == [
        "flag",
        "number",
        "bounded",
        "size",
        "word",
        "text",
    ]
    assert [one.kind for one in params_of(Every)] == ["bool", "int", "int", "size", "str", "str"]
    assert EVERY["bounded"] == Param("bounded", int, 3, "a bounded number", least=-4, most=1000)


@pytest.mark.parametrize(
    "wrong", [{"flag": 1}, {"number": True}, {"bounded": 1001}, {"word": "x"}, {"text": ""}]
)
def test_a_class_refuses_wrong_values(wrong: dict[str, Value]) -> None:
    """Code that builds parameters itself can give a machine a value no user could."""
    with pytest.raises(ConfigError, match=next(iter(wrong))):
        Every(**wrong)  # type: ignore[arg-type]


def test_a_wrong_word_is_met_with_the_nearest() -> None:
    """A misspelt choice is not met with the one that was meant."""
    with pytest.raises(ConfigError, match="did you mean 'maybe'"):
        read("word", "mabye")
    assert did_you_mean("zzz", ["maybe"]) == ""


def test_what_is_shown_is_short_and_printable() -> None:
    """A wrong value could flood or confuse the terminal its error is printed on."""
    assert quote("x" * 10_000) == f"'{'x' * 47}..."
    assert quote("\x1b[31m") == r"'\x1b[31m'"
    assert quote({"a": "b" * 1000}) == "a TOML table"
    assert printable("a\nb\x1b") == r"a\nb\x1b"
    assert printable("é" * 500) == "é" * 200 + "..."
