"""The log is set up when structlog is imported, by whomever, and structlog is left as it is."""

import subprocess
import sys

from structlog.testing import capture_logs

from hvmmu import log

LATE = """
import importlib.util, sys
from hvmmu import log
log.set_up(lambda: print("first"))
log.set_up(lambda: print("last"))
assert "structlog" not in sys.modules
importlib.util.find_spec("structlog")  # to look for it is not to import it
from structlog.testing import capture_logs
import structlog
assert structlog.__loader__ is structlog.__spec__.loader
print(type(structlog.__loader__).__name__)
log.set_up(lambda: print("at once"))
"""


def test_whoever_imports_structlog_finds_it_set_up() -> None:
    """A plugin's log goes to stdout, between the results, or structlog's module is not its own."""
    ended = subprocess.run(
        [sys.executable, "-c", LATE], capture_output=True, text=True, timeout=60, check=False
    )
    assert (ended.stderr, ended.stdout) == ("", "last\nSourceFileLoader\nat once\n")


def test_the_logger_is_structlogs() -> None:
    """What the core logs escapes those who listen to structlog."""
    with capture_logs() as logs:
        log.get_logger().warning("shadow_page_zapped", gfn=3)
    assert logs == [{"event": "shadow_page_zapped", "gfn": 3, "log_level": "warning"}]
