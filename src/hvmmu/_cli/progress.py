"""Progress on stderr for what takes over a second, and only where a person can see it."""

import sys
import time
from abc import ABC, abstractmethod
from types import TracebackType
from typing import Any, Self

from hvmmu.params import plain

PATIENCE = 1.0  # seconds without a word
_EVERY = 0.1  # seconds between two updates


class Shown(ABC):
    """A line on a terminal while a command works, taken away at its end."""

    def __init__(self) -> None:
        self.is_watched = sys.stderr is not None and sys.stderr.isatty()
        self._line: Any = None
        self._task: Any = None

    def __enter__(self) -> Self:
        """Show nothing yet: what is quick needs no word."""
        return self

    @abstractmethod
    def columns(self, progress: Any) -> list[Any]:  # noqa: ANN401 - rich's module
        """Return what the line is made of."""

    def show(self, what: str, total: int | None, completed: int, **fields: str) -> None:
        """Put the line there, or change it."""
        if self._line is None:
            from rich import progress  # noqa: PLC0415 - 50 ms that a quick command does not pay
            from rich.console import Console  # noqa: PLC0415 - the same

            console = Console(stderr=True)
            self._line = progress.Progress(*self.columns(progress), console=console, transient=True)
            self._task = self._line.add_task(what, total=total, **fields)
            self._line.start()
        self._line.update(self._task, completed=completed, **fields)

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        """Take the line away."""
        if self._line is not None:
            self._line.stop()


class Progress(Shown):
    """A count that goes up, shown from the second second on."""

    def __init__(self, what: str, total: int | None = None) -> None:
        """Say what is counted, and how many there will be if that is known."""
        super().__init__()
        self._what, self._total = plain(what), total
        self._next = time.monotonic() + PATIENCE

    def at(self, count: int) -> None:
        """Show *count*, if it is time to."""
        if not self.is_watched or (now := time.monotonic()) < self._next:
            return
        self._next = now + _EVERY
        self.show(self._what, self._total, count)

    def columns(self, progress: Any) -> list[Any]:  # noqa: ANN401 - rich's module
        """Return what is counted, the count and the time; a bar where the end is known."""
        columns = [
            progress.TextColumn("{task.description}", markup=False),
            progress.TextColumn("{task.completed:,.0f}"),
            progress.TimeElapsedColumn(),
        ]
        if self._total is not None:
            columns.insert(1, progress.BarColumn())
        return columns
