"""The progress of a command that takes over a second, on stderr if that is a terminal."""

import sys
import time
from abc import ABC, abstractmethod
from types import TracebackType
from typing import Any, Self

from hvmmu.params import printable

PATIENCE = 1.0  # seconds before the line is shown
_EVERY = 0.1  # seconds between two updates


class ProgressLine(ABC):
    """A line on a terminal while a command works, removed at its end."""

    def __init__(self) -> None:
        self.is_watched = sys.stderr is not None and sys.stderr.isatty()
        self._line: Any = None
        self._task: Any = None

    def __enter__(self) -> Self:
        """Show nothing yet: a quick command needs no line."""
        return self

    @abstractmethod
    def columns(self, progress: Any) -> list[Any]:  # noqa: ANN401 - rich's module
        """Return the columns of the line."""

    def show(self, label: str, total: int | None, completed: int, **fields: str) -> None:
        """Show the line, or update it."""
        if self._line is None:
            from rich import progress  # noqa: PLC0415 - 50 ms that a quick command does not pay
            from rich.console import Console  # noqa: PLC0415 - the same

            console = Console(stderr=True)
            self._line = progress.Progress(*self.columns(progress), console=console, transient=True)
            self._task = self._line.add_task(label, total=total, **fields)
            self._line.start()
        self._line.update(self._task, completed=completed, **fields)

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        """Remove the line."""
        if self._line is not None:
            self._line.stop()


class Counter(ProgressLine):
    """A count that goes up, shown once a second has passed."""

    def __init__(self, label: str, total: int | None = None) -> None:
        """Take a label for what is counted, and the last count if that is known."""
        super().__init__()
        self._label, self._total = printable(label), total
        self._next = time.monotonic() + PATIENCE

    def update(self, count: int) -> None:
        """Show *count*, if it is time to."""
        if not self.is_watched or (now := time.monotonic()) < self._next:
            return
        self._next = now + _EVERY
        self.show(self._label, self._total, count)

    def columns(self, progress: Any) -> list[Any]:  # noqa: ANN401 - rich's module
        """Return the label, the count and the time; a bar if the last count is known."""
        columns = [
            progress.TextColumn("{task.description}", markup=False),
            progress.TextColumn("{task.completed:,.0f}"),
            progress.TimeElapsedColumn(),
        ]
        if self._total is not None:
            columns.insert(1, progress.BarColumn())
        return columns
