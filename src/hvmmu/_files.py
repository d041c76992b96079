"""Write files atomically: beside their place, synced and renamed."""

import os
import secrets
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path


def write_atomically(path: Path, raw: bytes) -> None:
    """Write these bytes to *path*, which holds them or its old content at any moment."""
    with atomic_path(path) as beside:
        flags = os.O_WRONLY | os.O_CREAT | os.O_EXCL
        with os.fdopen(os.open(beside, flags, 0o666), "wb") as file:
            file.write(raw)


@contextmanager
def atomic_path(path: Path) -> Iterator[Path]:
    """Give a free name beside *path* to write to; in the end that file replaces *path*.

    An OSError names *path*.
    """
    beside = path.with_name(f".{path.stem}.{secrets.token_hex(4)}.tmp")
    try:
        yield beside
        _sync(beside)
        beside.replace(path)
    except BaseException as error:
        beside.unlink(missing_ok=True)
        if isinstance(error, OSError):
            error.filename = os.fspath(path)
        raise
    _sync(path.parent)


def _sync(path: Path) -> None:
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
