"""The log is configured before its first message, and structlog is left as it is."""

import subprocess
import sys

from structlog.testing import capture_logs

from hvmmu import log

LATE = """
import sys
from hvmmu import log
log.configure_with(lambda: print("first"))
log.configure_with(lambda: print("last"))
log.configure_if_imported()
assert "structlog" not in sys.modules
{imported}
log.configure_if_imported()
print("again")
log.configure_with(lambda: print("at once"))
"""


def said(imported: str) -> str:
    """Return what is printed where structlog is imported so, after it was given functions."""
    run = [sys.executable, "-c", LATE.format(imported=imported)]
    return subprocess.run(run, capture_output=True, text=True, timeout=60, check=True).stdout


def test_configured_once_when_it_is_imported() -> None:
    """A plugin's log goes to stdout, between the results, or is configured over and over."""
    assert said("log.get_logger()") == "last\nagain\nat once\n"
    assert said("import structlog") == "last\nagain\nat once\n"


def test_the_logger_is_structlogs() -> None:
    """A message of the core escapes those who listen to structlog."""
    with capture_logs() as logs:
        log.get_logger().warning("shadow_page_zapped", gfn=3)
    assert logs == [{"event": "shadow_page_zapped", "gfn": 3, "log_level": "warning"}]
