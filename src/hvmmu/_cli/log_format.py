"""The format of the log: warnings and above, one plain line each, on stderr."""

import sys
from collections.abc import MutableMapping
from typing import Any

from hvmmu import log
from hvmmu.params import printable


def configure(*, verbose: bool) -> None:
    """Show warnings, or with *verbose* everything down to debug."""
    log.configure_with(lambda: _configure(verbose=verbose))


def _configure(*, verbose: bool) -> None:
    import logging  # noqa: PLC0415 - imported with structlog, and not before it

    import structlog  # noqa: PLC0415 - the same

    structlog.configure(
        processors=[_line],
        wrapper_class=structlog.make_filtering_bound_logger(
            logging.DEBUG if verbose else logging.WARNING
        ),
        logger_factory=_Stderr,
        cache_logger_on_first_use=False,
    )


class _Stderr:
    """A logger that looks stderr up when it prints: a test or a caller may have replaced it."""

    def __init__(self, *_: object) -> None:
        """Take and ignore a logger's name."""

    def msg(self, line: str) -> None:
        """Print one line."""
        print(line, file=sys.stderr)  # noqa: T201 - the log of a command-line tool

    debug = info = warning = warn = error = critical = fatal = exception = failure = log = msg


def _line(_: object, method: str, event: MutableMapping[str, Any]) -> str:
    """Return `hvmmu: warning: event key=value`."""
    name = event.pop("event", "")
    cause = event.pop("exc_info", None)
    if isinstance(cause, BaseException):
        event["cause"] = f"{type(cause).__name__}: {cause}"
    fields = "".join(f" {key}={_text(value)}" for key, value in event.items())
    return f"hvmmu: {'warning' if method == 'warn' else method}: {printable(str(name))}{fields}"


def _text(value: object) -> str:
    text = printable(str(value))
    return f'"{text}"' if " " in text else text
