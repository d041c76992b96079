"""A backend as somebody else would write it: right, and small."""

from __future__ import annotations

from typing import TYPE_CHECKING, ClassVar

import attrs
import pytest
import structlog

from hvmmu.arch import pfec as pf
from hvmmu.arch.paging import reserved_pattern_works
from hvmmu.backend import Caps, Paging
from hvmmu.engine import EXIT_ALWAYS, FILTER_BITS
from hvmmu.errors import BackendUnavailableError
from hvmmu.generic import GenericBackend
from hvmmu.params import param
from hvmmu.spte import Nonpresent

if TYPE_CHECKING:
    from hvmmu.arch.regs import CpuFeatures

PRESENT = sum(1 << code for code in range(FILTER_BITS) if code & pf.P)
TRAP = 0xFFFF_FFFF_FFFF_F001


@attrs.frozen
class AcmeParams:
    """Parameters of two kinds."""

    filter_faults: bool = param(default=True, doc="let hardware deliver the guest's own faults")
    depth: int = param(default=2, doc="how deep, of no effect", least=1, most=4)


class AcmeBackend(GenericBackend):
    """Hardware that can filter page faults by P."""

    name: ClassVar[str] = "acme"
    summary: ClassVar[str] = "Acme: page faults filtered by P"
    caps: ClassVar[Caps] = Caps(Paging.SHADOW, filters_page_faults=True)
    params: ClassVar[type] = AcmeParams
    compare_params: ClassVar[tuple[str, ...]] = ("filter_faults",)
    trap: ClassVar[int] = TRAP
    filter: ClassVar[int] = PRESENT

    def __init__(self, params: AcmeParams, cpu: CpuFeatures, explicit: frozenset[str]) -> None:
        """Turn the filter off where no bit is reserved."""
        super().__init__(params, cpu, explicit)
        if not params.filter_faults or reserved_pattern_works(TRAP, cpu):
            return
        if "filter_faults" in explicit:
            raise BackendUnavailableError("acme.filter_faults=1: no bit of an entry is reserved")
        self.effective = attrs.evolve(params, filter_faults=False)
        structlog.get_logger().warning("filter_faults_turned_off")

    def page_faults(self) -> int:
        """Return which page faults exit."""
        return self.filter if self.effective.filter_faults else EXIT_ALWAYS

    def nonpresent(self) -> Nonpresent:
        """Return entries that map nothing."""
        return Nonpresent(self.trap, 0) if self.effective.filter_faults else Nonpresent()


@pytest.fixture(scope="session")
def acme() -> type[AcmeBackend]:
    """Return the backend."""
    return AcmeBackend
