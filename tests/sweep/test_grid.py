"""The grid: what it means, and every problem of it at once."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from hvmmu._sweep.cells import Cell
from hvmmu._sweep.grid import grid_of, read_grid
from hvmmu._sweep.installation import Installation
from hvmmu._sweep.plan import MOST_CELLS, cells
from hvmmu.costs import MODELS
from hvmmu.errors import ConfigError

Planned = Callable[..., list[Cell]]
SMALL = "demand-zero:pages=4"


@pytest.fixture
def planned(installation: Installation, tmp_path: Path) -> Planned:
    """Return a function from what a grid holds to its cells."""
    return lambda **table: cells(grid_of(table, installation.schema, folder=tmp_path), installation)


def problems(planned: Planned, **table: Any) -> tuple[str, ...]:  # noqa: ANN401
    """Return the problems of a grid."""
    with pytest.raises(ConfigError) as caught:
        planned(**table)
    return caught.value.problems


def test_the_least_grid(planned: Planned) -> None:
    """A grid that says nothing is not one run of the shipped trace on each backend."""
    native, acme = planned(backend=["native", "acme"])
    assert [cell.identity["backend"] for cell in (native, acme)] == ["native", "acme"]
    assert native.identity["workload"] == {"kind": "trace", "name": "dd.lackey.xz"}
    assert len(native.identity["trace_sha256"]) == 64
    assert planned() == [native, acme]


def test_every_axis_multiplies(planned: Planned) -> None:
    """A combination of values is left out, or is there twice."""
    found = planned(
        workload=[SMALL, "fork-cow:pages=4"],
        limit=[10, 20],
        backend="acme",
        costs=["nehalem", "merom"],
        engine=["reference"],
        guest={"memory": ["16M", "32M", 67108864]},
        acme={"size": [1, 2]},
    )
    assert len(found) == len({cell.id for cell in found}) == 2 * 2 * 2 * 3 * 2
    told = {
        (i["workload"]["name"], i["workload"]["limit"], i["costs"], i["config"]["guest"]["memory"])
        for i in (cell.identity for cell in found)
    }
    assert len(told) == 24


def test_only_its_own_parameters_multiply_a_backend(planned: Planned) -> None:
    """A backend runs again for each value of a parameter it does not have."""
    found = planned(
        workload=SMALL, acme={"size": [1, 2, 3]}, mmu={"update_on_write": [False, True]}
    )
    backends = [cell.identity["backend"] for cell in found]
    assert (backends.count("native"), backends.count("acme")) == (1, 6)


def test_what_is_in_force_is_one_cell(planned: Planned) -> None:
    """Two cells that the CPU makes the same are run twice, or different ones once."""
    even = planned(workload=SMALL, backend="acme")
    off = planned(workload=SMALL, backend="acme", acme={"odd": False})
    assert [cell.id for cell in even] == [cell.id for cell in off]
    both = planned(workload=SMALL, backend="acme", acme={"odd": [0, 1]}, cpu={"maxphyaddr": 45})
    assert len(both) == 2


def test_a_cell_keeps_its_name_in_a_larger_grid(planned: Planned) -> None:
    """A sweep that is extended runs everything again."""
    small = planned(workload=SMALL, backend="acme")
    large = planned(workload=[SMALL, "mprotect"], acme={"size": [0, 1]}, costs="sandy-bridge")
    assert {cell.id for cell in small} < {cell.id for cell in large}


def test_the_traces_bytes_name_the_cell(planned: Planned, tmp_path: Path) -> None:
    """Another trace under the same name is taken for the one that was run."""
    names = set()
    for folder, text in (("a", " L 5000,8\n"), ("b", " L 6000,8\n"), ("c", " L 5000,8\n")):
        (tmp_path / folder).mkdir()
        (tmp_path / folder / "t.trace").write_text(text)
        (cell,) = planned(workload=f"{folder}/t.trace", backend="native")
        names.add(cell.id)
    assert len(names) == 2


def test_only_plugins_that_take_part_name_the_cell(planned: Planned) -> None:
    """A plugin that adds another backend makes every cell another one, or its own does not."""
    native, acme = planned(workload=SMALL)
    assert native.identity["plugins"] == {}
    assert acme.identity["plugins"] == {"acme_sweep": "unknown distribution"}


def test_excluding(planned: Planned) -> None:
    """An exclude rule drops a cell that it does not match, or keeps one that it does."""
    found = planned(
        workload=[SMALL, "mprotect"],
        backend="acme",
        acme={"size": [1, 2, 3]},
        exclude=[{"workload": "mprotect", "acme": {"size": [1, 2]}}],
    )
    told = [(c.identity["workload"]["name"], c.identity["params"]["size"]) for c in found]
    assert told == [("demand-zero", 1), ("demand-zero", 2), ("demand-zero", 3), ("mprotect", 3)]


def test_all_problems_at_once(planned: Planned) -> None:
    """A user corrects a grid one problem at a time, or a message does not say what to do."""
    assert problems(
        planned,
        workloads=["x"],
        backend=["vmy", "native"],
        limit=[0, 5, 5],
        engine=[],
        costs={"a": 1},
        acme={"mood": ["good", "bad"], "sizes": 1},
        foo={"x": 1},
        cpu={},
        mmu=3,
        exclude=[{}, {"nothing": 1}],
    ) == tuple(PROBLEMS.strip().splitlines())


PROBLEMS = """
workloads (grid): no such key; did you mean 'workload'?
backend (grid): 'vmy' is not one of native, acme
limit (grid): 0 is not a whole number, decimal or 0x, 1 or more
limit (grid): 5 is there twice
engine (grid): an empty list; leave the key out
costs (grid): a TOML table is not one of COSTS
acme.mood (grid): 'bad' is not one of good, rude, deadly
acme.sizes (grid): acme has no such parameter; did you mean 'size'?
foo (grid): no such section (mmu, cpu, guest, native, acme); MAYBE
cpu (grid): sets nothing; leave it out
mmu (grid): that is a section; write [mmu] and its parameters below
exclude 1 (grid): is empty; leave it out
exclude 2: nothing (grid): no such key; there are workload, limit, backend, costs, engine SECTIONS
acme (grid): not among the backends; add it to backend, or leave the section out
"""
PROBLEMS = PROBLEMS.replace("COSTS", ", ".join(MODELS)).replace("SECTIONS", "and the sections")
PROBLEMS = PROBLEMS.replace("MAYBE", "if it is a backend, is its plugin installed?")


def test_all_problems_of_putting_together(planned: Planned, tmp_path: Path) -> None:
    """What shows only when values meet is found one at a time, or while the sweep runs."""
    (tmp_path / "torn.trace").write_text("nonsense\n")
    (tmp_path / "folder").mkdir()
    told = problems(
        planned,
        workload=["nosuch", "torn.trace", "folder", "mprotect:page=1", SMALL],
        guest={"memory": ["16M", "17M"]},
        acme={"size": [11, 12, 14]},
        exclude=[{"limit": 5}],
    )
    assert len(told) == 8
    text = "\n".join(told)
    assert "'nosuch' is neither a workload" in text
    assert "torn.trace:1:" in text
    assert "folder" in text
    assert "did you mean 'pages'" in text
    assert "17825792 is not a multiple of 2M" in text
    assert "size 12 is no good" in text
    assert "size 14 is no good" in text
    assert "exclude 1 (grid): matches no cell" in text


def test_a_grid_without_cells(planned: Planned) -> None:
    """A sweep of nothing succeeds."""
    rule = {"backend": ["native", "acme"]}
    assert problems(planned, workload=SMALL, exclude=[rule]) == (
        "exclude (grid): leaves no cell; take a rule out",
    )
    assert problems(planned, exclude={"backend": "native"}) == (
        "grid: exclude is no list of tables; write [[exclude]]",
    )


def test_a_grid_too_large(planned: Planned) -> None:
    """A slip of the pen fills the memory before anything is said."""
    sizes = list(range(20, 20 + MOST_CELLS // 10))
    (told,) = problems(planned, acme={"size": sizes}, limit=list(range(1, 12)))
    assert told.startswith(
        f"grid: {11 * (len(sizes) + 1):,} combinations; a sweep has at most 100,000"
    )


def test_a_grid_in_a_file(installation: Installation, tmp_path: Path) -> None:
    """A file is read otherwise than what it holds, or its problems do not name it."""
    path = tmp_path / "some.toml"
    path.write_text('workload = "t.trace"\nbackend = "native"\n')
    (tmp_path / "t.trace").write_text(" L 5000,8\n")
    (cell,) = cells(read_grid(path, installation.schema), installation)
    assert cell.unit["workload"] == str(tmp_path / "t.trace")
    for text, told in (("x = 1", "no such key"), ("x = ", "not TOML")):
        path.write_text(text)
        with pytest.raises(ConfigError, match=told) as caught:
            read_grid(path, installation.schema)
        assert str(path) in str(caught.value)
    with pytest.raises(ConfigError, match="cannot be read: No such file"):
        read_grid(tmp_path / "nosuch.toml", installation.schema)
