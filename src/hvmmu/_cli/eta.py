"""The progress of a sweep on stderr: a bar with the time left, or a line now and then in a log."""

import sys
import time
from typing import TYPE_CHECKING, Any

from hvmmu._cli.progress import PATIENCE, ProgressLine

if TYPE_CHECKING:
    from hvmmu._sweep import Progress

_EVERY = 30.0  # seconds between two lines of a log


class SweepProgress(ProgressLine):
    """Shows how many cells are done and the time left."""

    def __init__(self) -> None:
        super().__init__()
        self._next = time.monotonic() + (PATIENCE if self.is_watched else _EVERY)

    def update(self, progress: "Progress") -> None:
        """Show *progress*, if it is time to."""
        if (now := time.monotonic()) < self._next or sys.stderr is None:
            return
        left = "" if progress.left is None else f"about {duration(progress.left)} left"
        if self.is_watched:
            self.show("cells", progress.total, progress.done, left=left)
        else:
            self._next = now + _EVERY
            done = f"{progress.done:,} of {progress.total:,} cells"
            line = ", ".join(filter(None, (done, left)))
            print(f"hvmmu: {line}", file=sys.stderr, flush=True)  # noqa: T201

    def columns(self, progress: Any) -> list[Any]:  # noqa: ANN401 - rich's module
        """Return a bar, the counts and the time left."""
        return [
            progress.TextColumn("cells"),
            progress.BarColumn(),
            progress.TextColumn("{task.completed:,.0f} of {task.total:,.0f}"),
            progress.TextColumn("{task.fields[left]}"),
        ]


def duration(seconds: float) -> str:
    """Return a time for people, rounded up: 40 s, 12 min, 3 h 20 min."""
    whole = max(1, int(seconds + 0.999))
    if whole < 90:
        return f"{whole} s"
    minutes = -(-whole // 60)
    return f"{minutes} min" if minutes < 90 else f"{minutes // 60} h {minutes % 60} min"
