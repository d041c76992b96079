"""The Xen backend: hardware that cannot filter page faults, and shadow entries that say why.

Every page fault exits. What the magic entry saves is the handler's walk of the guest's tables.
"""

from typing import ClassVar

import attrs

from hvmmu.arch.paging import reserved_pattern_works
from hvmmu.arch.regs import CpuFeatures
from hvmmu.generic import GenericBackend
from hvmmu.params import param
from hvmmu.spte import Nonpresent

MAGIC = 0xFFFF_FFFF_FFFF_FFFF
"""Guest not present: all ones, of which some are reserved unless MAXPHYADDR is 52 with NX."""


@attrs.frozen
class XenParams:
    """Parameters, after Xen's compile-time option SHOPT_FAST_FAULT_PATH."""

    fast_fault_path: bool = param(
        default=True, doc="inject the guest's not-present page faults without walking its tables"
    )


class XenBackend(GenericBackend):
    """Xen's shadow paging, as it runs on AMD and Intel alike."""

    name: ClassVar[str] = "xen"
    summary: ClassVar[str] = "Xen: every page fault exits, the guest's own are known by their code"
    params: ClassVar[type] = XenParams
    compare_params: ClassVar[tuple[str, ...]] = ("fast_fault_path",)

    def __init__(self, params: XenParams, cpu: CpuFeatures, explicit: frozenset[str]) -> None:
        """Refuse the fast path, or turn it off, where no bit of an entry is reserved."""
        super().__init__(params, cpu, explicit)
        if params.fast_fault_path and not reserved_pattern_works(MAGIC, cpu):
            why = f"with MAXPHYADDR {cpu.maxphyaddr} and NX a magic entry would be a valid mapping"
            self.do_without("fast_fault_path", explicit, why)

    def nonpresent(self) -> Nonpresent:
        """Return magic for what the guest must handle, and not present for what is not built."""
        return Nonpresent(trap=0, notrap=MAGIC) if self.effective.fast_fault_path else Nonpresent()
