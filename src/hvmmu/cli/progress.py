"""Progress on stderr for what takes over a second, and only where a person can see it."""

import sys
import time
from types import TracebackType
from typing import Any, Self

from hvmmu.params import plain

_PATIENCE = 1.0  # seconds without a word
_EVERY = 0.1  # seconds between two updates


class Progress:
    """A count that goes up, shown from the second second on."""

    def __init__(self, what: str, total: int | None = None) -> None:
        """Say what is counted, and how many there will be if that is known."""
        self._what, self._total = plain(what), total
        self._is_watched = sys.stderr is not None and sys.stderr.isatty()
        self._next = time.monotonic() + _PATIENCE
        self._shown: Any = None
        self._task: Any = None

    def __enter__(self) -> Self:
        """Start the second."""
        return self

    def at(self, count: int) -> None:
        """Show *count*, if it is time to."""
        if not self._is_watched or (now := time.monotonic()) < self._next:
            return
        self._next = now + _EVERY
        if self._shown is None:
            self._show()
        self._shown.update(self._task, completed=count)

    def _show(self) -> None:
        from rich import progress  # noqa: PLC0415 - 50 ms that a quick command does not pay
        from rich.console import Console  # noqa: PLC0415 - the same

        columns = [
            progress.TextColumn("{task.description}", markup=False),
            progress.TextColumn("{task.completed:,.0f}"),
            progress.TimeElapsedColumn(),
        ]
        if self._total is not None:
            columns.insert(1, progress.BarColumn())
        console = Console(stderr=True)
        self._shown = progress.Progress(*columns, console=console, transient=True)
        self._task = self._shown.add_task(self._what, total=self._total)
        self._shown.start()

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        """Take the line away."""
        if self._shown is not None:
            self._shown.stop()
