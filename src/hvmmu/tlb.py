"""The sizes of a TLB, and what a flush drops from it."""

import enum
from typing import NamedTuple


class Scope(enum.Enum):
    """What a flush drops: SDM "Operations that Invalidate TLBs and Paging-Structure Caches"."""

    PAGE = "page"
    """Every entry for one linear address, global or not: INVLPG."""
    NON_GLOBAL = "non-global"
    """All entries but global ones: a write to CR3."""
    ALL = "all"


SCOPES = (None, Scope.PAGE, Scope.NON_GLOBAL, Scope.ALL)
"""The narrowest first, None being nothing: a scope's place is its number in C."""


class Geometry(NamedTuple):
    """Sets and ways of one TLB level; the number of sets is a power of two."""

    sets: int
    ways: int


class TlbGeometry(NamedTuple):
    """The sizes of a whole TLB, in entries."""

    instruction: Geometry = Geometry(16, 4)
    data: Geometry = Geometry(16, 4)
    second: Geometry = Geometry(128, 12)

    @property
    def lru_sets(self) -> int:
        """The sets of the first level that has fewer, as `EngineCaps.lru_sets` has it."""
        return min(self.instruction.sets, self.data.sets)

    @property
    def lru_ways(self) -> int:
        """The ways of the first level that has fewer, as `EngineCaps.lru_ways` has it."""
        return min(self.instruction.ways, self.data.ways)
