"""A package onto the disk, whole or not at all."""

import os
import shutil
import tempfile
from collections.abc import Mapping
from pathlib import Path

from hvmmu.errors import InputError
from hvmmu.params import printable


def write(files: Mapping[str, str], folder: Path) -> None:
    """Write *files*, by their paths with slashes, into a new or empty *folder*.

    They are written beside it and then moved. Raise InputError if it has something in it already,
    or nothing to lie in; OSError if it cannot be written.
    """
    shown = printable(str(folder))
    where = folder.resolve()  # `.` and `..` have a parent too
    if not where.parent.is_dir():
        raise InputError(
            f"{shown}: there is no folder {printable(str(where.parent))}; make it first"
        )
    if os.path.lexists(where) and not (where.is_dir() and not any(where.iterdir())):
        raise InputError(f"{shown}: there is something already; name a folder that is new or empty")
    aside = Path(tempfile.mkdtemp(prefix=".hvmmu-new-", dir=where.parent))
    try:
        made = aside / "package"
        for path, text in files.items():
            file = made / path
            file.parent.mkdir(parents=True, exist_ok=True)
            file.write_text(text, encoding="utf-8", newline="\n")
        _move(made, where)
    finally:
        shutil.rmtree(aside, ignore_errors=True)


def _move(made: Path, where: Path) -> None:
    """Put the package in its place; an empty folder stays itself, for a shell may be in it."""
    if not where.exists():
        made.rename(where)
        return
    moved: list[Path] = []
    try:
        for entry in sorted(made.iterdir()):
            target = where / entry.name
            entry.rename(target)
            moved.append(target)
    except BaseException:
        for target in moved:
            target.rename(made / target.name)
        raise
