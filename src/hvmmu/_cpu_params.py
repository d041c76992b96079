"""The CPU model's parameters, section ``cpu``: the same for every backend of a comparison."""

from attrs import frozen

from hvmmu.arch.regs import CpuFeatures
from hvmmu.params import param


@frozen(eq=False)
class CpuParams:
    """What the CPU offers."""

    maxphyaddr: int = param(
        default=46,
        doc="physical-address bits; the bits above are reserved in every entry",
        least=36,
        most=52,
    )
    nx: bool = param(default=True, doc="no-execute pages; without them SMEP, SMAP, PKU are off too")
    gbpages: bool = param(default=True, doc="1 GiB pages")
    amd_reserved: bool = param(
        default=False, doc="bit 8 of upper entries must be zero, as AMD has it; Intel ignores it"
    )

    @property
    def features(self) -> CpuFeatures:
        """Return the CPU model.

        No CPU has SMAP or protection keys but not NX, and without NX nobody could tell a fetch that
        they spare from a read that they forbid.
        """
        return CpuFeatures(
            maxphyaddr=self.maxphyaddr,
            nx=self.nx,
            gbpages=self.gbpages,
            smep=self.nx,
            smap=self.nx,
            pku=self.nx,
            mbz_bit8=self.amd_reserved,
        )
