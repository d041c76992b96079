"""A virtual TLB as an MMU of hvmmu."""

from collections.abc import Iterable, Mapping

from hvmmu.hookspecs import hookimpl
from hvmmu.mmu import Mmu
from hvmmu_vtlb.mmu import VtlbMmu, VtlbParams


@hookimpl
def hvmmu_mmus() -> Iterable[type[Mmu]]:
    """Offer the virtual TLB."""
    return (VtlbMmu,)


@hookimpl
def hvmmu_parameters() -> Mapping[str, type]:
    """Offer its section of the configuration."""
    return {VtlbMmu.name: VtlbParams}
