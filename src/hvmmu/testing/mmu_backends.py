"""The backends under which an MMU is tested: with and without filter, privileged or not."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, ClassVar

import attrs

from hvmmu.arch import pfec as pf
from hvmmu.arch.paging import reserved_pattern_works
from hvmmu.backend import Caps, Paging
from hvmmu.engine import EXIT_ALWAYS, FILTER_BITS
from hvmmu.generic import GenericBackend, GenericDeprivilegedBackend
from hvmmu.params import param
from hvmmu.spte import Nonpresent

if TYPE_CHECKING:
    from hvmmu.arch.regs import CpuFeatures
    from hvmmu.backend import Backend

TRAP = 0xFFFF_FFFF_FFFF_F001
"""Present, with reserved bits set."""
_PRESENT = sum(1 << pfec for pfec in range(FILTER_BITS) if pfec & pf.P)


@attrs.frozen
class HostParams:
    """Parameters of either."""

    filtering: bool = param(default=True, doc="only page faults with P in the error code exit")


class _Filtering(GenericBackend):
    """All page faults exit, or only those on entries that are present."""

    params: ClassVar[type] = HostParams

    def __init__(self, params: HostParams, cpu: CpuFeatures, explicit: frozenset[str]) -> None:
        """Turn the filter off where no bit of an entry is reserved."""
        super().__init__(params, cpu, explicit)
        if params.filtering and not reserved_pattern_works(TRAP, cpu):
            self.do_without("filtering", explicit, "no bit of an entry is reserved")

    def page_faults(self) -> int:
        """Return those with P, or all."""
        return _PRESENT if self.effective.filtering else EXIT_ALWAYS

    def nonpresent(self) -> Nonpresent:
        """Return the values that go with that."""
        return Nonpresent(trap=TRAP) if self.effective.filtering else Nonpresent()


class PrivilegedHost(_Filtering):
    """Hardware that distinguishes the guest's supervisor from its user."""

    name: ClassVar[str] = "host"
    summary: ClassVar[str] = "for tests of an MMU"
    caps: ClassVar[Caps] = Caps(Paging.SHADOW, filters_page_faults=True)


class DeprivilegedHost(_Filtering, GenericDeprivilegedBackend):
    """Hardware that runs all of the guest as user."""

    name: ClassVar[str] = "deprivileged-host"
    summary: ClassVar[str] = "for tests of an MMU with two roots"
    caps: ClassVar[Caps] = Caps(Paging.SHADOW, filters_page_faults=True, deprivileged=True)


MMU_BACKENDS: tuple[type[Backend[Any]], ...] = (PrivilegedHost, DeprivilegedHost)
