"""Files that are whole or not there: written beside their destination, and renamed at the end."""

from __future__ import annotations

import contextlib
from typing import IO, TYPE_CHECKING

from hvmmu._files import atomic_path
from hvmmu.errors import InputError
from hvmmu.params import printable

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path


@contextlib.contextmanager
def whole_file(output: Path, *, force: bool) -> Iterator[IO[bytes]]:
    """Open a new file that becomes *output* if the block ends well, and leaves nothing if not.

    Raise InputError for a destination that will not do; one that exists only does with *force*.
    """
    check_output(output, force=force)  # else a bad name is only found when all is read
    try:
        with atomic_path(output) as beside, beside.open("x+b") as file:
            yield file
    except OSError as error:
        why = error.strerror or str(error)
        raise InputError(f"{printable(str(output))}: cannot be written: {why}") from None


def check_output(output: Path, *, force: bool) -> None:
    """Raise InputError for what cannot, or without *force* must not, be written."""
    name = printable(str(output))
    try:
        _check(output, name, force)
    except OSError as error:
        raise InputError(f"{name}: cannot be written: {error.strerror}") from None


def _check(output: Path, name: str, force: bool) -> None:
    if not output.parent.is_dir():
        raise InputError(f"{name}: there is no folder {printable(str(output.parent))}; make it")
    if not output.exists():
        return
    if not output.is_file():
        raise InputError(f"{name}: is not a regular file; name another")
    if not force:
        raise InputError(f"{name}: exists; name another file, or use --force")
