"""A virtual TLB: tables that cache translations of the guest's, as hardware's TLB caches them.

An entry is filled when an access misses it, from a walk of the guest's tables. The guest may write
its tables as it likes: nothing is write-protected, and an entry may be stale until the guest
flushes it. INVLPG drops one entry, and a load of CR3 drops all of them.
"""

from typing import ClassVar

import attrs

from hvmmu.arch import pfec as pf
from hvmmu.arch import pte
from hvmmu.arch.paging import LONG4, Formats, Level, formats, mode_of
from hvmmu.arch.regs import CR0_WP, CR4_PGE, EFER_NXE, Regs
from hvmmu.errors import BackendUnavailableError, InvariantError
from hvmmu.fault import Cause, FaultOutcome, PageFault, Route, guest_fault_cause
from hvmmu.flush import Flush
from hvmmu.mmu import MmuHost
from hvmmu.params import param
from hvmmu.spec.walk import Outcome, Walk, permission_fault, walk
from hvmmu.spte import LINK
from hvmmu.tlb import Scope

FRACTURED = 1 << 9
"""Set in a link below which a larger page of the guest is mapped in pieces; hardware ignores it."""


@attrs.frozen
class VtlbParams:
    """Parameters of the virtual TLB."""

    tables: int = param(
        default=1024,
        doc="tables kept at most; when more are needed, all entries are dropped",
        least=8,
        most=1 << 17,
    )


class VtlbMmu:
    """The virtual TLB of one vCPU."""

    name: ClassVar[str] = "vtlb"
    summary: ClassVar[str] = "a virtual TLB, emptied at every CR3 load, as NOVA's"

    def __init__(self, host: MmuHost) -> None:
        self._slots, self._words = host.slots, host.slots.memory.u64
        self._frames, self._write = host.frames, host.engine.write_pte
        self._cpu, self._nonpresent = host.cpu, host.nonpresent
        self._two_roots = host.deprivileged
        self._most: int = host.settings[self.name].tables
        self._regs = self._hardware = Regs()
        self._formats: Formats | None = None
        self._tables: list[int] = []
        """All tables (hpa): the kernel's root, the user mode's if it has one, then the others."""
        self.built = self.zapped = 0

    @property
    def user_root(self) -> int | None:
        """The root for a deprivileged guest's user mode."""
        return self._tables[1] if self._two_roots and self._tables else None

    # The guest's registers.

    def load_guest(self, regs: Regs) -> tuple[Regs, Flush]:
        """Take over the guest's registers, and drop all entries.

        PKRU and EFLAGS.AC change without an exit: no entry depends on them, and none is dropped.
        """
        mode = mode_of(regs)
        if mode not in (None, LONG4):
            raise BackendUnavailableError(
                f"the guest turned on a paging mode other than {LONG4.name}, and the virtual TLB"
                " caches no other; run it on the native backend"
            )
        only_unseen = attrs.evolve(self._regs, pkru=regs.pkru, rflags_ac=regs.rflags_ac) == regs
        exited = not only_unseen or self._regs == regs
        self._regs = regs
        self._formats = None if mode is None else formats(LONG4, regs, self._cpu)
        flush = self._empty() if mode is not None and exited else Flush.nothing()
        self._hardware = regs if mode is None else self._as_hardware(regs)
        return self._hardware, flush

    def _as_hardware(self, regs: Regs) -> Regs:
        """Return registers with WP, so that entries bind supervisors too, and no global pages.

        NXE is set, so that error codes show fetches: those that the guest gets come from its walk.
        """
        nxe = EFER_NXE if self._cpu.nx else 0
        return attrs.evolve(
            regs,
            cr0=regs.cr0 | CR0_WP,
            cr3=self._tables[0],
            cr4=regs.cr4 & ~CR4_PGE,
            efer=regs.efer | nxe,
        )

    def reload(self) -> tuple[Regs, Flush]:
        """Return hardware's registers; `_empty` leaves the roots where they are."""
        return self._hardware, Flush.nothing()

    # Faults.

    def handle(self, fault: PageFault) -> tuple[FaultOutcome, Flush]:
        """Walk the guest's tables as hardware would; fill an entry if they allow the access."""
        if self._formats is None:
            raise InvariantError("a page fault exited before the guest turned paging on")
        kind = fault.kind
        found = walk(self._slots, self._regs, self._formats, fault.gva, kind)
        if found.outcome is Outcome.GENERAL_PROTECTION:
            raise InvariantError(f"a page fault exited at {fault.gva:#x}, which is not canonical")

        def routed(route: Route, cause: Cause, pfec: int = fault.pfec) -> FaultOutcome:
            return FaultOutcome(route, cause, pfec, found.level, found.pa, len(found.path))

        if found.outcome is Outcome.PAGE_FAULT:
            cause = guest_fault_cause(found.pfec, found.path[-1].access, kind, self._regs)
            return routed(Route.INJECT, cause, found.pfec), Flush.nothing()
        hpa = self._slots.hpa(found.pa)
        if hpa is None:
            return routed(Route.MMIO, Cause.NO_MEMORY), Flush.nothing()
        access, as_seen = self._access(found, kind), kind | (pf.U if self._two_roots else 0)
        if permission_fault(access, found.pkey, as_seen, self._hardware):
            return routed(Route.EMULATE, Cause.WRITE_PROTECT_OFF), Flush.nothing()
        replaced, flush = self._fill(fault.gva, kind, found, hpa)
        if replaced and kind & pf.W and not found.path[-1].entry & pte.D:
            return routed(Route.ACCESSED_DIRTY, Cause.DIRTY), flush
        return routed(Route.INSTALL, Cause.UNBUILT), flush

    def _access(self, found: Walk, kind: int) -> int:
        """Return what the entry may allow, in the bits of a kind.

        A supervisor may write read-only pages while CR0.WP is clear, and pages whose key forbids
        it. The root of a deprivileged guest's kernel lets these writes through: no other code walks
        from that root. Elsewhere hardware, whose CR0.WP is set, refuses them, and they are
        emulated: an entry that let them through would let the user's writes through as well.
        """
        if not self._two_roots or kind & pf.U:
            return found.access
        return found.access | pf.U | (0 if self._regs.cr0 & CR0_WP else pf.W)

    def _fill(self, gva: int, kind: int, found: Walk, hpa: int) -> tuple[bool, Flush]:
        """Write the entry for *gva*; return whether it replaces one, and the flush that is owed."""
        flush = Flush.nothing()
        if len(self._tables) + len(LONG4.levels) > self._most:
            flush = self._empty()
        table = self._tables[1 if self._two_roots and kind & pf.U else 0]
        for level in LONG4.levels:
            at = table + 8 * level.index(gva)
            old = self._words[at >> 3]
            if self._fits(level, found, hpa):
                break
            is_link = self._nonpresent.is_present(old) and not old & pte.PS
            link = old if is_link else self._new_table() | LINK
            if level.level <= found.level:
                link |= FRACTURED
            flush = flush.merge(self._put(at, link, level, gva))
            table = link & pte.ADDRESS
        access = self._access(found, kind)
        entry = hpa & -level.span | pte.P | pte.A | access & pf.U | found.pkey << pte.PKEY_SHIFT
        entry |= pte.W | pte.D if access & pf.W and found.dirty else 0
        entry |= (0 if access & pf.ID else pte.NX) | (pte.PS if level.level > 1 else 0)
        replaced = self._nonpresent.is_present(old)
        return replaced, flush.merge(self._put(at, entry, level, gva))

    def _fits(self, level: Level, found: Walk, hpa: int) -> bool:
        """Return whether one entry of *level* can map the page: host memory has all of it."""
        whole = self._slots.contains(found.pa & -level.span, level.span)
        return level.level <= found.level and whole and (hpa - found.pa) % level.span == 0

    # Tables.

    def _new_table(self) -> int:
        """Return a table in which every entry is trap.

        Notrap is for an entry that is not present in the guest's tables, and a store of the guest's
        that makes it present does not exit: no fault may be left to the guest alone.
        """
        self._tables.append(self._frames.take(self._nonpresent.trap))
        self.built += 1
        return self._tables[-1]

    def _empty(self) -> Flush:
        """Give all tables back, and begin with new roots in the frames of the old."""
        self.zapped += len(self._tables)
        while self._tables:
            self._frames.give(self._tables.pop())
        for _ in range(2 if self._two_roots else 1):
            self._new_table()
        return Flush(Scope.ALL)

    def _put(self, at: int, entry: int, level: Level, gva: int) -> Flush:
        """Write an entry; return the flush that is owed for the one that it replaces."""
        old = self._words[at >> 3]
        if old == entry:
            return Flush.nothing()
        self._write(at, entry)
        if not self._nonpresent.is_present(old):
            return Flush.nothing()
        return Flush(Scope.PAGE, gva) if level.level == 1 else Flush(Scope.ALL)

    def invlpg(self, gva: int) -> Flush:
        """Drop the entry for *gva*, with all others of the same page of the guest."""
        flush = Flush(Scope.PAGE, gva)
        for root in self._tables[: 2 if self._two_roots else 1]:
            table = root
            for level in LONG4.levels:
                at = table + 8 * level.index(gva)
                entry = self._words[at >> 3]
                if not self._nonpresent.is_present(entry):
                    break
                if level.level == 1 or entry & (pte.PS | FRACTURED):
                    flush = flush.merge(self._put(at, self._nonpresent.trap, level, gva))
                    break
                table = entry & pte.ADDRESS
        return flush

    def emulate_store(self, gpa: int, value: int, size: int) -> Flush:
        """Store *value*: entries follow the guest's tables only when the guest flushes."""
        self._slots.store(gpa, value, size)
        return Flush.nothing()
