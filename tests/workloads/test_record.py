"""Recording, with a made-up valgrind for what goes wrong and the real one for what goes right."""

from __future__ import annotations

import gc
import os
import shutil
import stat
import sys
import textwrap
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from hvmmu._trace import codec
from hvmmu._trace.hvt import HvtTrace
from hvmmu._trace.hvt.import_trace import import_trace
from hvmmu._trace.lackey import LackeyTrace
from hvmmu.errors import InputError
from hvmmu.steps import Accesses, ReducedAccesses
from hvmmu.workloads._record import ENVIRONMENT, record

if TYPE_CHECKING:
    from collections.abc import Callable

HEAD = "==7== Lackey, an example Valgrind tool\n==7== Command: a\n==7== \n"
LINES = "I  0401ab70,3\n S 1fff000d78,8\n L 04a17de0,8\n"
GOOD = f"log.write({HEAD + LINES!r})\n"


@pytest.fixture
def fake(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[[str], Path]:
    """Return a function that puts a valgrind on PATH; its body writes to `log`."""
    folder = tmp_path / "bin"
    folder.mkdir()
    monkeypatch.setenv("PATH", f"{folder}{os.pathsep}{os.environ['PATH']}")

    def make(body: str) -> Path:
        script, program = folder / "valgrind", folder / "valgrind.py"
        # Through a shell: the path of a Python may be too long for a first line, or hold blanks.
        script.write_text(f"#!/bin/sh\nexec '{sys.executable}' -IS '{program}' \"$@\"\n")
        script.chmod(script.stat().st_mode | stat.S_IXUSR)
        start = f"""\
            import os, signal, sys, time
            fd = next(int(a[9:]) for a in sys.argv if a.startswith("--log-fd="))
            log = open(fd, "w", buffering=1)
            told = {str(tmp_path / "told")!r}
        """
        program.write_text(textwrap.dedent(start) + body)
        return script

    return make


@pytest.fixture
def out(tmp_path: Path) -> Path:
    """Return a place for the trace in a folder of its own."""
    folder = tmp_path / "out"
    folder.mkdir()
    return folder / "a.trace"


def refused(output: Path, command: tuple[str, ...] = ("true",), **options: int) -> str:
    """Record, expect a one-line error and nothing left behind; return the message."""
    before = sorted(output.parent.glob("*")) if output.parent.is_dir() else []
    with pytest.raises(InputError) as caught:
        record(command, output, **options)  # type: ignore[arg-type]
    assert "\n" not in str(caught.value)
    if output.parent.is_dir():
        assert sorted(output.parent.iterdir()) == before
    return str(caught.value)


@pytest.mark.parametrize("name", ["a.trace", "a.lackey", "a", "a.xz", "a.gz", "a.zst"])
def test_packed_as_the_name_says(fake: Callable[[str], Path], out: Path, name: str) -> None:
    """The file is packed in another way, or holds another text than valgrind's."""
    fake(GOOD)
    counts: list[int] = []
    path = out.with_name(name)
    summary = record(["true"], path, progress=counts.append)
    assert (summary.references, summary.exit_code, summary.said) == (3, 0, "")
    assert (summary.path, summary.command) == (path, ("true",))
    assert summary.size == path.stat().st_size
    assert counts[-1] == 3
    assert b"".join(codec.blocks(path)).decode() == HEAD + LINES
    magic = {".xz": b"\xfd7zXZ", ".gz": b"\x1f\x8b", ".zst": b"(\xb5/\xfd"}.get(
        path.suffix, b"==7=="
    )
    assert path.read_bytes().startswith(magic)
    assert [entry.name for entry in path.parent.iterdir()] == [name]


@pytest.mark.parametrize("suffix", ["", ".xz"])
def test_compact_traces(fake: Callable[[str], Path], out: Path, suffix: str) -> None:
    """A compact trace that was recorded is another than one imported from the same text."""
    fake(GOOD)
    made = out.with_name(f"made.hvt{suffix}")
    summary = record(["true"], made)
    assert (summary.references, summary.size) == (3, made.stat().st_size)
    record(["true"], out)
    imported = out.with_name(f"imported.hvt{suffix}")
    import_trace(out, None, imported)
    assert made.read_bytes() == imported.read_bytes()
    assert sum(len(s) for s in HvtTrace(made).steps() if isinstance(s, ReducedAccesses)) == 3


def test_packed_files_hold_no_time(fake: Callable[[str], Path], out: Path) -> None:
    """One trace recorded under two names gives two different files."""
    fake(GOOD)
    for suffix in codec.SUFFIXES:
        one, two = out.with_name(f"one{suffix}"), out.with_name(f"two{suffix}")
        record(["true"], one)
        record(["true"], two)
        assert one.read_bytes() == two.read_bytes()
    assert out.with_name("one.gz").read_bytes()[3:8] == bytes(5)  # no name, no time


def test_what_the_program_is_given(
    fake: Callable[[str], Path], out: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The user's environment or a .valgrindrc gets into the trace."""
    monkeypatch.setenv("SECRET", "1")
    monkeypatch.delenv("VALGRIND_LIB", raising=False)
    fake(GOOD + "open(told, 'w').write(repr((dict(os.environ), sys.argv[1:])))\n")
    record(["true", "--flag", "-o"], out)
    told = (tmp_path / "told").read_text()
    for key, value in ENVIRONMENT.items():
        assert f"{key!r}: {value!r}" in told
    assert "SECRET" not in told
    for option in ("--tool=lackey", "--trace-mem=yes", "--command-line-only=yes"):
        assert option in told
    assert told.endswith(f"{shutil.which('true')!r}, '--flag', '-o'])")


def test_the_exit_code_is_kept(fake: Callable[[str], Path], out: Path) -> None:
    """A program that failed is taken for one that did not."""
    fake(GOOD + "print('one\\nlast \\x1b words', file=sys.stderr)\nsys.exit(7)\n")
    summary = record(["true"], out)
    assert (summary.references, summary.exit_code) == (3, 7)
    assert summary.said == "last \\x1b words"
    fake(GOOD + "os.kill(os.getpid(), signal.SIGSEGV)\n")
    assert record(["true"], out, force=True).exit_code == -11


@pytest.mark.parametrize("limit", [1, 2, 3])
def test_limit_ends_the_program(
    fake: Callable[[str], Path], out: Path, tmp_path: Path, limit: int
) -> None:
    """A limited recording waits for the program's end, or is cut inside a line."""
    forever = "open(told, 'w').write(str(os.getpid()))\nwhile True: log.write('I  00401000,1\\n')\n"
    fake(GOOD + forever)
    summary = record(["true"], out, limit=limit)
    assert (summary.references, summary.exit_code) == (limit, None)
    assert out.read_text() == HEAD + "".join(LINES.splitlines(keepends=True)[:limit])
    summary = record(["true"], out, limit=5000, force=True)
    assert out.read_text().count("\nI ") + 2 == summary.references == 5000
    with pytest.raises(ProcessLookupError):
        os.kill(int((tmp_path / "told").read_text()), 0)


def test_half_a_line_at_the_end_is_dropped(fake: Callable[[str], Path], out: Path) -> None:
    """A valgrind that was killed leaves a trace that cannot be read."""
    fake(GOOD + "log.write('I  0040'); log.flush()\nos.kill(os.getpid(), signal.SIGKILL)\n")
    assert record(["true"], out).exit_code == -9
    assert out.read_text() == HEAD + LINES


def test_lines_may_come_in_pieces(fake: Callable[[str], Path], out: Path) -> None:
    """A line that two reads share is lost or counted twice."""
    body = "I  0401ab70,3\n L 04a17de0,80\n"
    fake(f"for c in {body!r}:\n    os.write(fd, c.encode()); time.sleep(0.002)\n")
    assert record(["true"], out).references == 2
    assert out.read_text() == body


def test_a_child_that_lives_on_is_not_waited_for(fake: Callable[[str], Path], out: Path) -> None:
    """A program that leaves a daemon behind is recorded for ever."""
    fake(GOOD + "if os.fork() == 0:\n    while True: os.write(2, b'y\\n')\n")
    assert record(["true"], out).exit_code == 0


FAILURES = [
    ("print('valgrind: cannot do it', file=sys.stderr)\nsys.exit(1)\n", "valgrind: cannot do it"),
    ("sys.exit(3)\n", "exit code 3"),
    (f"log.write({HEAD!r})\n", "recorded nothing"),
    (GOOD + "log.write('valgrind: the impossible happened\\n')\n", "the impossible happened"),
]


@pytest.mark.parametrize(("body", "said"), FAILURES)
@pytest.mark.parametrize("name", ["a.trace", "a.xz", "a.zst", "a.hvt", "a.hvt.gz"])
def test_valgrind_fails(
    fake: Callable[[str], Path], out: Path, body: str, said: str, name: str
) -> None:
    """A failed recording leaves a file, or does not say why it failed."""
    fake(body)
    assert said in refused(out.with_name(name))
    gc.collect()  # what packs would now write to a file that is closed


def test_valgrind_cannot_be_started(fake: Callable[[str], Path], out: Path) -> None:
    """A broken valgrind is reported as a problem of the destination, or by a traceback."""
    fake("").write_text("no program at all")
    assert "valgrind cannot be started" in refused(out)


def test_ctrl_c_leaves_nothing(fake: Callable[[str], Path], out: Path, tmp_path: Path) -> None:
    """An interrupted recording leaves half a trace, or a valgrind that runs on."""
    fake("open(told, 'w').write(str(os.getpid()))\n" + GOOD + "time.sleep(60)\n")

    def interrupt(_: int) -> None:
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        record(["true"], out, progress=interrupt)
    assert not list(out.parent.iterdir())
    with pytest.raises(ProcessLookupError):
        os.kill(int((tmp_path / "told").read_text()), 0)


def test_valgrind_is_missing(out: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A user without valgrind is not told how to get it."""
    true = shutil.which("true")
    assert true is not None
    monkeypatch.setenv("PATH", str(tmp_path))
    said = refused(out, (true,))
    assert "apt install valgrind" in said
    assert "dnf install valgrind" in said


def test_the_command_is_missing(fake: Callable[[str], Path], out: Path, tmp_path: Path) -> None:
    """A typo in the command leaves an empty trace."""
    fake(GOOD)
    assert "no-such-command: command not found" in refused(out, ("no-such-command",))
    assert "command not found" in refused(out, (str(tmp_path),))
    assert "command not found" in refused(out, ("two\nlines",))
    assert "no command" in refused(out, ())
    assert "1 or more" in refused(out, limit=0)


def test_destinations_that_will_not_do(fake: Callable[[str], Path], out: Path) -> None:
    """A trace replaces something, or the message does not say what to do."""
    fake(GOOD)
    out.write_text("precious")
    assert "use --force" in refused(out)
    assert out.read_text() == "precious"
    record(["true"], out, force=True)
    assert out.read_text() == HEAD + LINES
    assert "no folder" in refused(out.parent / "missing" / "a.xz")
    said = refused(out.with_name("a.bz2"))
    assert all(suffix in said for suffix in (".xz", ".gz", ".zst", ".trace"))
    (out.parent / "folder").mkdir()
    assert "not a regular file" in refused(out.parent / "folder", force=True)
    assert "not a regular file" in refused(Path(os.devnull), force=True)
    assert "cannot be written" in refused(out.with_name("x" * 300))


def test_a_failed_replacement_keeps_the_old_trace(fake: Callable[[str], Path], out: Path) -> None:
    """--force throws a good trace away for nothing."""
    out.write_text("precious")
    fake("sys.exit(1)\n")
    refused(out, force=True)
    assert out.read_text() == "precious"


@pytest.mark.skipif(shutil.which("valgrind") is None, reason="valgrind is not installed")
def test_real_valgrind(out: Path) -> None:
    """The options are not the ones that valgrind has, or its output is not what is read."""
    path = out.with_name("true.trace.xz")
    summary = record(["sh", "-c", "exit 3"], path)
    assert summary.exit_code == 3
    kinds: set[int] = set()
    accesses = 0
    for step in LackeyTrace(path).steps():
        if isinstance(step, Accesses):
            kinds |= set(step.kind)
            accesses += len(step)
    assert kinds == {4, 6, 0x14}
    assert accesses >= summary.references > 10_000


@pytest.mark.skipif(shutil.which("valgrind") is None, reason="valgrind is not installed")
def test_real_valgrind_up_to_a_limit(out: Path) -> None:
    """A limit leaves a trace that cannot be read."""
    assert record(["sh", "-c", "exit 3"], out, limit=1000).exit_code is None
    steps = LackeyTrace(out, 1000).steps()
    assert sum(len(step) for step in steps if isinstance(step, Accesses)) >= 1000
