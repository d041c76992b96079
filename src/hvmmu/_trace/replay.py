"""Running accesses without those that change nothing, for as long as they change nothing."""

from __future__ import annotations

from typing import TYPE_CHECKING, Protocol

from hvmmu.steps import Reduced

if TYPE_CHECKING:
    from hvmmu.engine import EngineCaps
    from hvmmu.steps import Words
    from hvmmu.types import Buffer


class Runner(Protocol):
    """What runs a program's accesses, stop by stop; it counts none of them."""

    def run_to_stop(self, kept: Words, site_gva: Words, site_kind: Buffer, start: int) -> int:
        """Run what *kept* lists from *start* to the first stop; return where, or the end."""
        ...

    def handle_stop(self, gva: Buffer, kind: Buffer) -> bool:
        """Touch pages, then have that stop handled; return if the access was completed."""
        ...

    def run_on(self, gva: Buffer, kind: Buffer, start: int) -> object:
        """Run from *start* to the end, with all stops."""
        ...


def run_reduced(runner: Runner, step: Reduced, caps: EngineCaps) -> None:
    """Run *step* on an engine of *caps*, as the run of all its accesses would go.

    Before a stop is handled, what brings the sets in order is made up for. It may change what the
    TLB holds, so from there to the end of the span more is run; and so it is for all spans by an
    engine whose TLB has too few sets or ways, or is unknown.
    """
    at, count = 0, len(step.kept)
    exact = caps.lru_sets >= step.sets and caps.lru_ways >= step.ways
    while at < count:
        done = False
        if exact:
            at = runner.run_to_stop(step.kept, step.site_gva, step.site_kind, at)
            if at == count:
                return
        rest = step.rest(at)
        if exact:
            before = rest.before()
            done = runner.handle_stop(before.gva, before.kind)
        for part in rest.parts():
            if isinstance(part, Reduced):
                run_reduced(runner, part, caps)
            else:
                runner.run_on(part.gva, part.kind, int(done))
            done = False
        at = rest.following
