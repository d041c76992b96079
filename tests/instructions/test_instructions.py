"""How many instructions the compiled code takes, which repeats exactly: no slower than recorded.

Clocks tell a tenth more or less on a busy machine; callgrind counts. What is recorded is of one
compiler; another release of it may need a little more, another compiler more than that.
"""

from __future__ import annotations

import importlib.util
from pathlib import Path
from typing import Any

import pytest

HEADROOM, ANOTHER_COMPILERS = 0.2, 0.75
MOST_FOR_SILENCE = 0.01
RENEW = "if it is worth that, record it: python tests/instructions/measure.py --renew"


@pytest.fixture(scope="module")
def measure() -> Any:  # noqa: ANN401 - a module
    """Return measure.py."""
    spec = importlib.util.spec_from_file_location("measure", Path(__file__).with_name("measure.py"))
    assert spec is not None
    assert spec.loader is not None
    made = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(made)
    return made


@pytest.fixture(scope="module")
def found(measure: Any) -> dict[str, float]:  # noqa: ANN401 - as above
    """Return what was measured; skip where nothing can be."""
    try:
        measured: dict[str, float] = measure.measured()
    except measure.MissingError as missing:
        pytest.skip(str(missing))
    return measured


def test_no_more_instructions_than_recorded(
    measure: Any,  # noqa: ANN401 - as above
    found: dict[str, float],
) -> None:
    """A hit, a walk, a fault or a line of a trace has become dearer, and nobody has noticed."""
    recorded = measure.recorded()
    known = recorded["instructions"]
    same = measure.compiler() == recorded["built"]["compiler"]
    headroom = HEADROOM if same else ANOTHER_COMPILERS
    dearer = [
        f"{name}: {found[name]} instructions, recorded are {known[name]}"
        for name in found
        if name in known and found[name] > known[name] * (1 + headroom)
    ]
    assert not dearer, f"more than {headroom:.0%} above what is recorded; {RENEW}"
    assert "hit_first" in found
    assert all(found.values())
    assert all(name in known or name.startswith("all_") for name in found)


def test_a_plugin_that_does_not_listen_costs_nothing(found: dict[str, float]) -> None:
    """A run pays for plugins that want to hear nothing of it: 1% of its instructions, or more."""
    backends = [name.removeprefix("all_alone_") for name in found if name.startswith("all_alone_")]
    assert "native" in backends
    for backend in backends:
        alone, silent = found[f"all_alone_{backend}"], found[f"all_silent_{backend}"]
        assert alone > found[f"fault_{backend}"], "Python's instructions are not counted"
        assert silent <= alone * (1 + MOST_FOR_SILENCE), (backend, alone, silent)


PROFILE = """\
version: 1
desc: Trigger: Client Request: hit
positions: line
events: Ir

ob=(1) /usr/lib/libpython3.11.so
fn=(1) PyObject_Call
12 1000
cob=(2) /x/hvmmu/_core/_lib.abi3.so
cfn=(2) hv_run
calls=1 0
+3 700

ob=(2)
fn=(2)
0 100
+1 30
cob=(3) /usr/lib/libc.so
cfn=(3) memset
calls=1 0
* 500
-1 7

ob=(3)
fn=(3)
0 500
"""


def test_what_is_counted(measure: Any) -> None:  # noqa: ANN401 - as above
    """What Python does, or the C library, is taken for ours, or ours is not counted."""
    assert measure.costs(PROFILE.splitlines()) == 137
    assert measure.costs(PROFILE.splitlines(), everywhere=True) == 1637


def test_what_is_missing_is_said(measure: Any, monkeypatch: pytest.MonkeyPatch) -> None:  # noqa: ANN401 - as above
    """Where there is no valgrind the test fails, or passes as if it had measured."""
    monkeypatch.setattr(measure.shutil, "which", lambda tool: tool != "valgrind")
    monkeypatch.setattr(measure, "kernels", lambda: [Path("a"), Path("b")])
    monkeypatch.delenv("HVMMU_SANITIZED", raising=False)
    with pytest.raises(measure.MissingError, match="valgrind is not installed"):
        measure.measured()
