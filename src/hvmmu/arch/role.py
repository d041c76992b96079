"""Shadow pages: a frame of shadow entries, and the role that makes two of them the same."""

import attrs

from hvmmu.arch.regs import CR0_WP, CR4_PKE, CR4_SMAP, CR4_SMEP, EFER_NXE, Regs


def hides_fetch_bit(regs: Regs) -> bool:
    """Say whether the guest's error codes hide which faults are fetches, though it matters.

    SMAP and protection keys spare fetches, but ID is reported only under NXE or SMEP. Hardware then
    runs with NXE set, so that the hypervisor can tell, and the guest must not see its error codes.
    """
    return bool(regs.cr4 & (CR4_SMAP | CR4_PKE)) and not (
        regs.efer & EFER_NXE or regs.cr4 & CR4_SMEP
    )


@attrs.frozen(cache_hash=True)
class Role:
    """What, beside the guest frame, decides what a shadow page must hold."""

    level: int
    direct: bool
    """Maps a guest large page in smaller pieces: no guest table lies behind it."""
    access: int
    """What the path above allows, in the bits of a kind."""
    nxe: bool
    cr0_wp: bool
    smep_andnot_wp: bool
    smap_andnot_wp: bool
    pke: bool
    bypassable: bool
    """Entries may be left for the guest alone to fault on: hardware's error code is the guest's."""
    pkey: int = 0
    """Of a direct page: the protection key of the large page."""
    dirty: bool = False
    """Of a direct page: the large page's D, without which nothing in it may be writable."""
    user: bool | None = None
    """For the guest's user mode, or for its kernel; None where one page does for both."""


@attrs.frozen
class CpuRole:
    """The part of a role that comes from the guest's control registers."""

    nxe: bool
    cr0_wp: bool
    smep_andnot_wp: bool
    smap_andnot_wp: bool
    pke: bool
    bypassable: bool
    user: bool | None = None

    @classmethod
    def of(cls, regs: Regs, *, user: bool | None = None) -> "CpuRole":
        """Read it from the registers; *user* is the privilege that the page is for, if for one."""
        wp = bool(regs.cr0 & CR0_WP)
        return cls(
            nxe=bool(regs.efer & EFER_NXE),
            cr0_wp=wp,
            smep_andnot_wp=bool(regs.cr4 & CR4_SMEP) and not wp,
            smap_andnot_wp=bool(regs.cr4 & CR4_SMAP) and not wp,
            pke=bool(regs.cr4 & CR4_PKE),
            bypassable=not hides_fetch_bit(regs),
            user=user,
        )

    def role(self, level: int, access: int) -> Role:
        """Complete it to the role of the shadow of a guest table."""
        return self._role(level, access, direct=False, pkey=0, dirty=False)

    def direct(self, level: int, access: int, *, pkey: int, dirty: bool) -> Role:
        """Complete it to the role of a page that maps a guest large page in pieces."""
        return self._role(level, access, direct=True, pkey=pkey, dirty=dirty)

    def _role(self, level: int, access: int, *, direct: bool, pkey: int, dirty: bool) -> Role:
        return Role(
            level,
            direct,
            access,
            self.nxe,
            self.cr0_wp,
            self.smep_andnot_wp,
            self.smap_andnot_wp,
            self.pke,
            self.bypassable,
            pkey,
            dirty,
            self.user,
        )


@attrs.define(eq=False)
class ShadowPage:
    """One shadow table: 512 entries at *hpa* that stand for guest table *gfn* under *role*."""

    gfn: int
    role: Role
    hpa: int
    parents: dict[int, None] = attrs.field(factory=dict)
    """Where the entries that link to this page lie (sptep), oldest first."""
    write_flooding: int = 0
    """Writes to the guest's table since the shadow was last of use."""
    last_written: int | None = None
    """The entry (sptep) that the last emulated write built."""
