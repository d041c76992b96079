"""A folder of cells: one JSON file each, named for its identity, whole or not there."""

import json
import os
import re
import stat
from collections.abc import Collection, Iterable
from contextlib import suppress
from pathlib import Path
from typing import Any

import attrs

from hvmmu._files import write_atomically
from hvmmu._report.document import Document
from hvmmu._sweep.cells import Cell, Identity, sha256_of
from hvmmu.errors import ConfigError, InputError
from hvmmu.params import plain

MOST_BYTES = 16 << 20
"""A larger file is no cell, and not read."""

_NAME = re.compile(r"([0-9a-f]{64})\.json")
_TEMPORARY = re.compile(r"\.([0-9a-f]{64})\.\w+\.tmp")


@attrs.frozen
class Failure:
    """Why a cell has no result."""

    kind: str
    """The error's class; `worker` for one whose process died, `bug` for what nobody foresaw."""
    reason: str
    """One line."""


def text_of(
    identity: Identity,
    result: Document | None,
    failure: Failure | None,
    provenance: dict[str, Any],
) -> str:
    """Return the text of a cell's file; its checksum is of all the rest."""
    made = {
        "cell": sha256_of(identity),
        "identity": identity,
        "provenance": provenance,
        "failure": None if failure is None else attrs.asdict(failure),
        "result": result,
    }
    made["checksum"] = sha256_of(made)
    return json.dumps(made, indent=2, sort_keys=True, ensure_ascii=True, allow_nan=False) + "\n"


def read_cell(path: Path) -> dict[str, Any]:
    """Return a cell; raise InputError if its file is not whole, or not of that name."""
    where = plain(str(path))
    try:
        with path.open("rb") as file:
            raw = (
                file.read(MOST_BYTES + 1) if stat.S_ISREG(os.fstat(file.fileno()).st_mode) else b""
            )
        made = json.loads(raw.decode("ascii")) if len(raw) <= MOST_BYTES else None
        if isinstance(made, dict):
            checksum = made.pop("checksum")
            own = sha256_of(made["identity"])
            if checksum == sha256_of(made) and made["cell"] == own == path.stem:
                return made
    except OSError as error:
        raise InputError(f"{where}: cannot be read: {error.strerror}") from None
    except (ValueError, KeyError, TypeError, RecursionError):
        pass
    raise InputError(f"{where}: damaged; `hvmmu sweep --resume` runs that cell again")


def cell_files(folder: Path) -> list[Path]:
    """Return the files of a folder that have a cell's name, in order; raise InputError."""
    try:
        return sorted(path for path in folder.iterdir() if _NAME.fullmatch(path.name))
    except OSError as error:
        raise InputError(f"{plain(str(folder))}: cannot be read: {error.strerror}") from None


@attrs.frozen
class Store:
    """The folder that a sweep's cells go to."""

    folder: Path

    def begin(self, mine: Iterable[Cell], all_ids: Collection[str], *, resume: bool) -> list[Cell]:
        """Return the cells that are yet to run.

        Raise ConfigError if, without *resume*, something is there that is not another shard's.
        """
        mine = list(mine)
        try:
            there = sorted(os.listdir(self.folder))  # noqa: PTH208 - names are all it takes
        except FileNotFoundError:
            return mine
        except OSError as error:
            raise self._unusable(error) from None
        ids = {cell.id for cell in mine}
        if not resume:
            self._refuse(there, ids, all_ids)
        self._tidy(there, ids)
        return [cell for cell in mine if not self.has(cell.id)]

    def make(self) -> None:
        """Make the folder if it is not there; raise InputError if it cannot be used."""
        try:
            self.folder.mkdir(parents=True, exist_ok=True)
        except OSError as error:
            raise self._unusable(error) from None

    def _unusable(self, error: OSError) -> InputError:
        where = plain(str(self.folder))
        return InputError(f"{where}: cannot be used: {error.strerror}; give another with -o")

    def _refuse(self, there: list[str], ids: Collection[str], all_ids: Collection[str]) -> None:
        where = plain(str(self.folder))
        cells = {match[1] for name in there if (match := _NAME.fullmatch(name))}
        done = len(cells & set(ids))
        foreign = len(cells - set(all_ids))
        others = len([n for n in there if not _NAME.fullmatch(n) and not _TEMPORARY.fullmatch(n)])
        problems = []
        if done:
            todo = "--resume runs the others, or give another folder with -o"
            problems.append(f"{where}: {done} of these {len(ids)} cells are there; {todo}")
        if foreign:
            todo = "give a folder of its own with -o, or add to it with --resume"
            problems.append(
                f"{where}: cells that are not of this grid are there ({foreign}); {todo}"
            )
        if others:
            todo = "give a folder of its own with -o"
            problems.append(f"{where}: files that are no cells are there ({others}); {todo}")
        if problems:
            raise ConfigError(problems)

    def _tidy(self, there: list[str], ids: Collection[str]) -> None:
        """Remove what a sweep that was killed left of these cells."""
        for name in there:
            if (match := _TEMPORARY.fullmatch(name)) and match[1] in ids:
                with suppress(OSError):
                    (self.folder / name).unlink()

    def path(self, name: str) -> Path:
        """Return where the cell of this name is, or would be."""
        return self.folder / f"{name}.json"

    def has(self, name: str) -> bool:
        """Return whether the cell is there, whole, and has a result."""
        if not os.path.lexists(self.path(name)):
            return False
        try:
            return read_cell(self.path(name))["failure"] is None
        except InputError:
            return False

    def write(self, name: str, text: str) -> None:
        """Write a cell's file: afterwards it is there and whole, whatever happens next."""
        with suppress(FileNotFoundError):  # another process tidied up what it took for a leftover
            return write_atomically(self.path(name), text.encode("ascii"))
        return write_atomically(self.path(name), text.encode("ascii"))
