"""Run a reduced step: skip accesses that cannot change the TLB, until something stops."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Protocol

from hvmmu._core.binding import ffi, lib
from hvmmu._trace.grammar import MESSAGES
from hvmmu._trace.span import SpanTail

if TYPE_CHECKING:
    from hvmmu.engine import EngineCaps
    from hvmmu.steps import ReducedAccesses, Tail, Words
    from hvmmu.types import Buffer

_uncleared = ffi.new_allocator(should_clear_after_alloc=False)


class Runner(Protocol):
    """Runs a program's accesses and handles their stops. It counts no accesses."""

    def run_until_stop(self, kept: Words, slot_gva: Words, slot_kind: Buffer, start: int) -> int:
        """Run the accesses of *kept* from *start* to the first stop; return where, or the end."""
        ...

    def run_span_tail(self, tail: SpanTail) -> bool:
        """Handle a stop and run its tail by `run_in_c`; return False if the engine is not C's."""
        ...

    def handle_stop(self, gva: Buffer, kind: Buffer) -> bool:
        """Promote pages in the TLB, then handle the stop; return if the access was completed."""
        ...

    def run_all(self, gva: Buffer, kind: Buffer, start: int) -> object:
        """Run accesses from *start* to the end, and handle all stops."""
        ...


def run_reduced(runner: Runner, step: ReducedAccesses, caps: EngineCaps) -> None:
    """Run *step* on an engine of *caps*; all counters are those of its whole accesses.

    An engine whose TLB has fewer sets or ways than the reduction needs, or an unknown TLB, runs all
    accesses. Others run the kept ones up to a stop, and its tail after it.
    """
    if caps.lru_sets < step.sets or caps.lru_ways < step.ways:
        for part in step.whole():
            runner.run_all(part.gva, part.kind, 0)
        return
    at, count = 0, len(step.kept)
    while (at := runner.run_until_stop(step.kept, step.slot_gva, step.slot_kind, at)) < count:
        tail = step.tail(at)
        if not (isinstance(tail, SpanTail) and runner.run_span_tail(tail)):
            _run_whole(runner, tail)
        at = tail.next_kept


def _run_whole(runner: Runner, tail: Tail) -> None:
    """Handle a stop, and run all accesses of its tail.

    The handler may change what the TLB holds: before it, the TLB's sets must be in the order of the
    whole trace, and after it a dropped access may no longer be without effect.
    """
    fixup = tail.lru_fixup()
    done = runner.handle_stop(fixup.gva, fixup.kind)
    for part in tail.remaining():
        runner.run_all(part.gva, part.kind, int(done))
        done = False


def run_in_c(vcpu: Any, tail: SpanTail) -> bool:  # noqa: ANN401 - a pointer of cffi's
    """Handle a stop of C's vCPU and run its tail; return False if a callback into Python failed.

    Raise what the span makes of damage.
    """
    packed, alive = tail.packed.in_c()
    room, damage = _uncleared("hvt_run_room *"), ffi.new("int32_t *")
    went = lib.hvt_run_tail(vcpu, packed, tail.nth, room, damage)
    del alive
    if damage[0]:
        raise tail.packed.damaged(MESSAGES[damage[0]])
    return bool(went)
