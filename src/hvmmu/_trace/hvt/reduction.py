"""The exact reduction: which accesses can change a TLB, in two filters, one behind the other.

A window is looked at on its own. An access is dropped if its set's most recent page in the window
is its own page, and an access that allows as much was made since. The others are near accesses, and
of those a span's filter keeps what it must: those to a page that is none of the four most recent
ones of its set, those that ask for more than was granted, and as many as it takes for every set to
be in its order whenever one of these is made. docs/workloads.md has the argument.
"""

from __future__ import annotations

from array import array
from collections import Counter
from typing import TYPE_CHECKING, Protocol, TypeAlias

from hvmmu._trace.tokens import (
    DATA_WRITE,
    FETCH_FROM,
    KEPT,
    LONGEST,
    RUN,
    SECOND,
    SECOND_NEXT,
    SET_MASK,
    SETS,
    SLOTS,
    WAYS,
    WINDOW,
)
from hvmmu.arch import pfec as pf
from hvmmu.steps import SITES

if TYPE_CHECKING:
    from hvmmu.steps import Words

Listed: TypeAlias = "tuple[array[int], array[int], array[int]]"
"""Pairs of page and kind not listed before, or not since others took their place, in three columns.

Where each is listed (format H), the address of the first such access (Q), its kind (B).
"""
Kept: TypeAlias = "tuple[array[int], int, bytes]"
"""A span: the accesses that its filter keeps, each the index of its site (format H); how many the
windows' filters keep; its frame.
"""


class Reducer(Protocol):
    """One chunk in the making after the other."""

    @property
    def has_room(self) -> bool:
        """Whether the sites of another window can be listed in this chunk."""
        ...

    @property
    def listed(self) -> Listed:
        """What this chunk lists."""
        ...

    @property
    def count(self) -> int:
        """How many sites this chunk lists."""
        ...

    @property
    def tally(self) -> tuple[int, int, int]:
        """Return the number of fetches, writes and second pages of this chunk, left out or not."""
        ...

    def window(self, gva: Words, kind: Words) -> None:
        """Add a window of accesses to the span; kinds may have SECOND set."""
        ...

    def end_span(self) -> Kept:
        """End the span, of eight windows or less."""
        ...

    def next_chunk(self) -> None:
        """Begin another chunk, which goes on with the sites there are."""
        ...


class Ring:
    """Sites by page and kind, as many as an index tells apart; a new one takes an old one's place.

    None gives way in the chunk that uses it.
    """

    def __init__(self) -> None:
        self._slots: dict[int, int] = {}
        self._keys: list[int] = []
        self._hand, self._used = 0, bytearray(SITES)
        self.next_chunk()

    def next_chunk(self) -> None:
        """Begin a chunk, that uses and lists nothing yet."""
        self.listed: Listed = array("H"), array("Q"), array("B")
        self._used, self.used = bytearray(SITES), 0

    def site(self, key: int, gva: int, kind: int) -> int:
        """Return the index of a page and a kind, whose key they make."""
        slot = self._slots.get(key)
        if slot is None:
            slot = self._slots[key] = self._place(key)
            for column, value in zip(self.listed, (slot, gva, kind), strict=True):
                column.append(value)
        self.used += not self._used[slot]
        self._used[slot] = 1
        return slot

    def _place(self, key: int) -> int:
        slot = len(self._keys)
        if slot < SITES:
            self._keys.append(key)
            return slot
        while self._used[self._hand]:
            self._hand = (self._hand + 1) % SITES
        slot, self._hand = self._hand, (self._hand + 1) % SITES
        del self._slots[self._keys[slot]]
        self._keys[slot] = key
        return slot


class PythonReducer:
    """The reduction to read, and to hold the compiled one against."""

    def __init__(self) -> None:
        self._ring, self._tally = Ring(), [0, 0, 0]
        self._start_span()

    @property
    def has_room(self) -> bool:
        """Return whether another window can be added."""
        return SITES - self._ring.used >= WINDOW

    @property
    def listed(self) -> Listed:
        """Return what this chunk lists."""
        return self._ring.listed

    @property
    def count(self) -> int:
        """Return how many sites that is."""
        return len(self._ring.listed[0])

    @property
    def tally(self) -> tuple[int, int, int]:
        """Return the number of fetches, writes and second pages."""
        fetches, writes, seconds = self._tally
        return fetches, writes, seconds

    def next_chunk(self) -> None:
        """Begin another chunk."""
        self._ring.next_chunk()
        self._tally = [0, 0, 0]

    def _start_span(self) -> None:
        self._near, self._tokens, self._counts = array("H"), bytearray(), array("H")
        self._filter = SpanFilter()

    def window(self, gva: Words, kind: Words) -> None:  # noqa: C901, PLR0912 - one loop over all
        """Add a window of accesses."""
        for k, times in Counter(kind).items():
            for i, bit in enumerate((pf.ID, pf.W, SECOND)):
                self._tally[i] += times if k & bit else 0
        near, tokens = len(self._near), len(self._tokens)
        put = self._tokens.append
        recent, written = [-1] * SLOTS, [0] * SETS
        run, current = 0, -1
        for va, k in zip(gva, kind, strict=True):
            page = va >> 12
            at = page & SET_MASK
            if k & SECOND:
                if run:
                    put(RUN + run)
                    run = 0
                put(SECOND_NEXT)
                k &= ~SECOND  # noqa: PLW2901 - the mark is written down
            if k & pf.ID:
                if recent[SETS + at] == page:
                    if at != current:
                        if run:
                            put(RUN + run)
                            run = 0
                        put(FETCH_FROM + at)
                        current = at
                    else:
                        run += 1
                        if run == LONGEST:
                            put(RUN + run)
                            run = 0
                    continue
                recent[SETS + at], current = page, at
            else:
                write = k & pf.W
                if recent[at] == page and (not write or written[at]):
                    put(run * SLOTS + (DATA_WRITE if write else 0) + at)
                    run = 0
                    continue
                written[at] = write or (recent[at] == page and written[at])
                recent[at] = page
            self._near.append(self._ring.site(page << 8 | k, va, k))
            self._filter.add(page, k)
            put(KEPT + run)
            run = 0
        if run:
            put(RUN + run)
        self._counts.extend((len(self._near) - near, len(self._tokens) - tokens))

    def end_span(self) -> Kept:
        """End the span."""
        flags = self._filter.end()
        near, kept = len(self._near), array("H")
        mask, more = bytearray(-(-near // 8)), bytearray()
        for n, (site, own) in enumerate(zip(self._near, flags, strict=True)):
            if own:
                kept.append(site)
                mask[n // 8] |= 1 << n % 8
            else:
                more += site.to_bytes(2, "little")
        counts = b"".join(count.to_bytes(2, "little") for count in self._counts)
        frame = counts + mask + more + self._tokens
        self._start_span()
        return kept, near, frame


class _Page:
    """A page that is one of the most recent ones of its set."""

    __slots__ = ("last", "last_kept", "number", "written")

    def __init__(self, number: int, at: int, *, written: bool) -> None:
        self.number, self.written = number, written
        self.last = self.last_kept = at
        """When it was accessed last, and when by an access that is kept."""


class SpanFilter:
    """Tells which of a span's near accesses are kept: `add` them in order, then `end`."""

    def __init__(self) -> None:
        self._sets: list[list[_Page]] = [[] for _ in range(SLOTS)]
        self._kept = bytearray()

    def add(self, page: int, kind: int) -> None:
        """Add an access."""
        at, write = len(self._kept), bool(kind & pf.W)
        pages = self._sets[(SETS if kind & pf.ID else 0) + (page & SET_MASK)]
        found = next((each for each in pages if each.number == page), None)
        granted = found is not None and write <= found.written
        self._kept.append(not granted)
        if found is None:
            self._keep_order(pages)  # it may take the place of the least recent one
            del pages[WAYS - 1 :]
            found = _Page(page, at, written=write)
        else:
            pages.remove(found)
            found.last = at
            if not granted:
                found.written, found.last_kept = True, at
        pages.insert(0, found)

    def _keep_order(self, pages: list[_Page]) -> None:
        """Keep what it takes to have a set's pages in their order by kept accesses alone.

        The least recent ones that are in order already need nothing, whatever they are touched for.
        """
        first = max(len(pages) - 1, 0)
        while first and pages[first - 1].last_kept > pages[first].last_kept:
            first -= 1
        for page in pages[:first]:
            self._kept[page.last] = 1
            page.last_kept = page.last

    def end(self) -> bytes:
        """Return for each access whether it is kept."""
        for pages in self._sets:
            self._keep_order(pages)
        return bytes(self._kept)
