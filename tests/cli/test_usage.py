"""What is typed wrong, and how a command ends: one clear line, and the exit code."""

import os
import re
import subprocess
import sys
from collections.abc import Callable
from importlib.metadata import version
from pathlib import Path
from typing import Any

import pytest

from hvmmu import _cli as cli
from hvmmu.errors import GuestMemoryError, InvariantError, PluginError

Command = Callable[..., Any]
COMMANDS = ("compare", "run", "backends", "plugins", "params", "config", "check", "record")


def test_the_version(hvmmu: Command) -> None:
    """A bug report names a version that was never released."""
    ended = hvmmu("--version")
    assert (ended.code, ended.out) == (0, f"hvmmu {version('hvmmu')}\n")


def test_nothing_typed_gets_the_help(hvmmu: Command) -> None:
    """Someone who types only `hvmmu` does not see what there is."""
    ended = hvmmu()
    assert ended.code == 0
    for command in COMMANDS:
        assert re.search(rf"^  {command} ", ended.out, re.MULTILINE)


@pytest.mark.parametrize("command", COMMANDS)
def test_every_command_has_help(hvmmu: Command, command: str) -> None:
    """--help of a command fails, or starts a run."""
    ended = hvmmu(command, "--help")
    assert ended.code == 0
    assert ended.out.startswith(f"Usage: hvmmu {command}")


@pytest.mark.parametrize(
    ("argv", "said"),
    [
        (["frobnicate"], "No such command 'frobnicate'"),
        (["compare", "--frob"], "No such option"),
        (["compare", "--limit", "0"], "Invalid value for '--limit'"),
        (["compare", "a", "b"], "Got unexpected extra argument (b)"),
        (["record", "-o", "x.xz"], "Missing argument 'COMMAND...'"),
        (["record", "--", "ls"], "Missing option '-o' / '--output'"),
        (["run", "-b"], "Option '-b' requires an argument"),
    ],
)
def test_wrong_usage(hvmmu: Command, argv: list[str], said: str) -> None:
    """A mistyped command is met with more than a line, or another exit code."""
    (problem,) = hvmmu(*argv).problems
    assert problem.startswith(said)
    assert problem.endswith("--help`)")


@pytest.mark.parametrize(
    ("raised", "code"),
    [
        (GuestMemoryError("no memory"), cli.BAD_INPUT),
        (PluginError("broke a promise"), cli.DIFFERS),
        (InvariantError("cannot be"), cli.BUG),
        (KeyboardInterrupt(), cli.INTERRUPTED),
        (BrokenPipeError(32, "Broken pipe"), cli.NO_READER),
        (OSError(28, "No space left on device"), cli.BAD_INPUT),
    ],
)
def test_how_each_failure_ends(
    hvmmu: Command, monkeypatch: pytest.MonkeyPatch, raised: BaseException, code: int
) -> None:
    """A failure ends in a traceback, in several lines or in another's exit code."""

    def fail(*_: object, **__: object) -> None:
        raise raised

    monkeypatch.setattr("hvmmu._cli.plugin_options.load", fail)
    monkeypatch.setattr("hvmmu._cli.commands.drop_stdout", lambda: None)
    ended = hvmmu("backends")
    assert ended.code == code
    assert ended.err.count("\n") == (0 if code == cli.NO_READER else 1)


def test_a_reader_that_went_away(tmp_path: Path) -> None:
    """`hvmmu params | head -1` prints a traceback about a broken pipe."""
    reading, writing = os.pipe()
    os.close(reading)
    with open(writing, "wb") as out:  # noqa: PTH123 - a descriptor, not a path
        ended = subprocess.run(
            [sys.executable, "-m", "hvmmu", "params"],
            cwd=tmp_path,
            stdout=out,
            stderr=subprocess.PIPE,
            timeout=60,
            check=False,
        )
    assert (ended.returncode, ended.stderr) == (cli.NO_READER, b"")


def test_a_terminal_that_only_takes_ascii(process: Command) -> None:
    """Under LC_ALL=C output dies with a UnicodeEncodeError."""
    ended = process("params", PYTHONIOENCODING="ascii", PYTHONUTF8="0")
    assert (ended.code, ended.err) == (0, "")
    assert "1 by default\n" in ended.out


def test_a_directory_that_is_gone(hvmmu: Command, monkeypatch: pytest.MonkeyPatch) -> None:
    """Run in a deleted directory, the tool dies with a FileNotFoundError."""

    def gone() -> None:
        raise FileNotFoundError(2, "No such file or directory")

    monkeypatch.setattr(Path, "cwd", gone)
    (problem,) = hvmmu("config").problems
    assert problem.startswith("the current directory: No such file or directory;")
