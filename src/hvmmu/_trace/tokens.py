"""How the accesses are written down that a reduction leaves out, and how they are put back.

A token is one byte. It stands for up to seven fetches that were dropped, all from the page last
fetched from, and for what comes after them: a dropped data access, a near access, or nothing. A
near access is one that its window's own filter keeps.

A span is up to eight windows. Its frame holds, in this order: by window, how many accesses are near
and how many tokens there are (u16 each); a bit for each near access, set if the span's filter keeps
it too; the sites of the others (u16); the tokens.
"""

from __future__ import annotations

from array import array
from itertools import accumulate
from typing import TYPE_CHECKING, NamedTuple, TypeAlias

from hvmmu.arch import pfec as pf
from hvmmu.steps import SITES

if TYPE_CHECKING:
    from collections.abc import Sequence

    from hvmmu.steps import Words

WINDOW = 4096
"""Accesses in a window: its filter knows nothing of those before it."""
SPAN_WINDOWS = 8
"""Windows in a span, at most."""
MOST_FRAME = 4 * SPAN_WINDOWS + SPAN_WINDOWS * WINDOW // 8 + 4 * SPAN_WINDOWS * WINDOW
"""Bytes of a frame, at most: all accesses near, and two tokens for each."""
SETS = 16
"""Sets of the filters, for instructions and for data."""
WAYS = 4
"""Pages in a set of the span's filter: the reduction is exact from so many ways up."""

FETCH, READ, WRITE = pf.U | pf.ID, pf.U, pf.U | pf.W
KINDS = (READ, WRITE, FETCH)
SECOND = 0x80
"""Set in a kind: the second page of the reference before it."""

SET_MASK = SETS - 1
DATA_WRITE, SLOTS = SETS, 2 * SETS
LONGEST = 7
KEPT = LONGEST * SLOTS
RUN = KEPT + LONGEST
SECOND_NEXT = RUN + LONGEST + 1
FETCH_FROM = SECOND_NEXT + 1
assert FETCH_FROM + SETS == 256  # the tokens fill a byte

MESSAGES = (
    "",
    "a fetch repeats none",
    "a data access repeats none",
    "more accesses are kept than there are",
    "a window has too many accesses",
    "a window has too few accesses",
    "the frame of a span does not hold what it tells",
    "an access is of a page that is not listed",
    "a window keeps no access",
)
"""What can be wrong with a span, in the order of tokens.c."""
(_, NO_FETCH, NO_DATA, TOO_MANY_KEPT, TOO_MANY, TOO_FEW, BAD_FRAME, NOT_LISTED, KEEPS_NONE) = (
    MESSAGES
)


class DamagedError(Exception):
    """Columns that no reduction made; the message says what is wrong with them."""


class Sites(NamedTuple):
    """The distinct pairs of page and kind: room for as many as there may ever be, zero if unused.

    *gva* has the address of the first such access.
    """

    gva: array[int]
    kind: bytearray


def no_sites() -> Sites:
    """Return room for sites, none of them listed."""
    return Sites(array("Q", bytes(8 * SITES)), bytearray(SITES))


class Columns(NamedTuple):
    """What a span's frame holds."""

    near: array[int]
    """The near accesses, each the index of its site; format H."""
    near_ends: array[int]
    """Where among them each window starts, and where the last one ends; format I."""
    token_ends: array[int]
    """The same among the tokens."""
    tokens: bytes


Window: TypeAlias = "tuple[array[int], array[int], int]"
"""Addresses and kinds of all accesses, and the place of one near access among them."""


def python_open(frame: bytes, windows: int, kept: Words, sites: Sites) -> Columns:
    """Return what *frame* holds of a span of which *kept* are kept; raise DamagedError."""
    at = 4 * windows
    if len(frame) < at:
        raise DamagedError(BAD_FRAME)
    counts = _numbers(frame[:at])
    if not all(0 < count <= WINDOW for count in counts[::2]):
        raise DamagedError(KEEPS_NONE)
    near_ends = array("I", accumulate(counts[::2], initial=0))
    token_ends = array("I", accumulate(counts[1::2], initial=0))
    total = near_ends[-1]
    more = at + (total + 7) // 8
    tokens = more + 2 * (total - len(kept))
    if len(kept) > total or len(frame) != tokens + token_ends[-1]:
        raise DamagedError(BAD_FRAME)
    own, others = iter(kept), iter(_numbers(frame[more:tokens]))
    mask = int.from_bytes(frame[at:more], "little")
    near = array("H")
    for n in range(total):
        site = next(own if mask >> n & 1 else others, None)
        if site is None:
            raise DamagedError(BAD_FRAME)
        if not sites.kind[site]:
            raise DamagedError(NOT_LISTED)
        near.append(site)
    return Columns(near, near_ends, token_ends, frame[tokens:])


def near_of(frame: bytes, windows: int, nth: int) -> int:
    """Return which of the near accesses the *nth* is that the span's filter keeps."""
    mask, at = int.from_bytes(frame[4 * windows :], "little"), -1
    for _ in range(nth + 1):
        at += 1
        while not mask >> at & 1:
            at += 1
    return at


def python_expand(  # noqa: C901, PLR0912 - one loop, a branch for each kind of token
    tokens: Sequence[int], near: Sequence[int], sites: Sites, room: int, *, first: int, mark: int
) -> Window:
    """Return a window's accesses: addresses, kinds, and where near one *first* is among them.

    *near* are the window's, *room* is how many there must be. A dropped access gets the address
    of the near one it repeats, a second page's kind gets *mark* set. Raise DamagedError.
    """
    out_gva, out_kind = array("Q"), array("B")
    recent: list[int | None] = [None] * SLOTS
    current, second, following, place = -1, 0, 0, 0
    for token in tokens:
        if token == SECOND_NEXT:
            second = mark
            continue
        if token < KEPT:
            run = token // SLOTS
        elif token < FETCH_FROM:
            run = token - (KEPT if token < RUN else RUN)
        else:
            run, current = 1, token - FETCH_FROM
        if run + (token < RUN) > room - len(out_gva):
            raise DamagedError(TOO_MANY)
        if run:
            again = None if current < 0 else recent[SETS + current]
            if again is None:
                raise DamagedError(NO_FETCH)
            out_gva.extend([again] * run)
            out_kind.extend([FETCH | second] + [FETCH] * (run - 1))
            second = 0
        if token < KEPT:
            again = recent[token & SET_MASK]
            if again is None:
                raise DamagedError(NO_DATA)
            out_gva.append(again)
            out_kind.append((WRITE if token & DATA_WRITE else READ) | second)
        elif token < RUN:
            if following == len(near):
                raise DamagedError(TOO_MANY_KEPT)
            va, k = sites.gva[near[following]], sites.kind[near[following]]
            slot = va >> 12 & SET_MASK
            if k & pf.ID:
                slot, current = slot + SETS, slot
            recent[slot] = va
            if following == first:
                place = len(out_gva)
            following += 1
            out_gva.append(va)
            out_kind.append(k | second)
        if token < RUN:
            second = 0
    if following != len(near) or len(out_gva) != room:
        raise DamagedError(TOO_FEW)
    return out_gva, out_kind, place


def _numbers(column: bytes) -> list[int]:
    """Return little-endian numbers of 16 bits."""
    return [low | high << 8 for low, high in zip(column[::2], column[1::2], strict=True)]
