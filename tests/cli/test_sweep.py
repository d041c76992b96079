"""`hvmmu sweep` and `hvmmu collect` as they are typed, and what they say."""

import io
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from hvmmu._cli.eta import SweepProgress, duration
from hvmmu._cli.sweep import _summary as summary
from hvmmu._guest.policy import GuestParams
from hvmmu._sweep import Progress, SweepResult
from hvmmu._sweep.cells import Cell
from hvmmu._sweep.store import CellFailure
from hvmmu.params import params_of

Command = Callable[..., Any]
GRID = """
workload = "demand-zero:pages=4"
backend = "native"
guest.memory = ["16M", "32M"]
"""
QUICK = ("--executor", "thread")


@pytest.fixture(autouse=True)
def _grid(tmp_path: Path) -> None:
    """Have a grid of two cells."""
    (tmp_path / "grid.toml").write_text(GRID)


def test_a_sweep_from_the_grid_to_the_table(hvmmu: Command, tmp_path: Path) -> None:
    """The commands do not fit each other, or say something else than they did."""
    ended = hvmmu("sweep", "grid.toml", *QUICK)
    assert (ended.code, ended.err) == (0, "")
    assert ended.out == "grid.cells: 2 cells: 2 run, 0 failed, 0 kept\n"
    again = hvmmu("sweep", "grid.toml", "--resume", *QUICK)
    assert again.out == "grid.cells: 2 cells: 0 run, 0 failed, 2 kept\n"
    printed = hvmmu("collect", "grid.cells", "-o", "-")
    assert (printed.code, printed.err) == (0, "")
    ended = hvmmu("collect", "grid.cells", "-o", "all.csv")
    columns = len(printed.out.splitlines()[0].split(","))
    assert ended.out == f"all.csv: 2 cells in {columns} columns\n"
    assert (tmp_path / "all.csv").read_text() == printed.out
    assert hvmmu("collect", "grid.cells", "-o", "all.csv").problems == [
        "all.csv exists; give another FILE, or --force to replace it"
    ]
    assert hvmmu("collect", "grid.cells", "-o", "all.csv", "--force").code == 0


def test_a_shard_says_that_it_is_one(hvmmu: Command, tmp_path: Path) -> None:
    """A part of a sweep looks like the whole."""
    said = [hvmmu("sweep", "grid.toml", "--shard", f"{i}/2", *QUICK).out for i in (1, 2)]
    assert len(list((tmp_path / "grid.cells").iterdir())) == 2
    assert said == ["grid.cells: 1 of 2 cells: 1 run, 0 failed, 0 kept\n"] * 2
    for wrong in ("0/2", "3/2", "1/0", "2", "1/2/3", "-1/2", "1/9999999"):
        (problem,) = hvmmu("sweep", "grid.toml", "--shard", wrong).problems
        assert "is not I/N with I from 1 to N, as 2/3" in problem


def test_failed_cells(hvmmu: Command, tmp_path: Path) -> None:
    """A sweep with a failed cell succeeds, or does not say which cell and why."""
    trace = "==1== x\n" + " L 5000,8\n" * 70_000
    (tmp_path / "late.trace").write_text(trace + "bad\n")
    text = GRID.replace("demand-zero:pages=4", "late.trace")
    sizes = ", ".join(f'"{n}M"' for n in range(16, 60, 2))
    (tmp_path / "grid.toml").write_text(text.replace('"16M", "32M"', sizes))
    ended = hvmmu("sweep", "grid.toml", *QUICK)
    assert (ended.code, ended.err) == (1, "")
    first, failed = ended.out.splitlines()
    assert first == "grid.cells: 22 cells: 22 run, 22 failed, 0 kept"
    assert failed.startswith("failed: ")
    assert " native late.trace and 21 more: TraceError: " in failed
    assert "late.trace:70002: " in failed


def test_many_causes() -> None:
    """A summary repeats one cause for each cell, or never ends."""
    cells = [Cell(f"{n:064}", {"backend": "b", "workload": {"name": "w"}}, {}) for n in range(50)]
    causes = [CellFailure("bug", f"no {n // 2}") for n in range(50)]
    result = SweepResult(Path("f"), 50, 50, 0, tuple(zip(cells, causes, strict=True)))
    _, first, *others, more = summary(result)
    assert first == "failed: 000000000000 b w and 1 more: bug: no 0"
    assert len(others) == 19
    assert more == "and 5 other causes; `hvmmu collect` lists them"


def test_every_problem_before_anything_runs(hvmmu: Command, tmp_path: Path) -> None:
    """A sweep begins although something is wrong with its grid."""
    memory = next(one for one in params_of(GuestParams) if one.name == "memory")
    (tmp_path / "grid.toml").write_text("limits = 1\nbackend = ['native']\nguest.memory = 1\n")
    assert hvmmu("sweep", "grid.toml").problems == [
        "limits (grid.toml): no such key; did you mean 'limit'?",
        f"guest.memory (grid.toml): 1 is not {memory.grammar}",
    ]
    assert [path.name for path in tmp_path.iterdir()] == ["grid.toml"]


class Terminal(io.StringIO):
    """A stderr that a person looks at."""

    def isatty(self) -> bool:
        """Say that it is one."""
        return True


@pytest.fixture
def now(monkeypatch: pytest.MonkeyPatch) -> list[float]:
    """Have time stand still; return what the clock shows."""
    shown = [100.0]
    monkeypatch.setattr(time, "monotonic", lambda: shown[0])
    monkeypatch.setenv("TERM", "xterm")
    return shown


def test_progress_on_a_terminal(now: list[float], monkeypatch: pytest.MonkeyPatch) -> None:
    """A quick sweep flickers, or a long one does not say how long it will take."""
    monkeypatch.setattr(sys, "stderr", Terminal())
    with SweepProgress() as progress:
        progress.update(Progress(1, 24, 3.0))
        assert sys.stderr.getvalue() == ""
        now[0] += 1.5
        progress.update(Progress(2, 24, None))
        progress.update(Progress(3, 24, 125.0))
    assert "3 of 24" in sys.stderr.getvalue()
    assert "about 3 min left" in sys.stderr.getvalue()


def test_progress_in_a_log(now: list[float], monkeypatch: pytest.MonkeyPatch) -> None:
    """A log fills with progress, or a long sweep looks dead in it."""
    monkeypatch.setattr(sys, "stderr", io.StringIO())
    with SweepProgress() as progress:
        for second in range(100):
            now[0] = 100.0 + second
            progress.update(Progress(second, 1000, 900.0 if second > 40 else None))
    assert sys.stderr.getvalue() == (
        "hvmmu: 30 of 1,000 cells\n"
        "hvmmu: 60 of 1,000 cells, about 15 min left\n"
        "hvmmu: 90 of 1,000 cells, about 15 min left\n"
    )
    monkeypatch.setattr(sys, "stderr", None)
    with SweepProgress() as progress:
        now[0] += 100
        progress.update(Progress(1, 2, 3.0))


@pytest.mark.parametrize(
    ("seconds", "told"),
    [(0.0, "1 s"), (39.2, "40 s"), (90, "2 min"), (3600, "60 min"), (11_940, "3 h 19 min")],
)
def test_durations(seconds: float, told: str) -> None:
    """A time for people is wrong."""
    assert duration(seconds) == told
