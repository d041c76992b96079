"""The flush that a table update owes: to be performed, or forgone with a reason."""

import warnings
from collections.abc import Callable
from typing import Self

from hvmmu.tlb import SCOPES, Scope

Sink = Callable[[Scope, int], None]
"""Takes the scope of a flush and, for one page, its address."""

Part = tuple[Scope | None, int]
"""A scope, None for nothing, and the address it is about if it is one page."""


def widest(one: Part, other: Part) -> Part:
    """Return the least flush that does for both; two different pages take everything."""
    if one[0] is Scope.PAGE is other[0] and one[1] != other[1]:
        return Scope.ALL, 0
    return max(one, other, key=lambda part: SCOPES.index(part[0]))


class Flush:
    """What must leave the TLB after an update; dropping it undone emits ResourceWarning."""

    __slots__ = ("_owed", "_scope", "gva")

    def __init__(self, scope: Scope | None, gva: int = 0) -> None:
        self._scope = scope
        self.gva = gva
        self._owed = scope is not None

    @classmethod
    def nothing(cls) -> Self:
        """Return a flush that asks for nothing, as after an upgrade."""
        return cls(None)

    @property
    def scope(self) -> Scope | None:
        """What is to be dropped, None for nothing."""
        return self._scope

    def merge(self, other: Self) -> Self:
        """Return one flush that does for both; both count as done."""
        self._owed = other._owed = False
        return type(self)(*widest((self._scope, self.gva), (other._scope, other.gva)))

    def perform(self, sink: Sink) -> None:
        """Hand the flush to whoever can do it."""
        self._owed = False
        if self._scope is not None:
            sink(self._scope, self.gva)

    def forgo(self, reason: str) -> None:
        """Do without, because of *reason*, which a reader of the code must be able to check."""
        if not reason:
            raise ValueError("a flush is forgone for a reason")
        self._owed = False

    def __del__(self) -> None:
        """Warn if the flush was owed and forgotten."""
        if self._owed:
            warnings.warn(
                f"a flush of {self._scope} was neither performed nor forgone",
                ResourceWarning,
                stacklevel=1,
            )
