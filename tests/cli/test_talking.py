"""What goes to stderr while a command works: the log and the progress."""

import io
import sys
import time

import pytest
import structlog

from hvmmu._cli import log_format
from hvmmu._cli.progress import Counter


@pytest.fixture(autouse=True)
def _unconfigured() -> object:
    """Leave the log as it was: it is the process's."""
    yield
    structlog.reset_defaults()


def test_a_warning_is_one_plain_line(capsys: pytest.CaptureFixture[str]) -> None:
    """A log line has other than its event and its fields, or goes to stdout."""
    log_format.configure(verbose=False)
    log = structlog.get_logger().bind(backend="b")
    log.info("run_started")
    log.warning("bypass_turned_off", maxphyaddr=52, why="no reserved bit\nleft")
    captured = capsys.readouterr()
    assert captured.out == ""
    assert captured.err == (
        'hvmmu: warning: bypass_turned_off backend=b maxphyaddr=52 why="no reserved bit\\nleft"\n'
    )


def test_verbose_tells_everything(capsys: pytest.CaptureFixture[str]) -> None:
    """-v hides what happened."""
    log_format.configure(verbose=True)
    structlog.get_logger().debug("shadow_page_zapped", gfn=3)
    structlog.get_logger().error("failed", exc_info=ValueError("bad"))
    assert capsys.readouterr().err == (
        'hvmmu: debug: shadow_page_zapped gfn=3\nhvmmu: error: failed cause="ValueError: bad"\n'
    )


class Terminal(io.StringIO):
    """A stderr that a person looks at."""

    def isatty(self) -> bool:
        """Say that it is one."""
        return True


def test_progress_after_a_second(monkeypatch: pytest.MonkeyPatch) -> None:
    """A quick command flickers, or a slow one says nothing."""
    now = [100.0]
    monkeypatch.setattr(time, "monotonic", lambda: now[0])
    monkeypatch.setattr(sys, "stderr", Terminal())
    monkeypatch.setenv("TERM", "xterm")
    with Counter("references") as progress:
        progress.update(10)
        assert sys.stderr.getvalue() == ""
        now[0] += 1.5
        progress.update(1_234_567)
    assert "references" in sys.stderr.getvalue()
    assert "1,234,567" in sys.stderr.getvalue()


def test_no_progress_where_nobody_looks(monkeypatch: pytest.MonkeyPatch) -> None:
    """A log file fills with progress bars."""
    now = iter(range(100, 200, 10))
    monkeypatch.setattr(time, "monotonic", lambda: next(now))
    monkeypatch.setattr(sys, "stderr", io.StringIO())
    with Counter("references") as progress:
        progress.update(1)
        progress.update(2)
    assert sys.stderr.getvalue() == ""
