"""The TLB against a model of it that counts time instead of keeping order."""

from __future__ import annotations

from itertools import count
from typing import TYPE_CHECKING

import attrs
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, precondition, rule

from hvmmu.errors import InvariantError
from hvmmu.spec.tlb import SHIFTS, Tlb, TlbEntry, tag_of
from hvmmu.tlb import Geometry, Scope, TlbGeometry

if TYPE_CHECKING:
    from collections.abc import Callable

INSTRUCTION, DATA, SECOND = Geometry(1, 2), Geometry(2, 2), Geometry(2, 3)
ADDRESSES = st.sampled_from([*range(0, 0xC000, 0x1000), 0x20_0000, 0x40_0000, 0x4000_0000])
SIZES = st.sampled_from([0, 0, 0, 1, 2])


def entry_for(va: int, size: int, *, is_global: bool = False) -> TlbEntry:
    """Make an entry that translates *va* to itself, all allowed."""
    mask = (1 << SHIFTS[size]) - 1
    tag = tag_of(va, size)
    return TlbEntry(
        tag, va & ~mask, mask=mask, access=0x16, pkey=0, dirty=True, is_global=is_global
    )


@attrs.define
class Level:
    """One level of the model: who is in it, when each was last used, and which are global.

    A page may be global in one level and not in another, if its entry changed in between.
    """

    geometry: Geometry
    used: dict[int, int] = attrs.field(factory=dict)
    globals: set[int] = attrs.field(factory=set)

    def insert(self, tag: int, now: int, *, is_global: bool) -> None:
        """Put *tag* in, in place of the one of its set that was used longest ago."""
        mates = [other for other in self.used if self.set_of(other) == self.set_of(tag)]
        if tag not in self.used and len(mates) == self.geometry.ways:
            del self.used[min(mates, key=self.used.__getitem__)]
        self.used[tag] = now
        self.globals.discard(tag)
        self.globals |= {tag} if is_global else set()

    def set_of(self, tag: int) -> int:
        """Return which set *tag* belongs in: the low bits of its page number."""
        return (tag >> 2) % self.geometry.sets


class TlbAgainstModel(RuleBasedStateMachine):
    """Do anything that an engine does, and compare who is where after each step."""

    def __init__(self) -> None:
        super().__init__()
        self.tlb = Tlb(TlbGeometry(INSTRUCTION, DATA, SECOND))
        self.first = [Level(DATA), Level(INSTRUCTION)]
        self.second = Level(SECOND)
        self.levels = (*self.first, self.second)
        self.clock = count()
        self.fills = [0, 0]
        self.walks = 0

    @rule(va=ADDRESSES, size=SIZES, fetch=st.booleans(), is_global=st.booleans())
    def access(self, va: int, size: int, fetch: bool, is_global: bool) -> None:
        """Look *va* up, and fill it after a miss, as an engine does."""
        now, first = next(self.clock), self.first[fetch]
        tags = [tag_of(va, one) for one in range(3)]
        levels = (first, self.second)
        hit = next((tag for level in levels for tag in tags if tag in level.used), None)
        found = self.tlb.find(va, fetch=fetch)
        assert (found and found.tag) == hit
        if hit is not None and hit in first.used:
            first.used[hit] = now
            return
        if hit is None:
            hit = tag_of(va, size)
            self.tlb.fill(va, entry_for(va, size, is_global=is_global), fetch=fetch)
            self.second.insert(hit, now, is_global=is_global)
            self.walks += 1
        self.second.used[hit] = now
        first.insert(hit, now, is_global=hit in self.second.globals)
        self.fills[not fetch] += 1

    @precondition(lambda self: self.walks)
    @rule(va=ADDRESSES)
    def invlpg(self, va: int) -> None:
        """Drop one page."""
        self.tlb.flush(Scope.PAGE, va)
        self.keep(lambda _, tag: tag not in [tag_of(va, size) for size in range(3)])

    @precondition(lambda self: self.walks)
    @rule()
    def load_cr3(self) -> None:
        """Drop what is not global."""
        self.tlb.flush(Scope.NON_GLOBAL)
        self.keep(lambda level, tag: tag in level.globals)

    @precondition(lambda self: self.walks > 8)
    @rule()
    def flush_all(self) -> None:
        """Drop everything."""
        self.tlb.flush(Scope.ALL)
        self.keep(lambda *_: False)

    def keep(self, wanted: Callable[[Level, int], bool]) -> None:
        """Drop from the model what is not wanted."""
        for level in self.levels:
            level.used = {tag: at for tag, at in level.used.items() if wanted(level, tag)}

    @invariant()
    def same(self) -> None:
        """Compare the contents of each level, and the counters."""
        levels = [(self.tlb.data, self.first[0]), (self.tlb.instruction, self.first[1])]
        for sets, model in [*levels, (self.tlb._second, self.second)]:
            for at, ways in enumerate(sets):
                assert len(ways) <= model.geometry.ways
                mates = [tag for tag in model.used if model.set_of(tag) == at]
                latest_first = sorted(mates, key=model.used.__getitem__, reverse=True)
                assert [entry.tag for entry in ways] == latest_first
        assert self.tlb.first_misses == self.fills
        assert self.tlb.second_misses == self.walks
        tags = sorted(tag for level in self.levels for tag in level.used)
        assert sorted(entry.tag for entry in self.tlb.entries()) == tags


class TestTlbAgainstModel(TlbAgainstModel.TestCase):
    """If wrong, the TLB keeps or forgets other pages than one with true LRU would."""


def test_an_entry_is_the_same_in_both_levels() -> None:
    """If wrong, a page refreshed in one level is stale in the other."""
    tlb = Tlb(TlbGeometry(INSTRUCTION, DATA, SECOND))
    entry = entry_for(0x1000, 0)
    tlb.fill(0x1000, entry, fetch=False)
    assert tlb.find(0x1234, fetch=False) is entry
    assert tlb.find(0x1000, fetch=True) is entry
    assert [id(one) for one in tlb.entries()] == [id(entry)] * 3


def test_a_page_in_the_second_level_serves_the_first() -> None:
    """If wrong, a page that only the first level has lost costs a walk."""
    tlb = Tlb(TlbGeometry(INSTRUCTION, DATA, SECOND))
    for va in (0x1000, 0x3000, 0x5000):  # the same data set, of two ways
        tlb.fill(va, entry_for(va, 0), fetch=False)
    assert (tlb.first_misses, tlb.second_misses) == ([0, 3], 3)
    assert tlb.find(0x1000, fetch=False) is not None
    assert (tlb.first_misses, tlb.second_misses) == ([0, 4], 3)


def test_a_miss_changes_nothing() -> None:
    """If wrong, looking for a page that is not there makes another one leave earlier."""
    tlb = Tlb(TlbGeometry(INSTRUCTION, DATA, SECOND))
    tlb.fill(0x1000, entry_for(0x1000, 0), fetch=False)
    assert tlb.find(0x2000, fetch=False) is None
    assert tlb.first_misses == [0, 1]
    assert [entry.tag for entry in tlb.entries()] == [0x1 << 2, 0x1 << 2]


def test_an_entry_must_be_for_its_address() -> None:
    """If wrong, a translation is cached where nobody, or somebody else, will find it."""
    tlb = Tlb(TlbGeometry())
    with pytest.raises(InvariantError, match="0x2000 carries another page's tag"):
        tlb.fill(0x2000, entry_for(0x1000, 0), fetch=False)


@given(va=st.integers(0, (1 << 64) - 1), other=st.integers(0, (1 << 64) - 1), size=SIZES)
def test_tags(va: int, other: int, size: int) -> None:
    """If wrong, two pages share a tag, or one page has two."""
    same = va >> SHIFTS[size] == other >> SHIFTS[size]
    assert (tag_of(va, size) == tag_of(other, size)) is same
    assert tag_of(va, size) & 3 == size


def test_the_default_geometry() -> None:
    """If wrong, numbers in the docs are of another TLB; each set count must be a power of two."""
    geometry = TlbGeometry()
    levels = (geometry.instruction, geometry.data, geometry.second)
    assert [level.sets * level.ways for level in levels] == [64, 64, 1536]
    assert all(level.sets & (level.sets - 1) == 0 for level in levels)
