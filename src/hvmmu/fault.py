"""One page fault as a value, and what became of it; no vendor's word in either.

The routes are those of KVM's RET_PF_* and NOVA's vTLB results.
"""

import enum
from typing import NamedTuple

import attrs

from hvmmu.arch import pfec as pf
from hvmmu.arch.regs import CR4_SMAP, Regs


@attrs.frozen
class PageFault:
    """A page fault as the hypervisor reads it from an exit."""

    gva: int
    """The address accessed."""
    pfec: int
    """Hardware's error code, which describes the shadow tables, not the guest's."""

    @property
    def kind(self) -> int:
        """The access, in the bits of a kind: W, U, ID (the latter only if hardware reports it)."""
        return self.pfec & pf.KIND


class Route(enum.Enum):
    """Who handled a fault, and how."""

    BYPASS = "bypass"
    """Delivered to the guest by hardware; no exit."""
    INJECT = "inject"
    """The guest's own fault, reflected into it by the hypervisor."""
    INSTALL = "install"
    """A shadow entry was built."""
    ACCESSED_DIRTY = "accessed/dirty"
    """The guest's dirty bit was set, and the shadow entry made writable."""
    EMULATE = "emulate"
    """The access was completed in software, as a write to a page table is."""
    MMIO = "mmio"
    """The guest's entry leads to no memory; the access was completed in software."""
    SPURIOUS = "spurious"
    """The shadow entry already allowed the access."""


class Cause(enum.Enum):
    """Why the fault arose: first those the guest's tables give, then those the shadow gives."""

    NOT_PRESENT = "not present"
    RESERVED = "reserved bit"
    READ_ONLY = "read-only"
    SUPERVISOR_PAGE = "supervisor page"
    NO_EXECUTE = "no-execute"
    SMEP = "SMEP"
    SMAP = "SMAP"
    PROTECTION_KEY = "protection key"
    UNBUILT = "shadow entry not built"
    DIRTY = "dirty bit clear"
    TABLE_WRITE = "page-table write"
    WRITE_PROTECT_OFF = "CR0.WP clear"
    NO_MEMORY = "no memory there"
    STALE = "stale translation"


@attrs.frozen
class FaultOutcome:
    """What became of a fault: a row of the ledger, and where the access lands."""

    route: Route
    cause: Cause
    pfec: int
    """The guest's error code where the fault is the guest's, else the hardware's."""
    level: int
    """Level of the entry that decided."""
    gpa: int = 0
    """Guest-physical address of the access, where the guest's tables give one."""
    walk_refs: int = attrs.field(default=0, eq=False)
    """Entries of the guest's tables that the hypervisor read to find out."""


class PathStep(NamedTuple):
    """One entry that a walk has met."""

    address: int
    """Address of the entry in bytes: guest-physical in the guest's tables, else host-physical."""
    entry: int
    """The 64-bit entry."""
    access: int
    """Permissions of the path, this entry included, in the bits of a kind."""


@attrs.frozen(eq=False)
class FaultRecord:
    """One page fault, its fields in the order in which they become known."""

    gva: int
    pfec: int
    """Hardware's error code, as the hypervisor reads it."""
    stored: int | None
    """The value that the access stores; None if it stores none or the value is unknown."""
    outcome: FaultOutcome
    guest_path: tuple[PathStep, ...]
    """The guest's entries on the way, the root's first; empty where no walk was made."""
    shadow_path: tuple[PathStep, ...]
    """The shadow entries on the way as hardware met them, the root's first; empty likewise."""


def guest_fault_cause(pfec: int, access: int, kind: int, regs: Regs) -> Cause:
    """Name the rule of the guest's tables that a fault of the guest's broke: SDM "Access Rights".

    *access* is what the path allowed up to the entry that faulted, in the bits of a kind.
    """
    if not pfec & pf.P:
        return Cause.NOT_PRESENT
    if pfec & pf.RSVD:
        return Cause.RESERVED
    if pfec & pf.PK:
        return Cause.PROTECTION_KEY
    if kind & pf.ID and not access & pf.ID:
        return Cause.NO_EXECUTE
    if kind & pf.U:
        return Cause.READ_ONLY if access & pf.U else Cause.SUPERVISOR_PAGE
    if access & pf.U and kind & pf.ID:
        return Cause.SMEP
    if access & pf.U and regs.cr4 & CR4_SMAP and not regs.rflags_ac:
        return Cause.SMAP
    return Cause.READ_ONLY
