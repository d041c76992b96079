"""The shadow MMU: routes each fault, builds shadow entries, keeps them true to the guest's tables.

A fault is first walked through the guest's own tables, in software and with the guest's registers.
Either the guest's tables forbid the access, and the fault is the guest's; or they allow it, and the
shadow is brought up to them, along the same path.
"""

import attrs

from hvmmu._core.py_pages import LARGE_FRAMES, ShadowPages
from hvmmu._mmu_params import MmuParams
from hvmmu.arch import pfec as pf
from hvmmu.arch import pte
from hvmmu.arch.paging import LONG4, Formats, formats, mode_of
from hvmmu.arch.regs import (
    CR0_WP,
    CR4_PGE,
    CR4_PKE,
    CR4_SMAP,
    CR4_SMEP,
    EFER_NXE,
    CpuFeatures,
    Regs,
)
from hvmmu.arch.role import CpuRole, Role, ShadowPage, hides_fetch_bit
from hvmmu.errors import BackendUnavailableError, InvariantError
from hvmmu.fault import Cause, FaultOutcome, PageFault, Route, guest_fault_cause
from hvmmu.flush import Flush
from hvmmu.memory import Memslots
from hvmmu.spec.walk import ALL_ACCESS, Walk, permission_fault, walk
from hvmmu.spec.walk import Outcome as WalkOutcome
from hvmmu.spte import access_of, deprivileged_access, make_spte, wp_override
from hvmmu.tlb import Scope
from hvmmu.types import PAGE_SHIFT

ROOT_LEVEL = 4
SUPERVISORS_OWN = {CR4_SMEP: "SMEP", CR4_SMAP: "SMAP", CR4_PKE: "PKE"}
"""Bits of CR4 that take a hardware which knows the guest's supervisor from its user."""
_SHIFT = {level.level: level.shift for level in LONG4.levels}


def _index(gva: int, level: int) -> int:
    return gva >> _SHIFT[level] & 511


class ShadowMmu:
    """Shadow paging of a 4-level guest; a 1 GiB page is mapped in pieces of 2 MiB or 4 KiB.

    Of a *deprivileged* guest, which hardware runs as user even in its kernel, there are two roots:
    one for the guest's kernel, and one for its user mode, in which no supervisor page is mapped.
    """

    def __init__(
        self,
        slots: Memslots,
        pages: ShadowPages,
        cpu: CpuFeatures,
        params: MmuParams,
        *,
        deprivileged: bool = False,
    ) -> None:
        self.pages = pages
        self.params = params
        self._slots = slots
        self._cpu = cpu
        self._regs = Regs()
        self._formats: Formats | None = None
        self._deprivileged = deprivileged
        self._regs_role, self._user_role = self._roles_of(self._regs)
        self._root: ShadowPage | None = None
        self._user_root: ShadowPage | None = None

    @property
    def guest_regs(self) -> Regs:
        """The guest's registers as last loaded."""
        return self._regs

    @property
    def root(self) -> ShadowPage | None:
        """The shadow of the guest's root table, its kernel's if two; None while paging is off."""
        return self._root

    @property
    def user_root(self) -> int | None:
        """Where the root for a deprivileged guest's user mode lies; None if there is none."""
        return None if self._user_root is None else self._user_root.hpa

    def _roles_of(self, regs: Regs) -> tuple[CpuRole, CpuRole]:
        """Return the role of pages below the root, and of those below the user's own."""
        if not self._deprivileged:
            role = CpuRole.of(regs)
            return role, role
        return CpuRole.of(regs, user=False), CpuRole.of(regs, user=True)

    def load_guest(self, regs: Regs) -> tuple[Regs, Flush]:
        """Take over the guest's registers; return those that hardware must run with.

        Raise BackendUnavailableError for a paging mode that is not shadowed, and for what a
        deprivileged guest cannot have.
        """
        mode = mode_of(regs)
        if mode is not None and mode is not LONG4:
            raise BackendUnavailableError(
                f"the guest turned on {mode.name} paging, and shadow paging has only {LONG4.name};"
                " run it on the native backend"
            )
        if self._deprivileged:
            _refuse_supervisors_own(regs)
        regs_role, user_role = self._roles_of(regs)
        if regs.cr3 != self._regs.cr3 or regs_role != self._regs_role or mode is None:
            self._root = self._user_root = None
        self._regs, self._regs_role, self._user_role = regs, regs_role, user_role
        self._formats = None if mode is None else formats(mode, regs, self._cpu)
        return self.reload()

    def reload(self) -> tuple[Regs, Flush]:
        """Return hardware's registers once more, with new roots if the old ones were zapped."""
        regs, flush = self._regs, Flush.nothing()
        if self._formats is None:
            return regs, flush
        if self._root is None or self._root not in self.pages:
            self._root, flush = self._new_root(self._regs_role)
        if self._deprivileged and (self._user_root is None or self._user_root not in self.pages):
            self._user_root, made = self._new_root(self._user_role)
            flush = flush.merge(made)
        return self._hardware(self._root.hpa), flush

    def _new_root(self, regs_role: CpuRole) -> tuple[ShadowPage, Flush]:
        flush = self._make_room(1)
        role = regs_role.role(ROOT_LEVEL, ALL_ACCESS)
        root, made = self.pages.get((self._regs.cr3 & pte.ADDRESS) >> PAGE_SHIFT, role)
        return root, flush.merge(made).merge(Flush(Scope.ALL))

    def _hardware(self, root: int) -> Regs:
        """Return the guest's registers as hardware must have them, with the shadow root."""
        regs = self._regs
        return attrs.evolve(
            regs,
            cr0=regs.cr0 | CR0_WP,
            cr3=root,
            cr4=regs.cr4 & ~CR4_PGE,
            efer=regs.efer | (EFER_NXE if hides_fetch_bit(regs) else 0),
        )

    def handle(self, fault: PageFault) -> tuple[FaultOutcome, Flush]:
        """Route one fault that exited.

        INSTALL, ACCESSED_DIRTY and SPURIOUS mean that the access is to be tried again; INJECT that
        the guest gets the fault with the error code returned; EMULATE and MMIO that the caller
        completes the access at the guest-physical address returned.
        """
        if self._formats is None:
            raise InvariantError("a page fault exited before the guest turned paging on")
        found = walk(self._slots, self._regs, self._formats, fault.gva, fault.kind)
        if found.outcome is not WalkOutcome.OK:
            allowed = found.path[-1].access
            cause = guest_fault_cause(found.pfec, allowed, fault.kind, self._regs)
            refs = len(found.path)
            injected = FaultOutcome(Route.INJECT, cause, found.pfec, found.level, walk_refs=refs)
            return injected, Flush.nothing()
        if self._slots.hpa(found.pa) is None:
            return self._handled(Route.MMIO, Cause.NO_MEMORY, fault, found), Flush.nothing()
        return self._install(fault, found)

    def _handled(self, route: Route, cause: Cause, fault: PageFault, found: Walk) -> FaultOutcome:
        return FaultOutcome(route, cause, fault.pfec, found.level, found.pa, len(found.path))

    def _install(self, fault: PageFault, found: Walk) -> tuple[FaultOutcome, Flush]:
        """Bring the shadow up to what the guest's tables say of this access."""
        flush = self._make_room(ROOT_LEVEL)
        page, relinked, owed = self._descend(fault.gva, fault.kind, found)
        flush = flush.merge(owed)
        level = page.role.level
        sptep = page.hpa + 8 * _index(fault.gva, level)
        gfn = (found.pa & -(1 << _SHIFT[level])) >> PAGE_SHIFT
        spte = self._leaf(found, fault.kind, gfn, level)
        old = self.pages.entry(sptep)
        was_present = self.pages.nonpresent.is_present(old)
        was_leaf = was_present and self.pages.child(sptep) is None
        same = was_leaf and old & ~(pte.A | pte.D) == spte
        if not same:
            self.pages.zap_entry(sptep).forgo("the page is flushed below if it was mapped")
            self.pages.set_leaf(sptep, spte, gfn, level)
            if was_present:
                flush = flush.merge(Flush(Scope.ALL))
        spurious, changed = same and not relinked, was_leaf and not same
        return self._settled(fault, found, spte, changed=changed, spurious=spurious), flush

    def _settled(
        self, fault: PageFault, found: Walk, spte: int, *, changed: bool, spurious: bool
    ) -> FaultOutcome:
        """Name the route, now that the entry is written."""
        kind = fault.kind | pf.U if self._deprivileged else fault.kind
        if permission_fault(access_of(spte), self._pkey(found), kind, self._hardware(root=0)):
            table = self.pages.is_table(found.pa >> PAGE_SHIFT)
            cause = Cause.TABLE_WRITE if table else Cause.WRITE_PROTECT_OFF
            return self._handled(Route.EMULATE, cause, fault, found)
        if spurious:
            return self._handled(Route.SPURIOUS, Cause.STALE, fault, found)
        if changed and fault.kind & pf.W:
            if not found.path[-1].entry & pte.D:
                return self._handled(Route.ACCESSED_DIRTY, Cause.DIRTY, fault, found)
            if not self._deprivileged and not found.access & pf.W:
                return self._handled(Route.ACCESSED_DIRTY, Cause.WRITE_PROTECT_OFF, fault, found)
        return self._handled(Route.INSTALL, Cause.UNBUILT, fault, found)

    def _leaf_level(self, found: Walk) -> int:
        """Return 2 if one large entry may map the page, else 1.

        A large entry would let writes through to every page table inside it.
        """
        if found.level == 1 or not self.params.large_pages:
            return 1
        gfn = found.pa >> PAGE_SHIFT
        start = gfn // LARGE_FRAMES * LARGE_FRAMES << PAGE_SHIFT
        hpa = self._slots.hpa(start)
        size = LARGE_FRAMES << PAGE_SHIFT
        fits = hpa is not None and not hpa % size and self._slots.contains(start, size)
        return 2 if fits and not self.pages.holds_table(gfn) else 1

    def _leaf(self, found: Walk, kind: int, gfn: int, level: int) -> int:
        hpa = self._slots.hpa(gfn << PAGE_SHIFT)
        if hpa is None:
            raise InvariantError(f"gfn {gfn:#x} was found in a memslot, and is in none")
        return make_spte(
            hpa,
            self._allowed(found.access, kind),
            writable=found.dirty and not self.pages.is_table(gfn),
            large=level == 2,
            pkey=self._pkey(found),
        )

    def _allowed(self, access: int, kind: int) -> int:
        """Return what a leaf must allow on hardware, of what the guest's path allows."""
        if not self._deprivileged:
            return wp_override(access, kind, self._regs)
        wp = bool(self._regs.cr0 & CR0_WP)
        return deprivileged_access(access, user=bool(kind & pf.U), cr0_wp=wp)

    def _pkey(self, found: Walk) -> int:
        return found.pkey if self._regs.cr4 & CR4_PKE else 0

    def _descend(self, gva: int, kind: int, found: Walk) -> tuple[ShadowPage, bool, Flush]:
        """Follow the shadow from its root to the page that holds the leaf.

        Return the page, and whether a link on the way had to be made.

        Whether a large leaf will do is asked on arrival: shadowing the tables on the way may have
        put one of them into the very page.
        """
        users = self._deprivileged and bool(kind & pf.U)
        page, regs_role = self._root, self._regs_role
        if users:
            page, regs_role = self._user_root, self._user_role
        if page is None:
            raise InvariantError("there is no shadow root to build on")
        relinked, flush = False, Flush.nothing()
        page.write_flooding = 0
        for level in range(ROOT_LEVEL, 1, -1):
            if level == 2 and self._leaf_level(found) == 2:
                break
            gfn, role = self._below(found, level, regs_role)
            sptep = page.hpa + 8 * _index(gva, level)
            child = self.pages.child(sptep)
            if child is None or child.gfn != gfn or child.role != role:
                flush = flush.merge(self.pages.zap_entry(sptep))
                child, made = self.pages.get(gfn, role)
                flush = flush.merge(made)
                self.pages.link(sptep, child)
                relinked = True
            page = child
            page.write_flooding = 0
        return page, relinked, flush

    def _below(self, found: Walk, level: int, regs_role: CpuRole) -> tuple[int, Role]:
        """Return what the entry at *level* must link to: guest frame and role.

        Below a guest large page that is a direct page, another one while the large page's D is
        clear: nothing writable must survive in it when the guest clears D.
        """
        if level > found.level:
            step = next(s for s in found.path if s.level == level)
            gfn = (step.entry & pte.ADDRESS) >> PAGE_SHIFT
            return gfn, regs_role.role(level - 1, step.access)
        pkey = self._pkey(found)
        gfn = (found.pa & -(1 << _SHIFT[level])) >> PAGE_SHIFT
        return gfn, regs_role.direct(level - 1, found.access, pkey=pkey, dirty=found.dirty)

    def _make_room(self, pages: int) -> Flush:
        """Zap the oldest shadow pages until *pages* more fit: none may go while it is used."""
        flush = Flush.nothing()
        roots = (self._root, self._user_root)
        while len(self.pages) + pages > self.params.shadow_pages:
            oldest = next(page for page in self.pages if page not in roots)
            flush = flush.merge(self.pages.zap_page(oldest))
        return flush

    def invlpg(self, gva: int) -> Flush:
        """Return the flush INVLPG is: the shadow is in step with the guest's tables anyway."""
        return Flush(Scope.PAGE, gva)

    def emulate_store(self, gpa: int, value: int, size: int) -> Flush:
        """Complete a guest's store of *size* bytes at *gpa*, and carry it into the shadow."""
        self._slots.store(gpa, value, size)
        flush = Flush.nothing()
        for page in self.pages.shadows_of(gpa >> PAGE_SHIFT):
            if self._is_flooded(page):
                flush = flush.merge(self.pages.zap_page(page))
            else:
                flush = flush.merge(self._follow_write(page, gpa & ~7))
        return flush

    def _is_flooded(self, page: ShadowPage) -> bool:
        """Count a write, and say whether the guest seems to use the frame otherwise by now.

        The count starts again when a fault is resolved through the page, or when hardware has used
        the entry that the last write built.
        """
        written = page.last_written
        if written is not None and self.pages.entry(written) & pte.A:
            page.write_flooding = 0
        page.write_flooding += 1
        threshold = self.params.flood_threshold
        return 0 < threshold <= page.write_flooding

    def _follow_write(self, page: ShadowPage, gptep: int) -> Flush:
        """Update one shadow entry after the guest's entry at *gptep* (gpa) was written.

        The entry first becomes trap. A leaf then becomes notrap if the guest's is not present, or
        the real entry if it is present and accessed; above the leaf it stays trap.
        """
        sptep = page.hpa + (gptep & 0xFFF)
        flush = self.pages.zap_entry(sptep)
        page.last_written = None
        if page.role.level > 1:
            return flush
        gpte = self._slots.load(gptep)
        if not gpte & pte.P:
            if page.role.bypassable:
                self.pages.set_notrap(sptep)
        elif gpte & pte.A and self.params.update_on_write:
            self._update_on_write(page, sptep, gpte)
        return flush

    def _update_on_write(self, page: ShadowPage, sptep: int, gpte: int) -> None:
        """Build the leaf at once, if the page goes with the registers in force."""
        role = page.role
        mine = (self._user_role if role.user else self._regs_role).role(1, role.access)
        if self._formats is None or role != mine or gpte & self._formats.reserved[1]:
            return
        access = role.access & access_of(gpte)
        if role.user is not None:
            access = deprivileged_access(access, user=role.user, cr0_wp=role.cr0_wp)
        if role.user and not access & pf.U:
            return  # the user's own root maps no supervisor page
        gfn = (gpte & pte.ADDRESS) >> PAGE_SHIFT
        hpa = self._slots.hpa(gfn << PAGE_SHIFT)
        if hpa is None:
            return
        spte = make_spte(
            hpa,
            access,
            writable=bool(gpte & pte.D) and not self.pages.is_table(gfn),
            large=False,
            pkey=(gpte & pte.PKEY) >> pte.PKEY_SHIFT if role.pke else 0,
        )
        self.pages.set_leaf(sptep, spte, gfn, 1)
        page.last_written = sptep


def _refuse_supervisors_own(regs: Regs) -> None:
    wanted = [name for bit, name in SUPERVISORS_OWN.items() if regs.cr4 & bit]
    if wanted:
        raise BackendUnavailableError(
            f"the guest turned on {' and '.join(wanted)} in CR4, which tell its kernel from its"
            " user mode, and hardware runs both in user mode here; leave them off, or take another"
            " backend"
        )
