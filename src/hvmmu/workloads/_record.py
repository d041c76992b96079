"""Recording: run a program under valgrind's lackey and keep the trace, packed as it comes.

Only the program itself is traced, not what it starts. It sees a pinned environment; its standard
output is thrown away, its standard input is empty, of its standard error the last line is kept.
The trace is written beside its destination and renamed when it is whole.
"""

from __future__ import annotations

import contextlib
import os
import selectors
import shutil
import signal
import subprocess
from typing import IO, TYPE_CHECKING, Protocol

import attrs

from hvmmu._trace.atomic_output import check_output, whole_file
from hvmmu._trace.codec import SUFFIXES, writer
from hvmmu._trace.hvt.import_trace import SUFFIX, LackeySink, hvt_file, is_hvt
from hvmmu.errors import InputError
from hvmmu.params import printable

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Sequence
    from pathlib import Path

PLAIN = (".trace", ".lackey", ".log", ".txt")
"""Endings of a file name that ask for a trace that is not packed; no ending at all does, too."""

ENVIRONMENT = {
    "HOME": "/",
    "LC_ALL": "C",
    "PATH": "/usr/sbin:/usr/bin:/sbin:/bin",
    "TZ": "UTC",
}
"""All that the program finds in its environment, beside what valgrind adds."""

_OPTIONS = (
    "--tool=lackey",
    "--trace-mem=yes",
    "--basic-counts=no",
    # A .valgrindrc in the current folder would change the trace.
    "--command-line-only=yes",
    # A forked child would write into the middle of its parent's lines.
    "--child-silent-after-fork=yes",
)
_REFERENCES = (b"\nI ", b"\n S", b"\n L", b"\n M")
_SAID = (b"\n==", b"\n--", b"\n**")
_CHUNK = 1 << 16
_TAIL = 4096
"""Bytes of standard error that are kept."""
_PATIENCE = 0.2
"""Seconds between two looks whether the program is over."""


class _Sink(Protocol):
    def write(self, lines: bytes, /) -> int: ...


@attrs.frozen
class RecordSummary:
    """What was recorded.

    `exit_code` is the program's own, negative for the signal that ended it, and None if it was
    stopped at the limit; `said` is the last line of its standard error, for people.
    """

    path: Path
    command: tuple[str, ...]
    references: int
    size: int
    exit_code: int | None
    said: str


def record(
    command: Sequence[str],
    output: Path,
    *,
    limit: int | None = None,
    progress: Callable[[int], None] | None = None,
    force: bool = False,
) -> RecordSummary:
    """Run *command* under lackey and write its trace to *output*, packed as its suffix says.

    *limit* stops the program after so many references; *progress* is told the number so far.
    Raise InputError, and leave no file, if the command, valgrind or the destination will not do.
    An existing *output* is replaced only with *force*, and only by a whole trace.
    """
    _check_suffix(output)
    check_output(output, force=force)
    argv = _argv(command, limit)
    with _sink(output, force=force) as sink:
        recording = _Recording(sink, limit, progress)
        exit_code = recording.run(argv)
    size = output.stat().st_size
    said = recording.last_line()
    return RecordSummary(output, tuple(command), recording.references, size, exit_code, said)


@contextlib.contextmanager
def _sink(output: Path, *, force: bool) -> Iterator[_Sink]:
    """Open what becomes *output* if the block ends well; the lines written to it are packed."""
    if is_hvt(output):
        with hvt_file(output, force=force) as file:
            compact = LackeySink(file)
            yield compact
            compact.close()
        return
    with whole_file(output, force=force) as file:
        packed = writer(file, output.suffix)
        if packed is None:
            yield file
            return
        with packed:  # closed before the file is, also where recording fails
            yield packed


def _check_suffix(output: Path) -> None:
    if is_hvt(output) or output.suffix in ("", *SUFFIXES, *PLAIN):
        return
    raise InputError(
        f"{printable(str(output))}: what to pack a trace as is not told by {output.suffix!r}; "
        f"end the name in {SUFFIX}, {', '.join(SUFFIXES)}, or {', '.join(PLAIN)} for plain text"
    )


def _argv(command: Sequence[str], limit: int | None) -> list[str]:
    if not command:
        raise InputError("no command to record; write it after `--`")
    if limit is not None and limit < 1:
        raise InputError(f"a limit of {limit} references records nothing; give 1 or more")
    program = shutil.which(command[0])
    if program is None:
        raise InputError(f"{printable(command[0])}: command not found; check its name or path")
    valgrind = shutil.which("valgrind")
    if valgrind is None:
        raise InputError(
            "valgrind is not installed, and recording needs it; "
            "`apt install valgrind` (Debian, Ubuntu) or `dnf install valgrind` (Fedora)"
        )
    return [valgrind, *_OPTIONS, program, *command[1:]]


class _Recording:
    """One run of valgrind: its log goes to *sink* by whole lines."""

    def __init__(
        self, sink: _Sink, limit: int | None, progress: Callable[[int], None] | None
    ) -> None:
        self._sink, self._limit, self._progress = sink, limit, progress
        self._rest, self._stderr = b"", b""
        self.references = 0
        self.stopped = False

    def run(self, argv: list[str]) -> int | None:
        """Run to the end or the limit; return the exit code, None at the limit."""
        log, log_end = os.pipe()
        argv = [argv[0], f"--log-fd={log_end}", *argv[1:]]
        with open(log, "rb", buffering=0) as lines:  # noqa: PTH123  # a descriptor, not a path
            try:
                valgrind = _start(argv, log_end)
            finally:
                os.close(log_end)
            with valgrind:
                with _all_ended(valgrind):
                    self._drain(valgrind, lines)
                    if not self.stopped:
                        _wait(valgrind)
                code = None if self.stopped else valgrind.wait()
        if not self.references:
            why = self.last_line() or f"it ended with exit code {code} and no reference"
            raise InputError(f"valgrind recorded nothing: {why}")
        return code

    def last_line(self) -> str:
        """Return the last line that came on standard error, printable."""
        lines = self._stderr.decode("utf-8", "replace").strip().splitlines()
        return printable(lines[-1]) if lines else ""

    def _drain(self, valgrind: subprocess.Popen[bytes], log: IO[bytes]) -> None:
        with selectors.DefaultSelector() as waiting:
            waiting.register(log, selectors.EVENT_READ, self._keep)
            waiting.register(_pipe(valgrind), selectors.EVENT_READ, self._hear)
            while waiting.get_map() and not self.stopped:
                ended = _wait(valgrind, os.WNOHANG)
                ready = waiting.select(_PATIENCE)
                for key, _ in ready:
                    chunk = os.read(key.fd, _CHUNK)
                    key.data(chunk)
                    if not chunk:
                        waiting.unregister(key.fileobj)
                # A child that lives on may hold the pipes open, and write to one for ever.
                if ended and not any(key.fileobj is log for key, _ in ready):
                    return

    def _hear(self, chunk: bytes) -> None:
        self._stderr = (self._stderr + chunk)[-_TAIL:]

    def _keep(self, chunk: bytes) -> None:
        """Write the whole lines, and no more of them than the limit allows."""
        cut = chunk.rfind(b"\n") + 1
        if not cut:
            self._rest += chunk
            return
        text, self._rest = self._rest + chunk[:cut], chunk[cut:]
        found = _references(text)
        if self._limit is not None and self.references + found >= self._limit:
            text = _first(text, self._limit - self.references)
            found, self.stopped = self._limit - self.references, True
        self._sink.write(text)
        self.references += found
        if self._progress is not None:
            self._progress(self.references)


def _start(argv: list[str], log: int) -> subprocess.Popen[bytes]:
    # A valgrind that was unpacked elsewhere than it was built for finds its tools by this.
    libraries = {key: os.environ[key] for key in ("VALGRIND_LIB",) if key in os.environ}
    try:
        return subprocess.Popen(  # noqa: S603  # running the user's command is the purpose
            argv,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.PIPE,
            env=ENVIRONMENT | libraries,
            pass_fds=(log,),
            start_new_session=True,
        )
    except OSError as error:
        raise InputError(f"valgrind cannot be started: {error.strerror}") from None


@contextlib.contextmanager
def _all_ended(valgrind: subprocess.Popen[bytes]) -> Iterator[None]:
    """End valgrind, and what the program left running in its session, however the block ends.

    valgrind has not been waited for here, so its process group cannot be anyone else's yet.
    """
    try:
        yield
    finally:
        with contextlib.suppress(ProcessLookupError, PermissionError):
            os.killpg(valgrind.pid, signal.SIGKILL)


def _wait(process: subprocess.Popen[bytes], options: int = 0) -> bool:
    """Wait for the end of a process and tell if it came; its exit code stays to be collected."""
    found = os.waitid(os.P_PID, process.pid, os.WEXITED | os.WNOWAIT | options)
    return found is not None


def _pipe(process: subprocess.Popen[bytes]) -> IO[bytes]:
    assert process.stderr is not None  # it was asked for as a pipe
    return process.stderr


def _references(text: bytes) -> int:
    """Count the references in whole lines; raise InputError where valgrind itself complains."""
    text = b"\n" + text
    found = sum(map(text.count, _REFERENCES))
    if found + sum(map(text.count, _SAID)) != text.count(b"\n") - 1:
        marks = tuple(mark[1:] for mark in _REFERENCES + _SAID)
        stray = next(line for line in text[1:].split(b"\n") if not line.startswith(marks))
        raise InputError(f"valgrind failed: {printable(stray.decode('utf-8', 'replace'))}")
    return found


def _first(text: bytes, references: int) -> bytes:
    """Return the lines up to and with so many references."""
    lines = text.splitlines(keepends=True)
    marks = tuple(mark[1:] for mark in _REFERENCES)
    for index, line in enumerate(lines):
        references -= line.startswith(marks)
        if not references:
            return b"".join(lines[: index + 1])
    return text
