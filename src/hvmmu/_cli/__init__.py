"""The command line: arguments in, an exit code out.

Exit codes: 0 done; 1 the guest could tell two runs apart, or a plugin or a cell of a sweep failed;
2 input that cannot be used; 3 a bug in hvmmu; 128 and its number after a signal (130 interrupted);
141 the reader of our output went away.
"""

import atexit
import errno
import gc
import os
import sys
from collections.abc import Sequence
from contextlib import suppress

from hvmmu.errors import ConfigError, GuestMemoryError, HvmmuError, InputError, InvariantError

_ALLOCATIONS = 100_000  # between two collections: imports allocate much, and hardly any garbage

DONE, DIFFERS, BAD_INPUT, BUG, INTERRUPTED, NO_READER = 0, 1, 2, 3, 130, 141


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command line *argv*, by default the process's; return the exit code."""
    _reopen_closed()
    before = gc.get_threshold()
    gc.set_threshold(_ALLOCATIONS, *before[1:])
    if argv is None:  # the process ends with it: no need to search its memory for garbage first
        atexit.register(gc.freeze)
        return _ended(argv)
    try:
        return _ended(argv)
    finally:
        gc.set_threshold(*before)


def _reopen_closed() -> None:
    """Open the null device for each closed standard stream: no file may take its descriptor."""
    for descriptor in range(3):
        try:
            os.fstat(descriptor)
        except OSError:
            os.open(os.devnull, os.O_RDWR)
    if sys.stderr is None:
        sys.stderr = open(2, "w", closefd=False)  # noqa: SIM115 - for the whole process


def _ended(argv: Sequence[str] | None) -> int:
    try:
        code = _run(argv)
        if sys.stdout is not None:
            sys.stdout.flush()
    except KeyboardInterrupt:
        return _fail(INTERRUPTED, "interrupted")
    except OSError as error:
        drop_stdout()
        if error.errno == errno.EPIPE:
            return NO_READER
        return _fail(BAD_INPUT, f"{error.filename or 'output'}: {error.strerror or error}")
    return code


def _run(argv: Sequence[str] | None) -> int:
    import click  # noqa: PLC0415 - half of a start's time, and not needed to import hvmmu._cli

    from hvmmu._cli.commands import hvmmu  # noqa: PLC0415 - the same

    try:
        arguments = None if argv is None else list(argv)
        code = hvmmu.main(args=arguments, prog_name="hvmmu", standalone_mode=False)
    except click.Abort:
        return _fail(INTERRUPTED, "interrupted")
    except click.ClickException as error:
        return _fail(BAD_INPUT, *_usage(error))
    except ConfigError as error:
        return _fail(BAD_INPUT, *error.problems)
    except (InputError, GuestMemoryError) as error:
        return _fail(BAD_INPUT, str(error))
    except InvariantError as error:
        todo = "`hvmmu check NAME` tests a backend; if it passes, please report what you ran"
        return _fail(BUG, f"{error} (a bug: {todo})")
    except HvmmuError as error:
        return _fail(DIFFERS, *str(error).splitlines())
    return code if isinstance(code, int) else DONE


def _usage(error: Exception) -> list[str]:
    """Return one line: the mistake in the command line, and where the help is."""
    context = getattr(error, "ctx", None)
    message = getattr(error, "message", "") or str(error)
    text = " ".join(getattr(error, "format_message", lambda: message)().split())
    command = context.command_path if context is not None else "hvmmu"
    return [f"{text.rstrip('.')} (see `{command} --help`)"]


def _fail(code: int, *problems: str) -> int:
    """Print one line a problem to stderr, and return the exit code."""
    with suppress(OSError, AttributeError):  # stderr may be closed, too
        for problem in problems:
            print(f"hvmmu: error: {' '.join(problem.split())}", file=sys.stderr)  # noqa: T201
    return code


def drop_stdout() -> None:
    """Let the interpreter's own last flush go nowhere instead of to a closed pipe."""
    with suppress(OSError, ValueError, AttributeError):
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
