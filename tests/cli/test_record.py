"""`record` as a user meets it; how a trace is recorded is tested with the workloads."""

import re
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from hvmmu.workloads import _record as recording
from hvmmu.workloads._record import RecordSummary

Command = Callable[..., Any]


@pytest.mark.parametrize(
    ("exit_code", "said", "ends"),
    [
        (0, "", "3,000 references in 1,234 bytes; the command succeeded\n"),
        (2, "no\x1bway", "; the command ended with exit code 2: no\\x1bway\n"),
        (None, "", "; stopped at the limit\n"),
    ],
)
def test_the_summary(
    hvmmu: Command, monkeypatch: pytest.MonkeyPatch, exit_code: int | None, said: str, ends: str
) -> None:
    """A recording of a command that failed passes for a good one."""
    given = []

    def record(command: tuple[str, ...], output: Path, **options: Any) -> RecordSummary:  # noqa: ANN401
        given.append((command, output, options["limit"], options["force"]))
        options["progress"](1)
        return RecordSummary(output, command, 3000, 1234, exit_code, said)

    monkeypatch.setattr(recording, "record", record)
    ended = hvmmu(
        "record", "-o", "x.xz", "--limit", "3000", "--force", "--", "ls", "-l", "--", "-v"
    )
    assert given == [(("ls", "-l", "--", "-v"), Path("x.xz"), 3000, True)]
    assert (ended.code, ended.err) == (0, "")
    assert ended.out.startswith("x.xz: ")
    assert ended.out.endswith(ends)


def test_the_command_needs_no_dashes(hvmmu: Command, monkeypatch: pytest.MonkeyPatch) -> None:
    """Options of the command are taken for hvmmu's."""
    given = []

    def record(command: tuple[str, ...], output: Path, **_: object) -> RecordSummary:
        given.append(command)
        return RecordSummary(output, command, 1, 1, 0, "")

    monkeypatch.setattr(recording, "record", record)
    assert hvmmu("record", "-o", "x.xz", "ls", "-v", "--help").code == 0
    assert given == [("ls", "-v", "--help")]


def test_without_valgrind(hvmmu: Command, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """Someone without valgrind is not told what to install, or finds half a file."""
    (tmp_path / "bin").mkdir()
    (tmp_path / "bin" / "true").symlink_to(shutil.which("true") or "/bin/true")
    monkeypatch.setenv("PATH", str(tmp_path / "bin"))
    (problem,) = hvmmu("record", "-o", "x.xz", "--", "true").problems
    assert "valgrind" in problem
    assert re.search("install", problem)
    assert not (tmp_path / "x.xz").exists()
