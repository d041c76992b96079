"""The MMU that comes with hvmmu, which is the default."""

from typing import ClassVar

from hvmmu._core.shadow_mmu import ShadowMmu, ShadowVm
from hvmmu.mmu import Mmu, MmuHost


class SingleVcpuShadowMmu(ShadowMmu):
    """The shadow MMU of a machine with one vCPU."""

    name: ClassVar[str] = "shadow"
    summary: ClassVar[str] = "shadow pages that follow the guest's write-protected tables, as KVM's"

    def __init__(self, host: MmuHost) -> None:
        compiled = host.engine.caps.fast_path
        vm = ShadowVm(
            host.slots,
            host.nonpresent,
            host.settings["mmu"],
            end_frame=host.frames.end,
            deprivileged=host.deprivileged,
            write=None if compiled else host.engine.write_pte,
        )
        super().__init__(vm, host.cpu)


MMUS: tuple[type[Mmu], ...] = (SingleVcpuShadowMmu,)
DEFAULT = MMUS[0]
