"""Control-register and MSR bits, and what a CPU model offers."""

from attrs import frozen

CR0_PE = 1 << 0
CR0_WP = 1 << 16
CR0_PG = 1 << 31

CR4_PSE = 1 << 4
CR4_PAE = 1 << 5
CR4_PGE = 1 << 7
CR4_LA57 = 1 << 12
CR4_SMEP = 1 << 20
CR4_SMAP = 1 << 21
CR4_PKE = 1 << 22

EFER_LME = 1 << 8
EFER_LMA = 1 << 10
EFER_NXE = 1 << 11


@frozen
class CpuFeatures:
    """What the CPU offers, the same to every backend of a comparison: CPUID as data."""

    maxphyaddr: int = 46
    """Physical-address bits, 36 to 52; bits above are reserved in every entry."""
    nx: bool = True
    gbpages: bool = True
    """1 GiB leaves (CPUID PDPE1GB)."""
    smep: bool = True
    smap: bool = True
    pku: bool = True
    mbz_bit8: bool = False
    """Bit 8 of a PML4E or PML5E must be zero, as AMD has it; Intel ignores it."""

    def cr4_allowed(self) -> int:
        """Return the CR4 bits a guest may set on this CPU (a reserved one would be #GP)."""
        offered = ((self.smep, CR4_SMEP), (self.smap, CR4_SMAP), (self.pku, CR4_PKE))
        return CR4_PSE | CR4_PAE | CR4_PGE | sum(bit for has, bit in offered if has)


@frozen
class Regs:
    """The registers a page walk reads, as plain integers."""

    cr0: int = 0
    cr3: int = 0
    cr4: int = 0
    efer: int = 0
    pkru: int = 0
    rflags_ac: int = 0
    """EFLAGS.AC: 1 suspends SMAP for explicit supervisor data accesses."""
