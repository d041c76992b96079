"""Collecting: every cell a row, whatever folder it is in, whatever the file's format."""

import csv
import io
import json
import sqlite3
import sys
from collections.abc import Callable
from concurrent.futures import Executor
from contextlib import closing
from pathlib import Path
from typing import Any

import pytest

from hvmmu._sweep import SweepResult, collect
from hvmmu._sweep.cells import sha256_of
from hvmmu._sweep.tabulate import Table, csv_of, table
from hvmmu.errors import ConfigError, InputError

Sweep = Callable[..., SweepResult]
GRID = {
    "workload": ["demand-zero:pages=12", "demand-zero:pages=4", "fork-cow:pages=4"],
    "limit": [9, 30],
    "acme": {"mood": ["good", "rude"]},
}
CELLS = 18


@pytest.fixture
def swept(sweep: Sweep, here: Executor) -> Path:
    """Return the folder of a sweep with cells that failed."""
    outcome = sweep(GRID, here)
    assert (outcome.ran, len(outcome.failed)) == (CELLS, 6)
    return outcome.folder


def rewritten(path: Path, change: Callable[[dict[str, Any]], None]) -> None:
    """Change a cell as somebody might who knows how its checksum is made."""
    cell = json.loads(path.read_bytes())
    del cell["checksum"]
    change(cell)
    path.write_text(json.dumps(cell | {"checksum": sha256_of(cell)}))


def test_a_row_says_what_the_cell_says(swept: Path) -> None:
    """A column is missing, or has another cell's value."""
    rows = {row["cell"]: row for row in csv.DictReader(io.StringIO(csv_of(table([swept]))))}
    assert len(rows) == CELLS
    for path in swept.iterdir():
        cell, row = json.loads(path.read_bytes()), rows[path.stem]
        identity = cell["identity"]
        assert row["backend"] == identity["backend"]
        assert row["workload.limit"] == str(identity["workload"]["limit"])
        memory = identity["config"]["guest"]["memory"]
        assert row["params.guest.memory"] == str(memory)
        assert row["params.acme.mood"] == identity["params"].get("mood", "")
        odd = identity["params"].get("odd")
        assert row["params.acme.odd"] == ("" if odd is None else str(int(odd)))
        if cell["failure"]:
            assert row["failure.kind"] == "bug"
            assert row["counters.exits.total"] == row["cycles.total"] == ""
        else:
            (run,) = cell["result"]["runs"]
            assert row["failure.kind"] == row["failure.reason"] == ""
            assert row["counters.exits.total"] == str(run["counters"]["exits"]["total"])
            for one in run["counters"]["fault_outcomes"]:
                at = [one[key] for key in ("outcome", "cause", "pfec", "level")]
                name = ".".join("-" if part is None else str(part) for part in at)
                assert row[f"counters.fault_outcomes.{name}"] == str(one["count"])
            assert row["cycles.total"] == str(run["cycles"]["total"])
            assert row["guest.page_tables_sha256"] == run["guest"]["page_tables_sha256"]


def test_the_order_is_one_for_people(swept: Path) -> None:
    """Rows or columns come in the order of hashes or files, or 9 comes after 30."""
    made = table([swept])
    assert list(made.names[:3]) == ["cell", "hvmmu", "workload.kind"]
    groups = [name.partition(".")[0] for name in made.names]
    assert groups == sorted(groups, key=list(dict.fromkeys(groups)).index)
    at = {name: nth for nth, name in enumerate(made.names)}
    keys = ("workload.limit", "workload.name", "workload.pages", "backend")
    told = [tuple(row[at[key]] for key in keys) for row in made.rows]
    assert told == sorted(told)
    assert {told[0][2], told[-1][2]} == {4}


def test_shards_are_merged(swept: Path, sweep: Sweep, here: Executor) -> None:
    """Shards in folders of their own, one of them given twice, make another table."""
    for part in (1, 2):
        sweep(GRID, here, folder=f"s{part}", shard=(part, 2))
    assert table(["s2", "s1", swept, "s2"]) == table([swept])


def test_who_ran_it_does_not_matter(swept: Path, tmp_path: Path) -> None:
    """The same cell of two machines is taken for two that differ."""
    path = next(swept.iterdir())
    (tmp_path / "other").mkdir()
    other = tmp_path / "other" / path.name
    other.write_bytes(path.read_bytes())
    rewritten(other, lambda cell: cell["provenance"].update(python="3.99.0"))
    assert table([swept, other.parent]) == table([swept])


def test_all_problems_at_once(swept: Path, tmp_path: Path) -> None:
    """A cell of which two files differ is taken from either, or a damaged one is left out."""
    first, second, third, *_ = sorted(swept.iterdir())
    (tmp_path / "other").mkdir()
    other = tmp_path / "other" / first.name
    other.write_bytes(first.read_bytes())
    rewritten(other, lambda cell: cell.update(result=None, failure={"kind": "k", "reason": "r"}))
    second.write_bytes(second.read_bytes()[:-20])
    third.write_bytes(b"[" * 100_000)
    (tmp_path / "empty").mkdir()
    (tmp_path / "empty" / "a.json").write_text("{}")
    with pytest.raises(ConfigError) as caught:
        table([swept, other.parent, tmp_path / "empty", tmp_path / "nosuch"])
    damaged = "damaged; `hvmmu sweep --resume` runs that cell again"
    assert caught.value.problems == (
        f"{second}: {damaged}",
        f"{third}: {damaged}",
        f"{other}: not the same as {first}; remove one of them",
        f"{tmp_path / 'empty'}: holds no cells; is it the folder of a sweep?",
        f"{tmp_path / 'nosuch'}: cannot be read: No such file or directory",
    )


def test_an_unreadable_cell(swept: Path) -> None:
    """A folder or an enormous file with a cell's name is read, or ends in a traceback."""
    (swept / f"{'0' * 64}.json").mkdir()
    with (swept / f"{'1' * 64}.json").open("wb") as file:
        file.truncate(1 << 40)
    with pytest.raises(ConfigError) as caught:
        table([swept])
    folder, large = caught.value.problems
    assert "cannot be read: Is a directory" in folder
    assert "damaged" in large


def test_csv(swept: Path) -> None:
    """The file is not what stdout would show, or differs from one time to the next."""
    made = collect([swept], "all.csv")
    text = Path("all.csv").read_bytes()
    assert text.decode() == csv_of(made)
    assert b"\r" not in text
    collect([swept], "all.csv")
    assert Path("all.csv").read_bytes() == text


def test_sqlite(swept: Path) -> None:
    """A number is stored as text, a missing one as zero, or a column under another name."""
    made = collect([swept], "all.sqlite")
    with closing(sqlite3.connect("all.sqlite")) as file:
        rows = file.execute("SELECT * FROM cells")
        assert tuple(column[0] for column in rows.description) == made.names
        assert tuple(rows) == made.rows
        query = 'SELECT sum("counters.exits.total"), typeof("cycles.total") FROM cells'
        (total, kind) = file.execute(f'{query} WHERE "failure.kind" IS NULL').fetchone()
    assert kind == "integer"
    at = made.names.index("counters.exits.total")
    assert total == sum(row[at] or 0 for row in made.rows)


def test_parquet(swept: Path) -> None:
    """A column has another type or another name in Parquet."""
    parquet = pytest.importorskip("pyarrow.parquet", reason="hvmmu[parquet] is not installed")
    made = collect([swept], "all.parquet")
    read = parquet.read_table("all.parquet")
    assert tuple(read.column_names) == made.names
    assert tuple(zip(*(column.to_pylist() for column in read.columns), strict=True)) == made.rows
    kinds = dict(zip(read.column_names, map(str, read.schema.types), strict=True))
    assert kinds["counters.exits.total"] == "int64"
    assert kinds["params.acme.odd"] == "bool"
    assert kinds["backend"] == "string"


def test_parquet_is_an_extra(swept: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Without pyarrow there is a traceback, or a file of another kind."""
    monkeypatch.setitem(sys.modules, "pyarrow", None)
    with pytest.raises(InputError, match=r"needs pyarrow: pip install 'hvmmu\[parquet\]'"):
        collect([swept], "all.parquet")
    assert not Path("all.parquet").exists()


def test_values_of_several_types(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """A number of 64 bits without sign, or a column of words and numbers, cannot be written."""
    made = Table(("big", "both", "real", "none"), ((1 << 63, 1, 1, None), (2, "x", 0.5, None)))
    monkeypatch.setattr("hvmmu._sweep.tabulate.table", lambda _: made)
    collect([], tmp_path / "t.sqlite")
    with closing(sqlite3.connect(tmp_path / "t.sqlite")) as file:
        rows = list(file.execute("SELECT * FROM cells"))
    assert rows == [(str(1 << 63), "1", 1.0, None), ("2", "x", 0.5, None)]
    wide = Table(tuple(map(str, range(40_000))), (tuple(range(40_000)),))
    monkeypatch.setattr("hvmmu._sweep.tabulate.table", lambda _: wide)
    with pytest.raises(InputError, match="SQLite cannot hold these cells: too many columns"):
        collect([], tmp_path / "wide.sqlite")
    assert [path.name for path in tmp_path.iterdir() if "wide" in path.name] == []


def test_files_that_cannot_be(swept: Path) -> None:
    """A file of an unknown kind is written, or half of one is left behind."""
    with pytest.raises(InputError, match=r"all.xls: give it the ending .csv, .sqlite or .parquet"):
        collect([swept], "all.xls")
    with pytest.raises(InputError, match=r"nosuch/all.csv: cannot be written: No such file"):
        collect([swept], "nosuch/all.csv")
    before = sorted(Path().iterdir())
    Path("folder.csv").mkdir()
    with pytest.raises(InputError, match=r"folder.csv: cannot be written: Is a directory"):
        collect([swept], "folder.csv")
    assert sorted(Path().iterdir()) == sorted([*before, Path("folder.csv")])
