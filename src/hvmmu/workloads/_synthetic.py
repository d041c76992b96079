"""Workloads made up from a seed, each of which isolates one thing a shadow MMU must do.

The seed decides the order in which pages are visited. Only `Random.getrandbits` is drawn from: its
sequence is the same on every Python.
"""

from __future__ import annotations

import random
from array import array
from typing import TYPE_CHECKING, ClassVar

import attrs

from hvmmu.arch import pfec as pf
from hvmmu.errors import ConfigError
from hvmmu.params import did_you_mean, param, params_of, parse, quote
from hvmmu.steps import (
    FIRST_PID,
    PROT_EXEC,
    PROT_READ,
    PROT_WRITE,
    Accesses,
    Backing,
    ExitProcess,
    Fork,
    Mmap,
    Mprotect,
    StartMeasuring,
    Step,
    SwitchTo,
)
from hvmmu.types import ENTRIES, PAGE_SIZE, Gva

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

DATA, TEXT = 0x10_0000_0000, 0x40_0000
"""Where the mappings start: each at the first page that one leaf table maps."""
_RW, _RX = PROT_READ | PROT_WRITE, PROT_READ | PROT_EXEC
_READ, _WRITE, _FETCH = pf.U, pf.U | pf.W, pf.U | pf.ID
_MOST_PAGES = 1 << 18
_BATCH = 1 << 16

MEASURED = StartMeasuring("measured")
"""What is counted starts here."""

_SEED = "decides the order in which pages are visited"


class _Dice:
    """Choices that a seed decides."""

    def __init__(self, seed: int) -> None:
        self._bits = random.Random(seed).getrandbits  # noqa: S311  # repeatable on purpose

    def below(self, bound: int) -> int:
        """Return a number from 0 to *bound* - 1, where *bound* is far below 2**32."""
        return self._bits(32) * bound >> 32

    def shuffled(self, items: Sequence[int]) -> list[int]:
        """Return the items in another order (Fisher and Yates)."""
        order = list(items)
        for last in range(len(order) - 1, 0, -1):
            other = self.below(last + 1)
            order[last], order[other] = order[other], order[last]
        return order


def _touch(pages: Sequence[int], kind: int) -> Iterator[Accesses]:
    """Access the first byte of each page of the data mapping."""
    for start in range(0, len(pages), _BATCH):
        part = pages[start : start + _BATCH]
        gva = array("Q", [DATA + page * PAGE_SIZE for page in part])
        yield Accesses(gva, array("B", [kind]) * len(part))


def _data(pages: int) -> Mmap:
    return Mmap(Gva(DATA), pages, _RW, Backing.ANONYMOUS)


@attrs.frozen(eq=False)
class Synthetic:
    """A workload that its name and its parameters determine."""

    name: ClassVar[str]

    def facts(self) -> dict[str, str | int | float | bool]:
        """Return what identifies the workload, for the result document."""
        return {"name": self.name, "kind": "synthetic"} | attrs.asdict(self)

    def steps(self) -> Iterator[Step]:
        """Yield the steps: the same for the same parameters, on every Python."""
        raise NotImplementedError


@attrs.frozen(eq=False)
class DemandZero(Synthetic):
    """Write fresh pages under leaf tables that exist: *pages* guest faults, one a page.

    One page of each leaf table is touched before the measured phase, so what is counted is the
    cost of a fault and nothing else: this is where 3, 2 and 1 exits a fault show.
    """

    name = "demand-zero"
    pages: int = param(
        default=4096, doc="guest faults in the measured phase", least=1, most=_MOST_PAGES
    )
    seed: int = param(default=1, doc=_SEED, least=0)

    def steps(self) -> Iterator[Step]:
        """Yield the steps: the same for the same parameters, on every Python."""
        # Of the 512 pages of each table, one is for the warm-up.
        tables = -(-self.pages // (ENTRIES - 1))
        everything = range(self.pages + tables)
        yield _data(len(everything))
        yield from _touch(everything[::ENTRIES], _WRITE)
        yield MEASURED
        fresh = [page for page in everything if page % ENTRIES]
        yield from _touch(_Dice(self.seed).shuffled(fresh), _WRITE)


@attrs.frozen(eq=False)
class ForkCow(Synthetic):
    """Fork, write every page in the child and then in the parent: faults on present entries.

    Each round write-protects all the parent's entries, copies every page once, and ends with the
    child. Copy-on-write faults have P=1, so no filter by the P bit spares their exits.
    """

    name = "fork-cow"
    pages: int = param(default=512, doc="pages the two processes share", least=1, most=_MOST_PAGES)
    rounds: int = param(default=4, doc="forks, one after the other", least=1, most=10_000)
    seed: int = param(default=1, doc=_SEED, least=0)

    def steps(self) -> Iterator[Step]:
        """Yield the steps: the same for the same parameters, on every Python."""
        dice, pages = _Dice(self.seed), range(self.pages)
        yield _data(self.pages)
        yield from _touch(pages, _WRITE)
        yield MEASURED
        for child in range(FIRST_PID + 1, FIRST_PID + 1 + self.rounds):
            yield Fork(child)
            yield SwitchTo(child)
            yield from _touch(dice.shuffled(pages), _WRITE)
            yield SwitchTo(FIRST_PID)
            yield from _touch(dice.shuffled(pages), _WRITE)
            yield ExitProcess(child)


@attrs.frozen(eq=False)
class Protect(Synthetic):
    """Take write permission away and give it back: entries change, pages stay.

    What is counted are the guest's stores to its page tables and the flushes they owe, with
    accesses between them that a stale translation would let through or stop.
    """

    name = "mprotect"
    pages: int = param(default=512, doc="pages protected at a time", least=1, most=_MOST_PAGES)
    rounds: int = param(default=8, doc="times protection goes and comes", least=1, most=10_000)
    seed: int = param(default=1, doc=_SEED, least=0)

    def steps(self) -> Iterator[Step]:
        """Yield the steps: the same for the same parameters, on every Python."""
        dice, pages = _Dice(self.seed), range(self.pages)
        yield _data(self.pages)
        yield from _touch(pages, _WRITE)
        yield MEASURED
        for _ in range(self.rounds):
            yield Mprotect(Gva(DATA), self.pages, PROT_READ)
            yield from _touch(dice.shuffled(pages), _READ)
            yield Mprotect(Gva(DATA), self.pages, _RW)
            yield from _touch(dice.shuffled(pages), _WRITE)


@attrs.frozen(eq=False)
class Random(Synthetic):
    """Read, write and fetch all over a footprint larger than the TLB, from the first touch on.

    A quarter as much program text (file-backed) as data (demand-zero). Half of the references
    read, a quarter write, a quarter fetch. Faults end soon; TLB misses and walks do not.
    """

    name = "random"
    pages: int = param(default=4096, doc="pages of data", least=1, most=_MOST_PAGES)
    refs: int = param(default=100_000, doc="references", least=1, most=1_000_000_000)
    seed: int = param(default=1, doc="decides where each reference goes", least=0)

    def steps(self) -> Iterator[Step]:
        """Yield the steps: the same for the same parameters, on every Python."""
        dice, text = _Dice(self.seed), -(-self.pages // 4)
        yield Mmap(Gva(TEXT), text, _RX, Backing.FILE)
        yield _data(self.pages)
        for start in range(0, self.refs, _BATCH):
            gva, kind = array("Q"), array("B")
            for _ in range(min(_BATCH, self.refs - start)):
                kind.append((_READ, _READ, _WRITE, _FETCH)[dice.below(4)])
                base, pages = (TEXT, text) if kind[-1] == _FETCH else (DATA, self.pages)
                # Eight bytes at most and aligned: no reference crosses pages.
                gva.append(base + dice.below(pages * PAGE_SIZE // 8) * 8)
            yield Accesses(gva, kind)


@attrs.frozen(eq=False)
class ContextSwitch(Synthetic):
    """Several processes with the same addresses and their own pages, one after the other.

    Without address-space tags every CR3 load empties the TLB, and a stale entry would show at
    once as another process's page. A shadow MMU that forgets roots builds them anew each turn.
    """

    name = "context-switch"
    processes: int = param(default=4, doc="processes that take turns", least=2, most=1024)
    pages: int = param(default=64, doc="working set of each", least=1, most=1 << 14)
    rounds: int = param(default=32, doc="turns of each process", least=1, most=100_000)
    seed: int = param(default=1, doc=_SEED, least=0)

    def steps(self) -> Iterator[Step]:
        """Yield the steps: the same for the same parameters, on every Python."""
        dice, pages = _Dice(self.seed), range(self.pages)
        pids = range(FIRST_PID, FIRST_PID + self.processes)
        # The first process has no mapping yet: its copies start empty.
        yield from (Fork(pid) for pid in pids[1:])
        for pid in pids:
            yield from (SwitchTo(pid), _data(self.pages))
            yield from _touch(pages, _WRITE)
        yield MEASURED
        for _ in range(self.rounds):
            for pid in pids:
                yield SwitchTo(pid)
                yield from _touch(dice.shuffled(pages), (_READ, _WRITE)[dice.below(2)])


KINDS: dict[str, type[Synthetic]] = {
    kind.name: kind for kind in (DemandZero, ForkCow, Protect, Random, ContextSwitch)
}
"""The synthetic workloads by name."""


def synthetic(kind: type[Synthetic], options: str | None) -> Synthetic:
    """Make a workload of this kind with options as in ``pages=64,seed=7``; None: the defaults.

    Raise ConfigError with every option that is wrong.
    """
    name = kind.name
    known = {option.name: option for option in params_of(kind)}
    given: dict[str, int] = {}
    problems: list[str] = []
    for part in [] if options is None else options.split(","):
        key, equals, text = part.partition("=")
        if not equals or key not in known:
            problems.append(_unknown(name, part if not equals else key, list(known)))
        elif key in given:
            problems.append(f"workload {name}: {key} is given twice")
        else:
            try:
                given[key] = int(parse(known[key], text, key=key, source=f"workload {name}"))
            except ConfigError as error:
                problems.extend(error.problems)
    if problems:
        raise ConfigError(problems)
    return kind(**given)


def _unknown(name: str, key: str, known: list[str]) -> str:
    near = did_you_mean(key, known) or f"; its options are {', '.join(known)}"
    return f"workload {name}: {quote(key)} is not an option=value of it{near}"
