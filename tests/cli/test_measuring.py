"""`compare` and `run` on small workloads: the document, the table, and that both stay the same."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import attrs
import jsonschema
import pytest

from hvmmu._plugins import load
from hvmmu._plugins.registry import BASELINE
from hvmmu._report.document import schema
from hvmmu.machine import Machine
from hvmmu.results import RunResult

Command = Callable[..., Any]
INSTALLED = sorted(set(load().backends) - {BASELINE})
SMALL = "demand-zero:pages=16"
ASKED = {
    "accesses",
    "guest_faults",
    "guest_faults_bypassed",
    "guest_faults_injected",
    "host_faults",
    "pt_writes_emulated",
    "invlpg",
    "cr3_loads",
    "exits",
    "stlb_misses",
    "page_walk_refs",
    "shadow_pages",
}


def test_the_document(hvmmu: Command) -> None:
    """--json prints what its schema does not allow, or not what was asked of it."""
    ended = hvmmu("compare", SMALL, "--json", "--costs", "nehalem", "-p", "guest.memory=64M")
    assert (ended.code, ended.err) == (0, "")
    made = json.loads(ended.out)
    jsonschema.validate(made, schema())
    assert made["workload"]["name"] == "demand-zero"
    assert made["cost_model"]["name"] == "nehalem"
    assert made["overrides"] == {
        "guest.memory": {"value": 64 << 20, "source": "-p guest.memory=64M"}
    }
    assert made["config"]["guest"]["memory"] == 64 << 20
    assert made["runs"][0]["backend"] == "native"
    assert sorted({run["backend"] for run in made["runs"]}) == ["native", *INSTALLED]
    for run in made["runs"]:
        assert set(run["counters"]) >= ASKED
        exits = run["counters"]["exits"]
        assert exits["total"] == sum(exits["by_reason"].values())
        parts = [cycles for part, cycles in run["cycles"].items() if part not in {"model", "total"}]
        assert run["cycles"]["total"] == sum(parts)
        assert run["guest"] == made["runs"][0]["guest"]


@pytest.mark.parametrize("form", [(), ("--json",)])
def test_same_input_same_bytes(process: Command, form: tuple[str, ...]) -> None:
    """Two runs of one command print different bytes."""
    first = process("compare", "fork-cow:pages=8", *form, PYTHONHASHSEED="1")
    second = process("compare", "fork-cow:pages=8", *form, PYTHONHASHSEED="2", COLUMNS="40")
    assert first.code == 0
    assert first.out
    assert first == second


def test_the_table(hvmmu: Command) -> None:
    """The table lacks a run, or the sentence whether the guest could tell them apart."""
    ended = hvmmu("compare", SMALL)
    assert (ended.code, ended.err) == (0, "")
    lines = ended.out.splitlines()
    assert lines[0].startswith("demand-zero (synthetic, pages 16")
    assert lines[2].split()[0] == "native"
    assert set(lines[2].split()) == {"native", *INSTALLED}
    if INSTALLED:
        assert "runs are identical to the guest (" in ended.out
    assert "Cycles are estimates of the cost model sandy-bridge" in ended.out
    assert all(len(line) <= 80 for line in lines)


def test_a_parameter_is_compared_both_ways(hvmmu: Command) -> None:
    """The default comparison does not show what bypass_guest_pf does; or it overrides the user."""
    pytest.importorskip("hvmmu_vmx")
    made = json.loads(hvmmu("compare", SMALL, "-b", "vmx", "--json").out)
    assert [run["params"]["bypass_guest_pf"] for run in made["runs"]] == [False, True]
    off, on = (run["counters"] for run in made["runs"])
    assert on["exits"]["total"] < off["exits"]["total"]
    fixed = hvmmu("compare", SMALL, "-b", "vmx", "-p", "bypass_guest_pf=0", "--json")
    (run,) = json.loads(fixed.out)["runs"]
    assert run["params"]["bypass_guest_pf"] is False
    assert "bypass_guest_pf=1 kept " in hvmmu("compare", SMALL, "-b", "vmx").out


def test_what_cannot_be_compared_is_one_run(hvmmu: Command) -> None:
    """On a CPU where bypass is unsound two equal columns pretend that it was compared."""
    pytest.importorskip("hvmmu_vmx")
    ended = hvmmu("compare", SMALL, "-b", "vmx", "-p", "maxphyaddr=52", "--json")
    assert ended.code == 0
    assert ended.err.startswith("hvmmu: warning: bypass_guest_pf_turned_off ")
    (run,) = json.loads(ended.out)["runs"]
    assert run["params"]["bypass_guest_pf"] is False


def test_one_run_in_depth(hvmmu: Command) -> None:
    """`run` lacks the routes, or cannot be read as the same document."""
    ended = hvmmu("run", SMALL, "-b", "native")
    assert (ended.code, ended.err) == (0, "")
    assert "outcome" in ended.out
    assert "The guest took " in ended.out
    made = json.loads(hvmmu("run", SMALL, "-b", "native", "--json").out)
    jsonschema.validate(made, schema())
    assert [run["backend"] for run in made["runs"]] == ["native"]


@pytest.mark.skipif(not INSTALLED, reason="one backend needs no choice")
def test_run_wants_one_backend(hvmmu: Command) -> None:
    """`run` picks a backend nobody asked for."""
    (problem,) = hvmmu("run", SMALL).problems
    assert problem.startswith("run takes one backend: say which with -b (native, ")


def test_a_limit_shortens_the_run(hvmmu: Command) -> None:
    """--limit does not stop a workload where it says."""
    made = []
    for limit in ("100", "200"):
        ended = hvmmu("run", "random", "-b", "native", "--limit", limit, "--json")
        made.append(json.loads(ended.out))
    assert made[0]["workload"]["limit"] == 100
    counted = [each["runs"][0]["counters"]["accesses"] for each in made]
    assert 100 <= counted[0] < counted[1]


def test_a_difference_is_told_and_exits_with_1(
    hvmmu: Command, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A guest that saw something else passes for a success."""
    pytest.importorskip("hvmmu_vmx")
    told = iter(range(9))
    result = Machine.result

    def odd(*given: Any) -> RunResult:  # noqa: ANN401
        made: RunResult = result(*given)
        return attrs.evolve(made, guest=dict(made.guest) | {"faults": next(told)})

    monkeypatch.setattr(Machine, "result", odd)
    ended = hvmmu("compare", SMALL, "-b", "vmx")
    assert ended.code == 1
    assert (
        "DIFFER to the guest: vmx bypass_guest_pf=1 differs from vmx bypass_guest_pf=0 in"
        in " ".join(ended.out.split())
    )


def test_an_interrupt_ends_with_a_line(hvmmu: Command, monkeypatch: pytest.MonkeyPatch) -> None:
    """Control-C prints a traceback, or leaves machines open."""
    closed = []

    def interrupt(*_: object) -> None:
        raise KeyboardInterrupt

    close = Machine.close
    monkeypatch.setattr(Machine, "step", interrupt)
    monkeypatch.setattr(Machine, "close", lambda self: (closed.append(self), close(self)))
    ended = hvmmu("compare", SMALL)
    assert (ended.code, ended.out) == (130, "")
    assert ended.err == "hvmmu: error: interrupted\n"
    assert len(closed) >= 1


@pytest.mark.parametrize(
    ("name", "raw", "said"),
    [
        ("empty.trace", b"", "empty.trace"),
        ("other.trace", b"\x7fELF\x02\x01\x01" + bytes(100), "other.trace"),
        ("wrong.trace", b"I  04001000,3\n L 1ffeffe7e,8\nfrob\n", "wrong.trace:3"),
        ("cut.trace.xz", b"\xfd7zXZ\x00\x00\x04", "cut.trace.xz"),
    ],
)
def test_what_is_no_trace(hvmmu: Command, tmp_path: Path, name: str, raw: bytes, said: str) -> None:
    """A file that is no trace ends in a traceback, or prints half a table."""
    (tmp_path / name).write_bytes(raw)
    (problem,) = hvmmu("compare", name).problems
    assert said in problem


def test_an_unknown_workload(hvmmu: Command) -> None:
    """A mistyped workload is not met with those there are."""
    (problem,) = hvmmu("compare", "demand-zer").problems
    assert "demand-zero" in problem
