"""Collect the cells of any number of folders in one table: CSV, SQLite or Parquet."""

import csv
import io
import sqlite3
from collections.abc import Callable, Iterable, Mapping, Sequence
from contextlib import closing
from pathlib import Path
from typing import Any

import attrs

from hvmmu._files import atomic_path
from hvmmu._sweep.executors import required
from hvmmu._sweep.store import cell_files, read_cell
from hvmmu._sweep.table_rows import Scalar, column_names, flat_row, in_order
from hvmmu.errors import ConfigError, InputError
from hvmmu.params import printable


@attrs.frozen
class Table:
    """Rows under column names, None where a cell has no such value."""

    names: tuple[str, ...]
    rows: tuple[tuple[Scalar, ...], ...]


def table(folders: Iterable[Path | str]) -> Table:
    """Return one row for each cell in *folders*, in an order that only the cells decide.

    The same cell in several folders is one row. Raise ConfigError with every file that is damaged,
    every folder without cells, and every cell whose files differ.
    """
    found: dict[str, tuple[Path, dict[str, Any]]] = {}
    problems: list[str] = []
    for folder in map(Path, folders):
        try:
            paths = cell_files(folder)
        except InputError as error:
            problems.append(str(error))
            continue
        if not paths:
            problems.append(
                f"{printable(str(folder))}: holds no cells; is it the folder of a sweep?"
            )
        for path in paths:
            try:
                problems += _add(found, path)
            except InputError as error:
                problems.append(str(error))
    if problems:
        raise ConfigError(problems)
    rows = in_order(flat_row(cell) for _, cell in found.values())
    names = column_names(rows)
    return Table(tuple(names), tuple(tuple(row.get(n) for n in names) for row in rows))


def _add(found: dict[str, tuple[Path, dict[str, Any]]], path: Path) -> list[str]:
    """Add a cell; return a problem if another file of it differs in more than the provenance."""
    cell = read_cell(path)
    cell.pop("provenance")
    there, other = found.setdefault(cell["cell"], (path, cell))
    if cell == other:
        return []
    return [f"{printable(str(path))}: not the same as {printable(str(there))}; remove one of them"]


def collect(folders: Iterable[Path | str], output: Path | str) -> Table:
    """Write the cells in *folders* to one file, whole or not at all, and return them.

    The file's ending is its format: `.csv`, `.sqlite` or `.parquet`. Raise InputError for any
    other, and ConfigError as `table` does.
    """
    path = Path(output)
    write = writer(path)
    cells = table(folders)
    try:
        with atomic_path(path) as beside:
            write(cells, beside)
    except OSError as error:
        raise InputError(f"{printable(str(path))}: cannot be written: {error.strerror}") from None
    return cells


def writer(path: Path) -> Callable[[Table, Path], None]:
    """Return the function that writes files of this ending; raise InputError if there is none."""
    if path.suffix not in WRITERS:
        *others, last = WRITERS
        kinds = f"{', '.join(others)} or {last}"
        raise InputError(
            f"{printable(str(path))}: give it the ending {kinds}, or - for CSV on stdout"
        )
    if path.suffix == ".parquet":
        required("pyarrow", "parquet", "a .parquet file")
    return WRITERS[path.suffix]


def csv_of(cells: Table) -> str:
    """Return a table as CSV; a bool is 1 or 0, None is empty."""
    text = io.StringIO()
    lines = csv.writer(text, lineterminator="\n")
    lines.writerow(cells.names)
    for row in cells.rows:
        lines.writerow([int(v) if isinstance(v, bool) else v for v in row])
    return text.getvalue()


def _write_csv(cells: Table, path: Path) -> None:
    path.write_text(csv_of(cells), encoding="utf-8", newline="")


def _write_sqlite(cells: Table, path: Path) -> None:
    """Write one table `cells`, whose columns have the types of their values."""
    kinds = [_SQL[_kind(column)] for column in _columns(cells)]
    named = ", ".join(f"{_quoted(n)} {k}" for n, k in zip(cells.names, kinds, strict=True))
    places = ", ".join("?" * len(cells.names))
    texts = [k == "TEXT" for k in kinds]
    try:
        with closing(sqlite3.connect(path)) as file, file:
            file.execute(f"CREATE TABLE cells ({named})")
            rows = ([_as(v, t) for v, t in zip(r, texts, strict=True)] for r in cells.rows)
            file.executemany(f"INSERT INTO cells VALUES ({places})", rows)  # noqa: S608
    except sqlite3.Error as error:
        raise InputError(f"SQLite cannot hold these cells: {error}; write a .csv") from None


def _write_parquet(cells: Table, path: Path) -> None:
    arrow, parquet = required("pyarrow", "parquet", ""), required("pyarrow.parquet", "parquet", "")
    arrays = {}
    for name, column in zip(cells.names, _columns(cells), strict=True):
        kind = _kind(column)
        values = [_as(v, kind is str) for v in column]
        arrays[name] = arrow.array(values, type=getattr(arrow, _ARROW[kind])())
    parquet.write_table(arrow.table(arrays), path)


def _columns(cells: Table) -> list[tuple[Scalar, ...]]:
    return list(zip(*cells.rows, strict=True))


def _kind(column: Sequence[Scalar]) -> type:
    """Return the type of a column; text if it has several, or numbers that are too large."""
    kinds = {type(value) for value in column if value is not None}
    if kinds == {int, float}:
        return float
    if len(kinds) != 1 or any(type(v) is int and not -(1 << 63) <= v < 1 << 63 for v in column):
        return str
    return kinds.pop()


def _as(value: Scalar, is_text: bool) -> Scalar:
    return str(value) if is_text and value is not None else value


def _quoted(name: str) -> str:
    return '"' + name.replace('"', '""') + '"'


_SQL: Mapping[type, str] = {bool: "INTEGER", int: "INTEGER", float: "REAL", str: "TEXT"}
_ARROW: Mapping[type, str] = {bool: "bool_", int: "int64", float: "float64", str: "string"}

WRITERS: Mapping[str, Callable[[Table, Path], None]] = {
    ".csv": _write_csv,
    ".sqlite": _write_sqlite,
    ".parquet": _write_parquet,
}
"""The functions that write a table, by the ending of the file."""
