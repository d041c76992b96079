"""Running accesses without those that change nothing, for as long as they change nothing."""

from __future__ import annotations

from typing import TYPE_CHECKING, Protocol

if TYPE_CHECKING:
    from hvmmu.guest.steps import Reduced, Words
    from hvmmu.types import Buffer


class Runner(Protocol):
    """What runs a program's accesses, stop by stop; it counts none of them."""

    def run_to_stop(
        self, kept: Words, site_gva: Words, site_kind: Buffer, start: int
    ) -> tuple[int, bool]:
        """Run what *kept* lists from *start* to the first stop, and have it handled.

        Return where that was, or the end, and if the access was completed.
        """
        ...

    def run_on(self, gva: Buffer, kind: Buffer, start: int) -> object:
        """Run from *start* to the end, with all stops."""
        ...


def run_reduced(runner: Runner, step: Reduced, *, lru_sets: int) -> None:
    """Run *step* on an engine with *lru_sets*, as the run of all its accesses would go.

    A stop may change what the TLB holds, so from there to the end of the window all accesses are
    run; and all of all windows by an engine whose TLB has too few sets, or is unknown.
    """
    at, count = 0, len(step.kept)
    while at < count:
        done = False
        if lru_sets >= step.sets:
            at, done = runner.run_to_stop(step.kept, step.site_gva, step.site_kind, at)
            if at == count:
                return
        gva, kind, at = step.rest(at)
        runner.run_on(gva, kind, int(done))
