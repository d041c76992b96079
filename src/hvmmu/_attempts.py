"""The loop of stops: an access is tried until it is made, completed otherwise, or skipped.

Who handles a stop is asked and not known here. Nothing is counted: that is the vCPU's.
"""

from array import array
from collections.abc import Callable, Sequence
from typing import NamedTuple, Protocol

from hvmmu.engine import NO_TRANSLATION, HwThread
from hvmmu.errors import InputError, InvariantError
from hvmmu.types import Buffer

_AT_ONCE = 4096
"""Accesses that are looked up before it is known that they will be run."""

MOST_TRIES = 100
"""How often one access may stop; a guest and a hypervisor need a handful between them."""


class Operand(NamedTuple):
    """What a store writes: *size* bytes of *value*."""

    value: int
    size: int


class Runner(Protocol):
    """What runs accesses in order, and stops: an engine, or what stands before one."""

    def run(
        self,
        core: HwThread,
        gva: Buffer,
        kind: Buffer,
        start: int,
        translated: Buffer | None = None,
    ) -> int:
        """Run accesses from *start* on; return the index of the one that stopped, or len(gva)."""
        ...

    def promote(self, gva: Buffer, kind: Buffer) -> None:
        """Make pages the most recent ones of their sets in the TLB, where they are cached."""
        ...


class Attempts:
    """One core's accesses, tried on *runner*.

    *stopped* takes each stop to whoever must handle it. It is given what the access stores, if that
    is known, and returns None if the access is to be tried again, else where it went.
    """

    def __init__(
        self, core: HwThread, runner: Runner, stopped: Callable[[Operand | None], int | None]
    ) -> None:
        self._core, self._runner, self._stopped = core, runner, stopped

    def run_to_stop(
        self, kept: Sequence[int], site_gva: Sequence[int], site_kind: Buffer, start: int
    ) -> int:
        """Run what *kept* lists from *start* to the first stop; return where that is, or the end.

        Each is an index of *site_gva* and *site_kind*.
        """
        at, kinds = start, memoryview(site_kind)
        while at < len(kept):
            some = kept[at : at + _AT_ONCE]
            gva = array("Q", [site_gva[site] for site in some])
            ran = self._runner.run(self._core, gva, bytes([kinds[site] for site in some]), 0)
            at += ran
            if ran < len(some):
                break
        return at

    def handle_stop(self, gva: Buffer, kind: Buffer) -> bool:
        """Touch pages, then have the last stop handled; return if the access was completed."""
        self._runner.promote(gva, kind)
        return self._stopped(None) is not None

    def run_spans(self, step: object) -> bool:
        """Return that a reduced step is to be run part by part."""
        del step
        return False

    def run_on(
        self, gva: Buffer, kind: Buffer, start: int, hosts: Buffer | None = None
    ) -> dict[int, int]:
        """Run from *start* to the end; return where those went that were not hardware's."""
        finished: dict[int, int] = {}
        at, last, tries, count = start, -1, 0, len(memoryview(gva))
        while (at := self._runner.run(self._core, gva, kind, at, hosts)) < count:
            tries = tries + 1 if at == last else 0
            last = at
            self.refuse_to_hang(tries)
            gpa = self._stopped(None)
            if gpa is not None:
                finished[at] = gpa
                at += 1
        return finished

    def single(self, gva: int, kind: int, size: int, value: int = 0) -> int:
        """Make one access; return its hpa, NO_TRANSLATION if it was emulated or skipped."""
        if gva % size:
            raise InputError(f"{size} bytes at {gva:#x} are not aligned; split the access")
        vas, kinds, translated = array("Q", [gva]), bytes([kind]), array("Q", [NO_TRANSLATION])
        operand, tries = Operand(value, size), 0
        while not self._runner.run(self._core, vas, kinds, 0, translated):
            tries += 1
            self.refuse_to_hang(tries)
            if self._stopped(operand) is not None:
                return NO_TRANSLATION
        return translated[0]

    def refuse_to_hang(self, tries: int) -> None:
        """Give up on an access that all sides claim to have made possible, and that still stops."""
        if tries > MOST_TRIES:
            gva, event = self._core.gva, self._core.event
            raise InvariantError(f"the access to {gva:#x} stopped {tries} times in a row: {event}")
