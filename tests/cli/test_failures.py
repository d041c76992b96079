"""A plugin that fails in a run: that run ends, and is told of; the others go on."""

import json
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import jsonschema
import pytest

from hvmmu._plugins import load
from hvmmu._report import document
from hvmmu.backend import Paging

Command = Callable[..., Any]
FAILING = """
from hvmmu.hookspecs import hookimpl
from hvmmu._native import NativeBackend

class Twin(NativeBackend):
    name = "twin"

@hookimpl
def hvmmu_backends():
    return [Twin]

@hookimpl
def hvmmu_HOOK(vcpu):
    backend = vcpu.backend
    if CONDITION:
        raise ZeroDivisionError("as planned")
"""
HOOKS = ["vm_created", "memslot_changed", "fault_handled", "report"]
SPEC = ("demand-zero:pages=8",)
Run = Callable[..., Any]


@pytest.fixture
def failing(hvmmu: Command, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Run]:
    """Return a function that runs a command with a plugin whose hook fails on a condition."""
    monkeypatch.syspath_prepend(tmp_path)

    def run(hook: str, condition: str, *argv: str) -> Any:  # noqa: ANN401 - how it ended
        source = FAILING.replace("HOOK", hook).replace("CONDITION", condition)
        (tmp_path / "failing_plugin.py").write_text(source)
        return hvmmu("-P", "failing_plugin", *argv)

    yield run
    sys.modules.pop("failing_plugin", None)


@pytest.mark.parametrize("hook", HOOKS)
def test_the_other_runs_go_on(failing: Run, hook: str) -> None:
    """One plugin's bug on one backend costs the whole comparison, or goes unnoticed."""
    ended = failing(
        hook, "backend.name == 'twin'", "compare", *SPEC, "-b", "native", "-b", "twin", "--json"
    )
    assert (ended.code, ended.err) == (1, "")
    made = json.loads(ended.out)
    jsonschema.validate(made, document.schema())
    assert [run["backend"] for run in made["runs"]] == ["native"]
    error = f"plugin 'failing_plugin', in hvmmu_{hook}: ZeroDivisionError: as planned"
    assert made["failures"] == [
        {
            "backend": "twin",
            "params": {},
            "plugin": "failing_plugin",
            "hook": f"hvmmu_{hook}",
            "error": error,
        }
    ]


def test_a_failed_run_is_a_line(failing: Run) -> None:
    """A person who compares does not see that a run is missing, or why."""
    ended = failing(
        "report", "backend.name == 'native'", "compare", *SPEC, "-b", "native", "-b", "twin"
    )
    assert (ended.code, ended.err) == (1, "")
    (line,) = [line for line in ended.out.splitlines() if "FAILED" in line]
    assert line == (
        "native FAILED: plugin 'failing_plugin', in hvmmu_report: ZeroDivisionError: as planned"
    )
    assert "The guest took " in ended.out


@pytest.mark.parametrize("hook", HOOKS)
def test_no_run_is_left(failing: Run, hook: str) -> None:
    """A document without runs is printed, or the tool ends with a traceback."""
    argv = ("compare", *SPEC, "-b", "native", "-b", "twin")
    ended = failing(hook, "True", *argv)
    assert (ended.code, ended.out) == (1, "")
    error = f"plugin 'failing_plugin', in hvmmu_{hook}: ZeroDivisionError: as planned"
    assert ended.err.splitlines() == [
        f"hvmmu: error: {name}: {error}" for name in ("native", "twin")
    ]


@pytest.mark.parametrize("hook", HOOKS)
def test_the_only_run_fails(failing: Run, hook: str) -> None:
    """`hvmmu run` prints half a result, or names nobody."""
    ended = failing(hook, "True", "run", *SPEC, "-b", "native")
    assert (ended.code, ended.out) == (1, "")
    error = f"plugin 'failing_plugin', in hvmmu_{hook}: ZeroDivisionError: as planned"
    assert ended.err == f"hvmmu: error: {error}\n"


BOTH = [
    (name, made.compare_params[0])
    for name, made in load().backends.items()
    if made.caps.paging is not Paging.BARE and made.compare_params
] or [pytest.param("", "", marks=pytest.mark.skip("no backend with two ways"))]


@pytest.mark.parametrize(("name", "over"), BOTH)
def test_the_run_that_failed_is_named_by_its_parameter(failing: Run, name: str, over: str) -> None:
    """Of two runs of one backend nobody can tell which one failed."""
    condition = f"getattr(backend.effective, {over!r}, False)"
    ended = failing("report", condition, "compare", *SPEC, "-b", "native", "-b", name, "--json")
    made = json.loads(ended.out)
    assert [run["backend"] for run in made["runs"]] == ["native", name]
    (failure,) = made["failures"]
    assert (failure["backend"], failure["params"][over]) == (name, True)
    told = failing("report", condition, "compare", *SPEC, "-b", "native", "-b", name).out
    assert [line.split(":")[0] for line in told.splitlines() if "FAILED" in line] == [
        f"{name} {over}=1 FAILED"
    ]
    (head,) = [line for line in told.splitlines() if line.split() == ["native", name]]
    below = told.splitlines()[told.splitlines().index(head) + 1]
    assert over.startswith(below.strip().split("=")[0])


SICK = """
from hvmmu.generic import GenericBackend
from hvmmu.hookspecs import hookimpl

class Sick(GenericBackend):
    name, summary = "sick", "fails"

    def METHOD(self, *given):
        raise KeyError("odd")

@hookimpl
def hvmmu_backends():
    return [Sick]
"""


@pytest.mark.parametrize("method", ["create_vcpu", "enter"])
def test_a_backend_that_fails(
    hvmmu: Command, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, method: str
) -> None:
    """A bug in one backend costs the comparison of all, and ends in a traceback."""
    monkeypatch.syspath_prepend(tmp_path)
    (tmp_path / f"sick_{method}.py").write_text(SICK.replace("METHOD", method))
    argv = ("-P", f"sick_{method}", "compare", *SPEC, "-b", "native", "-b", "sick")
    ended = hvmmu(*argv)
    assert (ended.code, ended.err) == (1, "")
    said = f"sick FAILED: plugin 'sick_{method}', in backend 'sick': KeyError: 'odd'"
    assert said in ended.out.splitlines()
    ended = hvmmu("-v", *argv, "--json")
    line = SICK[: SICK.index("raise")].count("\n") + 1
    where = f"sick_{method}.{method}:{line}"
    assert f"hvmmu: debug: run_failed backend=sick where={where}\n" in ended.err
    (failure,) = json.loads(ended.out)["failures"]
    assert (failure["plugin"], failure["hook"]) == (f"sick_{method}", None)


def test_a_bug_of_ours_is_no_plugins(hvmmu: Command, monkeypatch: pytest.MonkeyPatch) -> None:
    """A bug in the core is put down to a plugin, and nobody reports it."""
    monkeypatch.setattr("hvmmu.machine.Machine.step", lambda *_: 1 // 0)
    with pytest.raises(ZeroDivisionError):
        hvmmu("compare", *SPEC)
