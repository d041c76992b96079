"""How far a sweep is, on stderr: a bar with the time left, or a line now and then in a log."""

import sys
import time
from typing import TYPE_CHECKING, Any

from hvmmu._cli.progress import PATIENCE, Shown

if TYPE_CHECKING:
    from hvmmu._sweep import Step

_EVERY = 30.0  # seconds between two lines where nobody watches


class Ahead(Shown):
    """Shows each step, if it is time to."""

    def __init__(self) -> None:
        super().__init__()
        self._next = time.monotonic() + (PATIENCE if self.is_watched else _EVERY)

    def at(self, step: "Step") -> None:
        """Show *step*."""
        if (now := time.monotonic()) < self._next or sys.stderr is None:
            return
        left = "" if step.left is None else f"about {duration(step.left)} left"
        if self.is_watched:
            self.show("cells", step.total, step.done, left=left)
        else:
            self._next = now + _EVERY
            said = ", ".join(filter(None, (f"{step.done:,} of {step.total:,} cells", left)))
            print(f"hvmmu: {said}", file=sys.stderr, flush=True)  # noqa: T201

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
