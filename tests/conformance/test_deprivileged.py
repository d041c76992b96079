"""The conformance kit on guests that hardware runs as user throughout, in nobody's dialect."""

from typing import Any

from hypothesis import settings

from hvmmu.arch import pfec as pf
from hvmmu.arch.paging import reserved_pattern_works
from hvmmu.arch.regs import CpuFeatures
from hvmmu.backend import Caps, Paging
from hvmmu.engine import FILTER_BITS
from hvmmu.generic import GenericDeprivilegedBackend
from hvmmu.spte import Nonpresent
from hvmmu.testing import BackendConformance

TRAP = 0xFFFF_FFFF_FFFF_F001


class Plain(GenericDeprivilegedBackend):
    """All page faults exit."""

    name = "plain"
    summary = "for tests"


class Filtering(GenericDeprivilegedBackend):
    """Those that are not present do not, where unbuilt entries can be told from them."""

    name = "filtering"
    summary = "for tests"
    caps = Caps(Paging.SHADOW, filters_page_faults=True, deprivileged=True)

    def __init__(self, params: Any, cpu: CpuFeatures, explicit: frozenset[str]) -> None:  # noqa: ANN401
        """Look whether the CPU can do it."""
        super().__init__(params, cpu, explicit)
        self._filters = reserved_pattern_works(TRAP, cpu)

    def page_faults(self) -> int:
        """Return those with P, or all."""
        present = sum(1 << pfec for pfec in range(FILTER_BITS) if pfec & pf.P)
        return present if self._filters else super().page_faults()

    def nonpresent(self) -> Nonpresent:
        """Return the values that go with that."""
        return Nonpresent(trap=TRAP) if self._filters else Nonpresent()


class TestPlain(BackendConformance):
    """Every rule that a backend must keep."""

    backend = Plain
    examples = settings.default.max_examples


class TestFiltering(BackendConformance):
    """Every rule that a backend must keep."""

    backend = Filtering
    examples = settings.default.max_examples
