"""How far a sweep is, on stderr: a bar with the time left, or a line now and then in a log."""

import sys
import time
from types import TracebackType
from typing import TYPE_CHECKING, Any, Self

if TYPE_CHECKING:
    from hvmmu.sweep import Step

_PATIENCE = 1.0  # seconds without a word on a terminal
_EVERY = 30.0  # seconds between two lines where nobody watches


class Ahead:
    """Shows each step, if it is time to."""

    def __init__(self) -> None:
        self._is_watched = sys.stderr is not None and sys.stderr.isatty()
        self._next = time.monotonic() + (_PATIENCE if self._is_watched else _EVERY)
        self._bar: Any = None
        self._task: Any = None

    def __enter__(self) -> Self:
        """Start the first wait."""
        return self

    def at(self, step: "Step") -> None:
        """Show *step*."""
        if (now := time.monotonic()) < self._next or sys.stderr is None:
            return
        left = "" if step.left is None else f"about {duration(step.left)} left"
        if self._is_watched:
            if self._bar is None:
                self._begin(step.total)
            self._bar.update(self._task, completed=step.done, left=left)
        else:
            self._next = now + _EVERY
            said = ", ".join(filter(None, (f"{step.done:,} of {step.total:,} cells", left)))
            print(f"hvmmu: {said}", file=sys.stderr, flush=True)  # noqa: T201

    def _begin(self, total: int) -> None:
        from rich import progress  # noqa: PLC0415 - 50 ms that a quick sweep does not pay
        from rich.console import Console  # noqa: PLC0415 - the same

        columns = (
            progress.TextColumn("cells"),
            progress.BarColumn(),
            progress.TextColumn("{task.completed:,.0f} of {task.total:,.0f}"),
            progress.TextColumn("{task.fields[left]}"),
        )
        self._bar = progress.Progress(*columns, console=Console(stderr=True), transient=True)
        self._task = self._bar.add_task("cells", total=total, left="")
        self._bar.start()

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        """Take the bar away."""
        if self._bar is not None:
            self._bar.stop()


def duration(seconds: float) -> str:
    """Return a time for people, rounded up: 40 s, 12 min, 3 h 20 min."""
    whole = max(1, int(seconds + 0.999))
    if whole < 90:
        return f"{whole} s"
    minutes = -(-whole // 60)
    return f"{minutes} min" if minutes < 90 else f"{minutes // 60} h {minutes % 60} min"
