"""The MMU's own module parameters, section ``mmu``."""

from attrs import frozen

from hvmmu.params import param


@frozen
class MmuParams:
    """Which MMU there is, and how the shadow MMU keeps its tables."""

    type: str = param(
        default="shadow",
        doc="the MMU that backs the vCPU (see `hvmmu mmus`); what follows is the shadow MMU's",
        silent_default=True,
    )

    update_on_write: bool = param(
        default=True,
        doc="build the shadow entry while emulating a page-table write, if the guest's entry is"
        " present and accessed",
    )
    large_pages: bool = param(default=True, doc="map a guest's 2 MiB page by one shadow entry")
    flood_threshold: int = param(
        default=3,
        doc="page-table writes in a row, unused in between, that zap a shadow page; 0: never",
        least=0,
        most=1 << 20,
    )
    prefetch: int = param(
        default=0,
        doc="entries of one aligned group that a fault builds together, where the guest's are"
        " accessed; 0: only the one that faulted",
        least=0,
        most=8,
    )
    shadow_pages: int = param(
        default=65536,
        doc="shadow pages kept at most; beyond it the oldest is zapped",
        least=8,
        most=(1 << 18) - 1,
    )
