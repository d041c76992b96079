"""A little fuzzing in every test run: the cases that once failed, and some of chance, fixed.

`tox -e fuzz` does it at length, guided by what has run.
"""

from __future__ import annotations

import importlib.util
import os
import random
import sys
from array import array
from pathlib import Path
from typing import Any

import pytest

HERE = Path(__file__).parent
SIZES = (3, 20, 60, 100, 400)
TIMES = {
    "engines": 60,
    "guests": 40,
    "tokens": 2000,
    "frames": 400,
    "reduce": 200,
    "hvt": 200,
    "imports": 400,
}
MORE = 40 if os.environ.get("HYPOTHESIS_PROFILE") == "nightly" else 1


def load(name: str) -> Any:  # noqa: ANN401 - a module
    """Return a module beside this one."""
    spec = importlib.util.spec_from_file_location(f"hvmmu_{name}", HERE / f"{name}.py")
    assert spec is not None
    assert spec.loader is not None
    made = sys.modules[f"hvmmu_{name}"] = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(made)
    return made


targets = load("targets")


def test_every_target_has_its_share() -> None:
    """The long run leaves a target out, and nobody notices."""
    assert set(load("run").WEIGHTS) == set(targets.TARGETS)


@pytest.mark.parametrize("name", targets.TARGETS)
def test_chance(name: str) -> None:
    """Some bytes crash hvmmu, end it in a traceback, or make two engines disagree."""
    fuzzed = targets.TARGETS[name]
    for nth in range(TIMES[name] * MORE):
        draw = random.Random(f"{name} {nth}")  # noqa: S311 - not for secrets
        content = draw.randbytes(draw.choice(SIZES))
        try:
            fuzzed(content)
        except BaseException as error:
            error.add_note(f"{name}: bytes.fromhex({content.hex()!r})")
            raise


CASES = sorted(HERE.glob("corpus/*/*"))


@pytest.mark.parametrize("case", CASES, ids=lambda case: f"{case.parent.name}-{case.name}")
def test_what_once_failed(case: Path) -> None:
    """A mistake that was mended is back."""
    targets.TARGETS[case.parent.name](case.read_bytes())


def test_any_bytes_are_a_program() -> None:
    """The targets refuse most bytes, or all bytes are the same program to them."""
    one, other = targets.Drawn(b"\x01\x02\x03"), targets.Drawn(b"")
    assert [one.randrange(10), one.choice("abcd"), one.random(), one.getrandbits(9)] == [
        1, "c", 3 / 256, 0,
    ]  # fmt: skip
    assert [other.randrange(10), other.choice("abcd"), other.random()] == [0, "a", 0]


def test_a_mistake_is_found(monkeypatch: pytest.MonkeyPatch) -> None:
    """The targets pass whatever is made of the bytes."""
    monkeypatch.setattr(targets.Span, "expanded", lambda *_: (array("Q"), array("B"), 0))
    for target in (targets.tokens, targets.reduce):
        with pytest.raises(AssertionError):
            target(bytes(range(1, 99)))
    monkeypatch.setattr(targets, "import_trace", lambda *_, **__: 1 // 0)
    with pytest.raises(ZeroDivisionError):
        targets.imports(b"")
