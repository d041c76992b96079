"""The exact reduction: which accesses can change a TLB, and how the others are written down.

A window of accesses is looked at on its own. An access is dropped if its set's most recent page in
the window is its own page, and an access that allows as much was made since: it hits the first
entry of its set, and finds nothing to set or check. docs/workloads.md has the argument.

A token is one byte. It stands for up to seven fetches that were dropped, all from the page last
fetched from, and for what comes after them: a dropped data access, a kept access, or nothing.
"""

from __future__ import annotations

from array import array
from collections import Counter
from typing import TYPE_CHECKING, Protocol

import attrs

from hvmmu.arch import pfec as pf
from hvmmu.records import frozen

if TYPE_CHECKING:
    from hvmmu.guest.steps import Words

WINDOW = 4096
"""Accesses in a window: the filter forgets everything at each multiple of it."""
SETS = 16
"""Sets of the filter, for instructions and for data: the reduction is exact from so many up."""

FETCH, READ, WRITE = pf.U | pf.ID, pf.U, pf.U | pf.W
KINDS = (READ, WRITE, FETCH)
SECOND = 0x80
"""Set in a kind: the second page of the reference before it."""
MOST_SITES = 1 << 16

_MASK = SETS - 1
_DATA_WRITE, _SLOTS = SETS, 2 * SETS
_LONGEST = 7
_KEPT = _LONGEST * _SLOTS
_RUN = _KEPT + _LONGEST
_SECOND_NEXT = _RUN + _LONGEST + 1
_FETCH = _SECOND_NEXT + 1
assert _FETCH + SETS == 256  # the tokens fill a byte


class DamagedError(Exception):
    """Columns that no reduction made; the message says what is wrong with them."""


@frozen
class Sites:
    """The distinct pairs of page and kind: room for as many as there may ever be, zero if unused.

    *gva* has the address of the first such access.
    """

    gva: array[int] = attrs.field(factory=lambda: array("Q", bytes(8 * MOST_SITES)))
    kind: bytearray = attrs.field(factory=lambda: bytearray(MOST_SITES))


class Reducer(Protocol):
    """One chunk in the making after the other."""

    @property
    def site_gva(self) -> array[int]:
        """The distinct pairs of page and kind that were kept: address of the first such access."""
        ...

    @property
    def site_kind(self) -> array[int]:
        """Kind of each of them, format B."""
        ...

    @property
    def kept(self) -> array[int]:
        """The kept accesses, each the index of its site; format H."""
        ...

    @property
    def tokens(self) -> bytearray:
        """What became of every access, in order."""
        ...

    @property
    def counts(self) -> tuple[int, int, int]:
        """Return the number of sites, kept accesses and tokens."""
        ...

    @property
    def tally(self) -> tuple[int, int, int]:
        """Return the number of fetches, writes and second pages, left out or not."""
        ...

    def window(self, gva: Words, kind: Words) -> None:
        """Add a window of accesses; kinds may have SECOND set."""
        ...

    def next(self, *, anew: bool) -> None:
        """Begin another chunk, which goes on with the sites there are, or starts *anew*."""
        ...


class PythonReducer:
    """The reduction to read, and to hold the compiled one against."""

    def __init__(self) -> None:
        self.next(anew=True)

    def next(self, *, anew: bool) -> None:
        """Begin another chunk, with sites of its own if *anew*."""
        if anew:
            self.site_gva, self.site_kind = array("Q"), array("B")
            self._sites: dict[int, int] = {}
        self.kept, self.tokens = array("H"), bytearray()
        self._tally = [0, 0, 0]

    @property
    def counts(self) -> tuple[int, int, int]:
        """Return the number of sites, kept accesses and tokens."""
        return len(self.site_gva), len(self.kept), len(self.tokens)

    @property
    def tally(self) -> tuple[int, int, int]:
        """Return the number of fetches, writes and second pages."""
        fetches, writes, seconds = self._tally
        return fetches, writes, seconds

    def window(self, gva: Words, kind: Words) -> None:  # noqa: C901, PLR0912 - one loop over all
        """Add a window of accesses."""
        for k, times in Counter(kind).items():
            for i, bit in enumerate((pf.ID, pf.W, SECOND)):
                self._tally[i] += times if k & bit else 0
        put, keep = self.tokens.append, self.kept.append
        recent, written = [-1] * _SLOTS, [0] * SETS
        run, current = 0, -1
        for va, k in zip(gva, kind, strict=True):
            page = va >> 12
            at = page & _MASK
            if k & SECOND:
                if run:
                    put(_RUN + run)
                    run = 0
                put(_SECOND_NEXT)
                k &= ~SECOND  # noqa: PLW2901 - the mark is written down
            if k & pf.ID:
                if recent[SETS + at] == page:
                    if at != current:
                        if run:
                            put(_RUN + run)
                            run = 0
                        put(_FETCH + at)
                        current = at
                    else:
                        run += 1
                        if run == _LONGEST:
                            put(_RUN + run)
                            run = 0
                    continue
                recent[SETS + at], current = page, at
            else:
                write = k & pf.W
                if recent[at] == page and (not write or written[at]):
                    put(run * _SLOTS + (_DATA_WRITE if write else 0) + at)
                    run = 0
                    continue
                written[at] = write or (recent[at] == page and written[at])
                recent[at] = page
            keep(self._site(page, k, va))
            put(_KEPT + run)
            run = 0
        if run:
            put(_RUN + run)

    def _site(self, page: int, kind: int, gva: int) -> int:
        key = page << 8 | kind
        known = self._sites.get(key)
        if known is None:
            known = self._sites[key] = len(self.site_gva)
            self.site_gva.append(gva)
            self.site_kind.append(kind)
        return known


def python_expand(  # noqa: C901, PLR0912 - one loop, a branch for each kind of token
    tokens: bytes | memoryview, kept: Words, sites: Sites, room: int, *, first: int, mark: int
) -> tuple[array[int], array[int], int]:
    """Return all accesses of a window: addresses, kinds, and where kept one *first* is among them.

    *kept* are the window's, *room* the most that may come of it. A dropped access gets the address
    of the kept one it repeats, a second page's kind gets *mark* set. Raise DamagedError.
    """
    out_gva, out_kind = array("Q"), array("B")
    recent: list[int | None] = [None] * _SLOTS
    current, second, following, place = -1, 0, 0, 0
    for token in tokens:
        if token == _SECOND_NEXT:
            second = mark
            continue
        if token < _KEPT:
            run = token // _SLOTS
        elif token < _FETCH:
            run = token - (_KEPT if token < _RUN else _RUN)
        else:
            run, current = 1, token - _FETCH
        if run + (token < _RUN) > room - len(out_gva):
            raise DamagedError("a window has too many accesses")
        if run:
            again = None if current < 0 else recent[SETS + current]
            if again is None:
                raise DamagedError("a fetch repeats none")
            out_gva.extend([again] * run)
            out_kind.extend([FETCH | second] + [FETCH] * (run - 1))
            second = 0
        if token < _KEPT:
            again = recent[token & _MASK]
            if again is None:
                raise DamagedError("a data access repeats none")
            out_gva.append(again)
            out_kind.append((WRITE if token & _DATA_WRITE else READ) | second)
        elif token < _RUN:
            if following == len(kept):
                raise DamagedError("more accesses are kept than there are")
            va, k = sites.gva[kept[following]], sites.kind[kept[following]]
            slot = va >> 12 & _MASK
            if k & pf.ID:
                slot, current = slot + SETS, slot
            recent[slot] = va
            if following == first:
                place = len(out_gva)
            following += 1
            out_gva.append(va)
            out_kind.append(k | second)
        if token < _RUN:
            second = 0
    if following != len(kept) or len(out_gva) != room:
        raise DamagedError("a window has too few accesses")
    return out_gva, out_kind, place
