"""Files that are whole at any moment: written beside their place, synced and renamed."""

import os
import secrets
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path


def write_atomically(path: Path, raw: bytes) -> None:
    """Have *path* hold these bytes, or what it held before, at any moment."""
    with replaced(path) as beside:
        flags = os.O_WRONLY | os.O_CREAT | os.O_EXCL
        with os.fdopen(os.open(beside, flags, 0o666), "wb") as file:
            file.write(raw)


@contextmanager
def replaced(path: Path) -> Iterator[Path]:
    """Give a free name beside *path* to write to; what is there in the end becomes *path*."""
    beside = path.with_name(f".{path.stem}.{secrets.token_hex(4)}.tmp")
    try:
        yield beside
        _sync(beside)
        beside.replace(path)
    except BaseException:
        beside.unlink(missing_ok=True)
        raise
    _sync(path.parent)


def _sync(path: Path) -> None:
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
