"""Run a sweep: plan the cells, skip those that exist, run the others, write each."""

import time
from collections import deque
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import FIRST_COMPLETED, BrokenExecutor, Executor, Future, wait
from pathlib import Path
from typing import Any

import attrs

from hvmmu._sweep import worker
from hvmmu._sweep.cells import Cell
from hvmmu._sweep.executors import Pool, pool
from hvmmu._sweep.grid import Grid, grid_of, read_grid
from hvmmu._sweep.installation import Installation, open_installation
from hvmmu._sweep.plan import cells
from hvmmu._sweep.store import CellFailure, Store
from hvmmu.errors import InputError

_TICK = 0.25  # seconds between two reports of progress, while no cell ends

_DIED = "its worker died, twice; if memory ran out, use fewer jobs"
_NO_WORKER = (
    "no worker starts: see its error above; a script must call sweep.run below "
    "`if __name__ == '__main__':`"
)

BROKEN = (BrokenExecutor, EOFError, ConnectionError)
"""The errors of an executor whose workers are gone, or cannot be started."""

Ended = tuple[Cell, str, CellFailure | None]


@attrs.frozen
class Progress:
    """The progress of a sweep."""

    done: int
    total: int
    left: float | None
    """Estimated seconds for the rest; None before the first cell has ended."""


@attrs.frozen
class SweepResult:
    """The number of cells planned, run and failed."""

    folder: Path
    planned: int
    """Cells of the grid."""
    mine: int
    """Of them, those of this shard."""
    kept: int
    """Of those, those that existed before."""
    failed: tuple[tuple[Cell, CellFailure], ...]

    @property
    def ran(self) -> int:
        """Return the number of cells that were run."""
        return self.mine - self.kept


def run(
    grid: Path | str | Mapping[str, Any],
    executor: Executor | str = "process",
    *,
    folder: Path | str | None = None,
    jobs: int | None = None,
    shard: tuple[int, int] = (1, 1),
    resume: bool = False,
    scheduler: str | None = None,
    installation: Installation | None = None,
    report: Callable[[Progress], None] = lambda _: None,
) -> SweepResult:
    """Run the cells of a grid that do not exist yet, and write each to its own file.

    *grid* is a file, or its content as a mapping. *executor* is any `concurrent.futures.Executor`,
    which is not ended, or one of the names in `POOLS` with *jobs* workers. *folder* receives the
    cells, by default `GRID.cells` in the current folder. *shard* (i, n) runs the i-th of n parts.
    *resume* continues in a folder that has cells. *report* is called with the progress.

    Raise ConfigError with every problem of the grid before anything is run, InputError for a folder
    or an executor that cannot be used. A cell that fails is in the result; the others go on.
    """
    installation = installation or open_installation({})
    read = _read(grid, installation)
    planned = cells(read, installation)
    mine = shard_of(planned, shard)
    chosen = pool(executor, jobs, scheduler)
    store = Store(_folder(grid, folder))
    todo = store.begin(mine, {cell.id for cell in planned}, resume=resume)
    if not todo:
        store.create()
    failed = list(_written(todo, chosen, store, report)) if todo else []
    places = {cell.id: nth for nth, cell in enumerate(mine)}
    failed.sort(key=lambda one: places[one[0].id])
    return SweepResult(store.folder, len(planned), len(mine), len(mine) - len(todo), tuple(failed))


def shard_of(planned: Sequence[Cell], shard: tuple[int, int]) -> list[Cell]:
    """Return the i-th of n parts, which only the names decide; their sizes differ by at most one.

    Names are hashes: slow cells are spread over the parts.
    """
    part, parts = shard
    ids = set(sorted(cell.id for cell in planned)[part - 1 :: parts])
    return [cell for cell in planned if cell.id in ids]


def _read(grid: Path | str | Mapping[str, Any], installation: Installation) -> Grid:
    if isinstance(grid, Mapping):
        return grid_of(grid, installation.schema)
    return read_grid(Path(grid), installation.schema)


def _folder(grid: Path | str | Mapping[str, Any], folder: Path | str | None) -> Path:
    if folder is not None:
        return Path(folder)
    return Path("grid.cells" if isinstance(grid, Mapping) else f"{Path(grid).stem}.cells")


def _written(
    todo: Sequence[Cell], chosen: Pool, store: Store, report: Callable[[Progress], None]
) -> Iterator[tuple[Cell, CellFailure]]:
    """Run cells and write each as it ends; yield those that failed."""
    begun, done = time.monotonic(), 0
    report(Progress(0, len(todo), None))
    at_once = True
    try:
        chosen.start()
        store.create()
        for ended in _ended(todo, chosen):
            if ended is not None:
                cell, text, failure = ended
                store.write(cell.id, text)
                done += 1
                if failure is not None:
                    yield cell, failure
            left = (time.monotonic() - begun) / done * (len(todo) - done) if done else None
            report(Progress(done, len(todo), left))
        at_once = False
    finally:
        chosen.end(at_once=at_once)


def _ended(todo: Sequence[Cell], chosen: Pool) -> Iterator[Ended | None]:
    """Yield each cell when it has run, and None now and then while none ends.

    The cell at which a worker dies is not known. All cells that were submitted then run again one
    at a time: a cell whose worker dies once more has failed.
    """
    waiting = deque(todo)
    while waiting:
        suspects: list[Cell] = []
        yield from _submitted(waiting, chosen, chosen.window, suspects)
        for cell in suspects:
            yield from _alone(cell, chosen)
        if suspects:
            chosen.end(at_once=True)


def _alone(cell: Cell, chosen: Pool) -> Iterator[Ended | None]:
    """Run one cell with nothing beside it; it has failed if its worker dies.

    Raise InputError if a worker dies with any cell.
    """
    died: list[Cell] = []
    chosen.end(at_once=True)
    yield from _submitted(deque([cell]), chosen, 1, died)
    if died:
        chosen.end(at_once=True)
        try:
            chosen.start().submit(worker.hello).result()
        except BROKEN as error:
            raise InputError(f"{_NO_WORKER} ({error})") from None
        yield (cell, *worker.lost(cell.unit, _DIED))


def _submitted(
    waiting: deque[Cell], chosen: Pool, window: int, died: list[Cell]
) -> Iterator[Ended | None]:
    """Submit cells, *window* at a time, and yield them as they end.

    If a worker dies it ends early, and *died* are the cells that were submitted then.
    """
    executor = chosen.start()
    running: dict[Future[Any], Cell] = {}
    try:
        while (waiting or running) and not died:
            if not _filled(running, waiting, executor, window):
                died += running.values() or [waiting.popleft()]
                return
            ready, _ = wait(running, _TICK, FIRST_COMPLETED)
            for future in ready:
                cell = running.pop(future)
                if (ended := _result(cell, future)) is None:
                    died.append(cell)
                else:
                    yield ended
            if not ready:
                yield None
        died += running.values()
    finally:
        for future in running:
            future.cancel()


def _filled(
    running: dict[Future[Any], Cell], waiting: deque[Cell], executor: Executor, window: int
) -> bool:
    """Submit as many cells as fit the window; return whether the executor takes them."""
    while waiting and len(running) < window:
        try:
            future = executor.submit(worker.run_unit, dict(waiting[0].unit))
        except BROKEN:
            return False
        running[future] = waiting.popleft()
        if future.done():  # this executor runs it in submit: write it, then go on
            break
    return True


def _result(cell: Cell, future: Future[Any]) -> Ended | None:
    """Return the result of a cell; None if its worker may have died of it."""
    try:
        return cell, *future.result()
    except BROKEN:
        return None
    except Exception as error:  # noqa: BLE001 - a cluster's error for a lost worker
        return cell, *worker.lost(cell.unit, f"{type(error).__name__}: {error}")
