"""Sweeping: whatever runs the cells, and whatever happens meanwhile, the same files."""

import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from concurrent.futures import BrokenExecutor, Executor, Future, ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest

from hvmmu._report.document import schema
from hvmmu._sweep import Progress, SweepResult
from hvmmu._sweep.cells import sha256_of
from hvmmu.errors import ConfigError, InputError

Sweep = Callable[..., SweepResult]
Contents = Callable[[Path], dict[str, bytes]]
SMALL = "demand-zero:pages=4"
GRID = {"workload": [SMALL, "fork-cow:pages=4"], "acme": {"size": [1, 2]}}
"""Six cells: native and two of acme, with two workloads."""
CELLS = 6


@pytest.fixture
def whole(sweep: Sweep, here: Executor, contents: Contents) -> dict[str, bytes]:
    """Return the files of an undisturbed sweep of `GRID`."""
    sweep(GRID, here, folder="undisturbed")
    made = contents(Path("undisturbed"))
    assert len(made) == CELLS
    return made


def test_a_cell_file(sweep: Sweep, here: Executor) -> None:
    """A file's name, identity, provenance or result is not what the documentation says."""
    jsonschema = pytest.importorskip("jsonschema")
    outcome = sweep({"workload": SMALL, "backend": "acme", "limit": 9}, here)
    assert (outcome.folder, outcome.planned, outcome.ran) == (Path("grid.cells"), 1, 1)
    (path,) = outcome.folder.iterdir()
    text = path.read_text(encoding="ascii")
    cell = json.loads(text)
    assert text == json.dumps(cell, indent=2, sort_keys=True) + "\n"
    checksum = cell.pop("checksum")
    assert checksum == sha256_of(cell)
    assert path.stem == cell["cell"] == sha256_of(cell["identity"])
    assert sorted(cell["provenance"]) == [
        *("hvmmu", "implementation", "machine", "plugins", "python", "system")
    ]
    assert cell["failure"] is None
    jsonschema.validate(cell["result"], schema())
    (run,) = cell["result"]["runs"]
    assert run["params"] == cell["identity"]["params"]
    assert run["params"]["odd"] is False
    assert cell["result"]["overrides"] == {"acme.odd": {"value": False, "source": "sweep"}}


@pytest.mark.parametrize("jobs", [1, 3])
@pytest.mark.parametrize("executor", ["thread", "process"])
def test_results_do_not_depend_on_who_runs_them(
    sweep: Sweep, whole: dict[str, bytes], contents: Contents, executor: str, jobs: int
) -> None:
    """One worker writes other bytes than three, or processes than threads."""
    outcome = sweep(GRID, executor, jobs=jobs, folder="cells")
    assert (outcome.ran, outcome.failed) == (CELLS, ())
    assert contents(Path("cells")) == whole


def test_an_executor_of_the_callers(
    sweep: Sweep, whole: dict[str, bytes], contents: Contents
) -> None:
    """An executor that is handed in cannot be used, or not any more afterwards."""
    with ThreadPoolExecutor(2) as executor:
        sweep(GRID, executor, folder="cells")
        assert executor.submit(int, "7").result() == 7
    assert contents(Path("cells")) == whole


def test_loky(sweep: Sweep, whole: dict[str, bytes], contents: Contents) -> None:
    """The extra hvmmu[loky] does not do what it is for."""
    pytest.importorskip("loky", reason="hvmmu[loky] is not installed")
    sweep(GRID, "loky", jobs=2, folder="cells")
    assert contents(Path("cells")) == whole


@pytest.mark.filterwarnings("ignore")
def test_dask(sweep: Sweep, whole: dict[str, bytes], contents: Contents) -> None:
    """The extra hvmmu[dask] does not do what it is for, on a cluster or with a client's own."""
    distributed = pytest.importorskip("distributed", reason="hvmmu[dask] is not installed")
    options = {"n_workers": 1, "processes": False, "dashboard_address": None}
    with distributed.LocalCluster(**options) as cluster:
        sweep(GRID, "dask", scheduler=cluster.scheduler_address, folder="cells")
        with distributed.Client(cluster) as client:
            sweep(GRID, client.get_executor(), folder="own")
    assert contents(Path("cells")) == contents(Path("own")) == whole


def test_an_extra_that_is_missing(
    sweep: Sweep, whole: dict[str, bytes], monkeypatch: pytest.MonkeyPatch
) -> None:
    """A missing extra ends in a traceback, or in a message that does not say what to install."""
    del whole
    for name, module in (("loky", "loky"), ("dask", "distributed")):
        monkeypatch.setitem(sys.modules, module, None)
        with pytest.raises(InputError, match=rf"needs {module}: pip install 'hvmmu\[{name}\]'"):
            sweep(GRID, name, folder="cells")
    assert not Path("cells").exists()


def test_executors_that_are_none(sweep: Sweep) -> None:
    """A slip in an executor's name runs somewhere else than was meant."""
    with pytest.raises(InputError, match=r"no executor 'proces'.*did you mean 'process'"):
        sweep(GRID, "proces")
    with pytest.raises(InputError, match="--scheduler is dask's"):
        sweep(GRID, "thread", scheduler="tcp://127.0.0.1:1")


def test_shards_make_the_whole(
    sweep: Sweep, whole: dict[str, bytes], contents: Contents, here: Executor
) -> None:
    """A cell is in no shard or in two, or shards cannot share a folder."""
    kept = [sweep(GRID, here, folder="cells", shard=(i, 3)).mine for i in (1, 2, 3)]
    assert kept == [2, 2, 2]
    assert contents(Path("cells")) == whole


def test_one_bad_cell_costs_only_itself(sweep: Sweep, here: Executor, contents: Contents) -> None:
    """A plugin that raises, or cannot do what is asked, ends the sweep or leaves no trace."""
    grid = {
        "workload": SMALL,
        "acme": {"mood": ["good", "rude"], "odd": [False, True]},
        "cpu": {"maxphyaddr": [45, 46]},
    }
    outcome = sweep(grid, here)
    assert outcome.ran == 2 + 8
    told = sorted((failure.kind, failure.reason) for _, failure in outcome.failed)
    assert [kind for kind, _ in told] == [*["BackendUnavailableError"] * 2, *["bug"] * 3]
    assert {reason for _, reason in told} == {
        "acme.odd=1: the CPU is even; set it to 0",
        "RuntimeError: no manners (a bug, in hvmmu or in a plugin)",
    }
    failed = {cell.id for cell, _ in outcome.failed}
    before = contents(outcome.folder)
    for name, raw in before.items():
        cell = json.loads(raw)
        assert (cell["failure"] is None) == (cell["result"] is not None)
        assert (cell["cell"] in failed) == (cell["failure"] is not None), name
    again = sweep(grid, here, resume=True)
    assert (again.ran, again.kept, len(again.failed)) == (5, 5, 5)
    assert contents(outcome.folder) == before


def test_a_worker_that_dies(sweep: Sweep) -> None:
    """A cell that kills its worker takes others along, or the sweep hangs."""
    outcome = sweep(
        {"workload": SMALL, "acme": {"mood": ["deadly", "good"], "size": [1, 2]}},
        "process",
        jobs=2,
    )
    assert (outcome.ran, len(outcome.failed)) == (5, 2)
    for cell, failure in outcome.failed:
        assert cell.identity["params"]["mood"] == "deadly"
        assert failure.kind == "worker"
        assert "its worker died, twice" in failure.reason


class Broken(Executor):
    """An executor whose workers have died."""

    def submit(self, *_: Any, **__: Any) -> Future[Any]:  # noqa: ANN401
        """Refuse."""
        raise BrokenExecutor("all dead")


def test_an_executor_without_workers(sweep: Sweep) -> None:
    """A pool that is dead is asked for ever, or every cell is blamed for it."""
    with pytest.raises(InputError, match=r"no worker starts.*all dead"):
        sweep(GRID, Broken())


def test_giving_up_leaves_nothing_to_do(sweep: Sweep) -> None:
    """An executor of the caller's goes on with cells that nobody waits for."""
    handed: list[Future[Any]] = []

    class Busy(Executor):
        def submit(self, *_: Any, **__: Any) -> Future[Any]:  # noqa: ANN401
            handed.append(Future())
            return handed[-1]

    def report(_: Progress) -> None:
        if handed:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        sweep(GRID, Busy(), report=report)
    assert [future.cancelled() for future in handed] == [True] * CELLS


def test_a_cluster_that_loses_a_cell(sweep: Sweep) -> None:
    """What a cluster raises for one cell ends the sweep."""

    class Lossy(Executor):
        def submit(self, *_: Any, **__: Any) -> Future[Any]:  # noqa: ANN401
            future: Future[Any] = Future()
            future.set_exception(RuntimeError("KilledWorker"))
            return future

    outcome = sweep({"workload": SMALL, "backend": "native"}, Lossy())
    ((_, failure),) = outcome.failed
    assert (failure.kind, failure.reason) == ("worker", "RuntimeError: KilledWorker")


def test_a_worker_with_other_software(
    sweep: Sweep, here: Executor, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A worker with another version's results passes them off as those of this one."""
    monkeypatch.setattr("hvmmu._sweep.worker._VERSION", "0.0.9")
    outcome = sweep({"workload": SMALL, "backend": "native"}, here)
    ((_, failure),) = outcome.failed
    assert failure.reason.startswith("the worker lacks hvmmu ")


def test_a_trace_that_changes_meanwhile(sweep: Sweep, tmp_path: Path) -> None:
    """Results of another trace get the name of the one that was planned with."""
    trace = tmp_path / "t.trace"
    trace.write_text(" L 5000,8\n")

    class Late(Executor):
        def submit(self, fn: Callable[..., Any], /, *args: Any, **_: Any) -> Future[Any]:  # noqa: ANN401
            trace.write_text(" L 5000,8\n L 6000,8\n")
            future: Future[Any] = Future()
            future.set_result(fn(*args))
            return future

    outcome = sweep({"workload": str(trace), "backend": "native"}, Late())
    ((_, failure),) = outcome.failed
    assert failure.reason.startswith("t.trace: changed since the sweep was planned")


def test_resume_runs_what_is_missing(
    sweep: Sweep, here: Executor, whole: dict[str, bytes], contents: Contents
) -> None:
    """A damaged, half-written, misnamed or missing cell is kept, or a whole one is run again."""
    folder = Path("undisturbed")
    torn, bent, missing, swapped, fine, other = sorted(whole)
    (folder / torn).write_bytes(whole[torn][:99])
    (folder / bent).write_bytes(whole[bent].replace(b'"accesses": ', b'"accesses": 1'))
    (folder / missing).unlink()
    (folder / swapped).write_bytes(whole[fine])
    (folder / f".{missing[:-5]}.0123abcd.tmp").write_bytes(b"{")
    times = {name: (folder / name).stat().st_mtime_ns for name in (fine, other)}
    outcome = sweep(GRID, here, folder=folder, resume=True)
    assert (outcome.ran, outcome.kept) == (4, 2)
    assert contents(folder) == whole
    assert {name: (folder / name).stat().st_mtime_ns for name in (fine, other)} == times


def test_a_folder_that_is_not_empty(sweep: Sweep, here: Executor, whole: dict[str, bytes]) -> None:
    """A sweep writes into a folder of something else, or over another sweep."""
    (Path("undisturbed") / "notes.txt").write_text("mine")
    with pytest.raises(ConfigError) as caught:
        sweep(GRID | {"workload": SMALL}, here, folder="undisturbed")
    mine, foreign, others = caught.value.problems
    assert mine.startswith("undisturbed: holds 3 of these 3 cells; --resume runs the others")
    assert foreign.startswith("undisturbed: holds cells of another grid (3); give a")
    assert others.startswith("undisturbed: holds other files (1); give a folder")
    assert sweep(GRID | {"limit": 5}, here, folder="undisturbed", resume=True).ran == CELLS
    assert len(list(Path("undisturbed").iterdir())) == 1 + 2 * CELLS == 1 + 2 * len(whole)
    Path("file").write_text("")
    for place in ("file", "file/below"):
        with pytest.raises(InputError, match=r"cannot be used: .*give another with -o"):
            sweep(GRID, here, folder=place)


def test_how_far_it_is(sweep: Sweep, here: Executor) -> None:
    """Progress goes backwards, ends early, or promises a time before it can know one."""
    heard: list[Progress] = []
    sweep(GRID, here, report=heard.append)
    assert heard[0] == Progress(0, CELLS, None)
    assert [step.done for step in heard] == list(range(CELLS + 1))
    assert all(step.left is not None and step.left >= 0 for step in heard[1:])
    assert heard[-1].left == 0


# A sweep that is ended from outside, for real.

SLOW = """
workload = ["demand-zero:pages=8", "fork-cow:pages=4", "mprotect:pages=4", "random:refs=8"]
backend = "acme"
acme.nap = 60
acme.size = [1, 2, 3]
"""
SLOW_CELLS = 12


@pytest.fixture
def begin(plugin: Path, tmp_path: Path) -> Iterator[Callable[..., subprocess.Popen[str]]]:
    """Return a function that starts `hvmmu sweep` of `SLOW` in a process group of its own."""
    (tmp_path / "slow.toml").write_text(SLOW)
    clean = {k: v for k, v in os.environ.items() if not k.startswith("HVMMU_")}
    alone = {"HVMMU_DISABLE_PLUGIN_AUTOLOAD": "1", "HVMMU_PLUGINS": "acme_sweep"}
    begun: list[subprocess.Popen[str]] = []

    def started(*options: str) -> subprocess.Popen[str]:
        command = [sys.executable, "-m", "hvmmu", "sweep", "slow.toml", "--jobs", "2", *options]
        begun.append(
            subprocess.Popen(
                command,
                cwd=tmp_path,
                env=clean | alone | {"PYTHONPATH": str(plugin)},
                stdout=subprocess.PIPE,
                stderr=subprocess.PIPE,
                text=True,
                start_new_session=True,
            )
        )
        return begun[-1]

    yield started
    for process in begun:
        if process.poll() is None:
            os.killpg(process.pid, signal.SIGKILL)
        process.communicate()


def until(count: int, folder: Path, process: subprocess.Popen[str]) -> None:
    """Wait until so many cells are there, or the sweep has ended."""
    while process.poll() is None and len(list(folder.glob("*.json"))) < count:
        time.sleep(0.002)


def test_kill_9_at_any_moment(
    begin: Callable[..., subprocess.Popen[str]], tmp_path: Path, contents: Contents
) -> None:
    """A sweep that is killed and resumed lacks a cell, has one twice, or has other bytes."""
    undisturbed = begin("-o", "undisturbed")
    out, err = undisturbed.communicate(timeout=60)
    assert (out, err) == ("undisturbed: 12 cells: 12 run, 0 failed, 0 kept\n", "")
    cells = tmp_path / "cells"
    for nth, count in enumerate((1, 5, 9)):
        process = begin("-o", "cells", "--resume")
        until(count, cells, process)
        time.sleep(0.007 * nth)  # somewhere in the middle of the next
        os.killpg(process.pid, signal.SIGKILL)
        process.communicate()
        names = [name for name in contents(cells) if name.endswith(".json")]
        assert count <= len(names) <= SLOW_CELLS
    out, err = begin("-o", "cells", "--resume").communicate(timeout=60)
    assert err == ""
    assert contents(cells) == contents(tmp_path / "undisturbed")


@pytest.fixture
def heard() -> Iterator[None]:
    """Have Ctrl-C heard by what is started, though a shell started us in the background."""
    before = signal.signal(signal.SIGINT, signal.default_int_handler)
    yield
    signal.signal(signal.SIGINT, before)


@pytest.mark.usefixtures("heard")
@pytest.mark.parametrize("executor", ["process", "thread"])
def test_ctrl_c(
    begin: Callable[..., subprocess.Popen[str]], tmp_path: Path, contents: Contents, executor: str
) -> None:
    """Ctrl-C hangs, prints a traceback, or leaves a cell that is not whole."""
    process = begin("--executor", executor)
    folder = tmp_path / "slow.cells"
    until(2, folder, process)
    os.killpg(process.pid, signal.SIGINT)
    out, err = process.communicate(timeout=20)
    assert (process.returncode, out, err) == (130, "", "hvmmu: error: interrupted\n")
    left = contents(folder)
    assert 2 <= len(left) < SLOW_CELLS
    for name, raw in left.items():
        assert name == f"{json.loads(raw)['cell']}.json"


def test_workers_end_with_the_sweep(
    begin: Callable[..., subprocess.Popen[str]], tmp_path: Path
) -> None:
    """A sweep that is killed alone leaves workers behind that nobody will ever end."""
    process = begin()
    until(2, tmp_path / "slow.cells", process)
    os.kill(process.pid, signal.SIGKILL)
    process.wait()
    process.communicate(timeout=10)  # ends when the last of them has closed what it inherited
