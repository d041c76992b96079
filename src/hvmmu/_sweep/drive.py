"""A sweep from its grid to its cells: plan, leave out what is there, run the rest, write each."""

import time
from collections import deque
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import FIRST_COMPLETED, BrokenExecutor, Executor, Future, wait
from pathlib import Path
from typing import Any

import attrs

from hvmmu._engines import tell_of_fallback
from hvmmu._sweep import work
from hvmmu._sweep.cells import Cell
from hvmmu._sweep.grid import Grid, grid_of, read_grid
from hvmmu._sweep.planning import cells
from hvmmu._sweep.pools import Pool, pool
from hvmmu._sweep.site import Site, open_site
from hvmmu._sweep.store import Failure, Store
from hvmmu.errors import InputError

_TICK = 0.25  # seconds between two words on how far it is, while no cell ends

_DIED = "its worker died, twice; if memory ran out, use fewer jobs"
_NO_WORKER = (
    "no worker lives: see what it says above; a script calls sweep.run below "
    "`if __name__ == '__main__':`"
)

BROKEN = (BrokenExecutor, EOFError, ConnectionError)
"""What an executor raises when its workers, or what makes them, are gone."""

Ended = tuple[Cell, str, Failure | None]


@attrs.frozen
class Step:
    """How far a sweep is."""

    done: int
    total: int
    left: float | None
    """Seconds that the rest may take, None while nobody can say."""


@attrs.frozen
class Outcome:
    """What a sweep came to."""

    folder: Path
    planned: int
    """Cells of the grid."""
    mine: int
    """Of them, those of this shard."""
    kept: int
    """Of those, those that were there before."""
    failed: tuple[tuple[Cell, Failure], ...]

    @property
    def ran(self) -> int:
        """Return how many cells were run."""
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
    site: Site | None = None,
    tell: Callable[[Step], None] = lambda _: None,
) -> Outcome:
    """Run the cells of a grid that are not there yet, and write each to a file of its own.

    *grid* is a file, or what one would hold. *executor* is any `concurrent.futures.Executor`, which
    is left as it is, or one of the names in `POOLS` with *jobs* workers. *folder* is where the
    cells go, by default `GRID.cells` in the current one. *shard* (i, n) runs the i-th of n parts.
    *resume* goes on with a folder that has cells. *tell* hears how far it is.

    Raise ConfigError with every problem of the grid before anything is run, InputError for a folder
    or an executor that cannot be used. A cell that fails is in the outcome; the others go on.
    """
    site = site or open_site({})
    read = _read(grid, site)
    planned = cells(read, site)
    if (None, "engine") not in read.axes:
        tell_of_fallback()
    mine = part_of(planned, shard)
    chosen = pool(executor, jobs, scheduler)
    store = Store(_folder(grid, folder))
    todo = store.begin(mine, {cell.id for cell in planned}, resume=resume)
    if not todo:
        store.make()
    failed = list(_written(todo, chosen, store, tell)) if todo else []
    places = {cell.id: nth for nth, cell in enumerate(mine)}
    failed.sort(key=lambda one: places[one[0].id])
    return Outcome(store.folder, len(planned), len(mine), len(mine) - len(todo), tuple(failed))


def part_of(planned: Sequence[Cell], shard: tuple[int, int]) -> list[Cell]:
    """Return the i-th of n parts, which only the names decide; no part has two more than another.

    Names are hashes: cells that take long are spread over the parts.
    """
    part, parts = shard
    ids = set(sorted(cell.id for cell in planned)[part - 1 :: parts])
    return [cell for cell in planned if cell.id in ids]


def _read(grid: Path | str | Mapping[str, Any], site: Site) -> Grid:
    if isinstance(grid, Mapping):
        return grid_of(grid, site.known)
    return read_grid(Path(grid), site.known)


def _folder(grid: Path | str | Mapping[str, Any], folder: Path | str | None) -> Path:
    if folder is not None:
        return Path(folder)
    return Path("grid.cells" if isinstance(grid, Mapping) else f"{Path(grid).stem}.cells")


def _written(
    todo: Sequence[Cell], chosen: Pool, store: Store, tell: Callable[[Step], None]
) -> Iterator[tuple[Cell, Failure]]:
    """Run cells and write each as it ends; yield those that failed."""
    begun, done = time.monotonic(), 0
    tell(Step(0, len(todo), None))
    at_once = True
    try:
        chosen.start()
        store.make()
        for ended in _ended(todo, chosen):
            if ended is not None:
                cell, text, failure = ended
                store.write(cell.id, text)
                done += 1
                if failure is not None:
                    yield cell, failure
            left = (time.monotonic() - begun) / done * (len(todo) - done) if done else None
            tell(Step(done, len(todo), left))
        at_once = False
    finally:
        chosen.end(at_once=at_once)


def _ended(todo: Sequence[Cell], chosen: Pool) -> Iterator[Ended | None]:
    """Yield each cell when it has run, and None now and then while none ends.

    When a worker dies, nobody knows which cell it was at. Those that were handed out run again one
    at a time: where a worker dies once more, that cell has failed.
    """
    waiting = deque(todo)
    while waiting:
        suspects: list[Cell] = []
        yield from _handed_out(waiting, chosen, chosen.window, suspects)
        for cell in suspects:
            yield from _alone(cell, chosen)
        if suspects:
            chosen.end(at_once=True)


def _alone(cell: Cell, chosen: Pool) -> Iterator[Ended | None]:
    """Run one cell with nothing beside it; it has failed if its worker dies.

    Raise InputError if workers die whatever they do.
    """
    died: list[Cell] = []
    chosen.end(at_once=True)
    yield from _handed_out(deque([cell]), chosen, 1, died)
    if died:
        chosen.end(at_once=True)
        try:
            chosen.start().submit(work.hello).result()
        except BROKEN as error:
            raise InputError(f"{_NO_WORKER} ({error})") from None
        yield (cell, *work.lost(cell.unit, _DIED))


def _handed_out(
    waiting: deque[Cell], chosen: Pool, window: int, died: list[Cell]
) -> Iterator[Ended | None]:
    """Hand cells out, *window* at a time, and yield them as they end.

    Where a worker dies it ends early, and *died* are the cells that were out then.
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
    """Hand out as many cells as may be out; return whether the executor takes them."""
    while waiting and len(running) < window:
        try:
            future = executor.submit(work.run_unit, dict(waiting[0].unit))
        except BROKEN:
            return False
        running[future] = waiting.popleft()
        if future.done():  # this executor does it at once: write it, then go on
            break
    return True


def _result(cell: Cell, future: Future[Any]) -> Ended | None:
    """Return what came of a cell; None if its worker may have died of it."""
    try:
        return cell, *future.result()
    except BROKEN:
        return None
    except Exception as error:  # noqa: BLE001 - what a cluster makes of a lost worker
        return cell, *work.lost(cell.unit, f"{type(error).__name__}: {error}")
