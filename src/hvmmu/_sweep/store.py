"""A folder of cells: one JSON file each, named for its identity, complete or absent."""

import json
import os
import re
import stat
from collections.abc import Collection, Iterable
from contextlib import suppress
from pathlib import Path
from typing import Any, cast

import attrs

from hvmmu._files import write_atomically
from hvmmu._report.document import Document
from hvmmu._sweep.cells import Cell, Identity, sha256_of
from hvmmu._sweep.table_rows import flat_row
from hvmmu.errors import ConfigError, InputError
from hvmmu.params import printable

MOST_BYTES = 16 << 20
"""The largest file that is read as a cell."""

_NAME = re.compile(r"([0-9a-f]{64})\.json")
_TEMPORARY = re.compile(r"\.([0-9a-f]{64})\.\w+\.tmp")


@attrs.frozen
class CellFailure:
    """The cause of a cell's having no result."""

    kind: str
    """The error's class; `worker` if its process died, `bug` for an unforeseen exception."""
    reason: str
    """One line."""


def text_of(
    identity: Identity,
    result: Document | None,
    failure: CellFailure | None,
    provenance: dict[str, Any],
) -> str:
    """Return the text of a cell's file; its checksum covers all the rest."""
    cell = {
        "cell": sha256_of(identity),
        "identity": identity,
        "provenance": provenance,
        "failure": None if failure is None else attrs.asdict(failure),
        "result": result,
    }
    cell["checksum"] = sha256_of(cell)
    return json.dumps(cell, indent=2, sort_keys=True, ensure_ascii=True, allow_nan=False) + "\n"


def read_cell(path: Path) -> dict[str, Any]:
    """Return a cell; raise InputError if its file is damaged, or has another cell's name."""
    where = printable(str(path))
    try:
        raw = _read(path)
        cell = json.loads(raw.decode("ascii"))
        checksum = cell.pop("checksum")
        name = sha256_of(cell["identity"])
        flat_row(cell)
        if checksum == sha256_of(cell) and cell["cell"] == name == path.stem:
            return cast("dict[str, Any]", cell)
    except OSError as error:
        raise InputError(f"{where}: cannot be read: {error.strerror}") from None
    except (ValueError, LookupError, TypeError, AttributeError, RecursionError):
        pass
    raise InputError(f"{where}: damaged; `hvmmu sweep --resume` runs that cell again")


def _read(path: Path) -> bytes:
    """Return the bytes of a regular file; raise ValueError for anything else, never wait for it."""
    with open(os.open(path, os.O_RDONLY | os.O_NONBLOCK), "rb") as file:  # noqa: PTH123 - of os
        is_file = stat.S_ISREG(os.fstat(file.fileno()).st_mode)
        raw = file.read(MOST_BYTES + 1) if is_file else b""
    if not is_file or len(raw) > MOST_BYTES:
        raise ValueError
    return raw


def cell_files(folder: Path) -> list[Path]:
    """Return the files of a folder that have a cell's name, in order; raise InputError."""
    try:
        return sorted(path for path in folder.iterdir() if _NAME.fullmatch(path.name))
    except OSError as error:
        raise InputError(f"{printable(str(folder))}: cannot be read: {error.strerror}") from None


@attrs.frozen
class Store:
    """The folder of a sweep's cells."""

    folder: Path

    def begin(self, mine: Iterable[Cell], all_ids: Collection[str], *, resume: bool) -> list[Cell]:
        """Return the cells that are yet to run.

        Raise ConfigError if, without *resume*, it holds anything but another shard's cells.
        """
        mine = list(mine)
        try:
            there = sorted(os.listdir(self.folder))  # noqa: PTH208 - only names are needed
        except FileNotFoundError:
            return mine
        except OSError as error:
            raise self._unusable(error) from None
        ids = {cell.id for cell in mine}
        if not resume:
            self._refuse(there, ids, all_ids)
        self._tidy(there, ids)
        return [cell for cell in mine if not self.has(cell.id)]

    def create(self) -> None:
        """Create the folder if it does not exist; raise InputError if it cannot be used."""
        try:
            self.folder.mkdir(parents=True, exist_ok=True)
        except OSError as error:
            raise self._unusable(error) from None

    def _unusable(self, error: OSError) -> InputError:
        where = printable(str(self.folder))
        return InputError(f"{where}: cannot be used: {error.strerror}; give another with -o")

    def _refuse(self, there: list[str], ids: Collection[str], all_ids: Collection[str]) -> None:
        where = printable(str(self.folder))
        cells = {match[1] for name in there if (match := _NAME.fullmatch(name))}
        done = len(cells & set(ids))
        foreign = len(cells - set(all_ids))
        others = len([n for n in there if not _NAME.fullmatch(n) and not _TEMPORARY.fullmatch(n)])
        problems = []
        if done:
            todo = "--resume runs the others, or give another folder with -o"
            problems.append(f"{where}: holds {done} of these {len(ids)} cells; {todo}")
        if foreign:
            todo = "give a folder of its own with -o, or add to it with --resume"
            problems.append(f"{where}: holds cells of another grid ({foreign}); {todo}")
        if others:
            todo = "give a folder of its own with -o"
            problems.append(f"{where}: holds other files ({others}); {todo}")
        if problems:
            raise ConfigError(problems)

    def _tidy(self, there: list[str], ids: Collection[str]) -> None:
        """Remove temporary files that a killed sweep left of these cells."""
        for name in there:
            if (match := _TEMPORARY.fullmatch(name)) and match[1] in ids:
                with suppress(OSError):
                    (self.folder / name).unlink()

    def path(self, name: str) -> Path:
        """Return the path of the cell of this name."""
        return self.folder / f"{name}.json"

    def has(self, name: str) -> bool:
        """Return whether the cell's file exists, is undamaged, and has a result."""
        if not os.path.lexists(self.path(name)):
            return False
        try:
            return read_cell(self.path(name))["failure"] is None
        except InputError:
            return False

    def write(self, name: str, text: str) -> None:
        """Write a cell's file, which is complete from then on; raise InputError if it cannot be."""
        try:
            with suppress(FileNotFoundError):  # another process took our temporary for a leftover
                return write_atomically(self.path(name), text.encode("ascii"))
            return write_atomically(self.path(name), text.encode("ascii"))
        except OSError as error:
            where = printable(str(self.folder))
            todo = "the cells that it holds are whole; --resume goes on"
            raise InputError(f"{where}: cannot be written: {error.strerror}; {todo}") from None
