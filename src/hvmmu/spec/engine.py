"""The reference engine: the reference walk behind a TLB, in plain Python."""

import attrs

from hvmmu.arch import pfec as pf
from hvmmu.arch.paging import Formats, formats, mode_of
from hvmmu.arch.regs import CR4_PKE, Regs
from hvmmu.engine import EngineCaps, Event, HwThread, TlbCounts
from hvmmu.errors import InvariantError
from hvmmu.memory import Memory
from hvmmu.spec.tlb import SHIFTS, Tlb, TlbEntry, tag_of
from hvmmu.spec.walk import Outcome, Walk, permission_fault, walk
from hvmmu.tlb import Scope, TlbGeometry
from hvmmu.types import Buffer

KINDS = pf.KIND + 1
"""Kinds and accesses are both below this, as both are made of W, U and ID."""


def allowed_kinds(regs: Regs) -> tuple[int, ...]:
    """Return, by access, the set of kinds (a bit each) that a hit may grant without a second look.

    With protection keys on, data accesses to user pages are left to the full check.
    """
    keyed = regs.cr4 & CR4_PKE
    table = []
    for access in range(KINDS):
        kinds = 0
        for kind in range(KINDS):
            looked_at = keyed and access & pf.U and not kind & pf.ID
            if not looked_at and not permission_fault(access, 0, kind, regs):
                kinds |= 1 << kind
        table.append(kinds)
    return tuple(table)


class ReferenceEngine:
    """The engine to read, and to hold the others against."""

    name = "reference"
    summary = "the reference walk behind a TLB, in Python: to read, and to compare with"
    caps = EngineCaps()

    def __init__(self, memory: Memory, geometry: TlbGeometry | None = None) -> None:
        self._memory = memory
        chosen = geometry or TlbGeometry()
        self.caps = attrs.evolve(self.caps, lru_sets=chosen.lru_sets, lru_ways=chosen.lru_ways)
        self.tlb = Tlb(chosen)
        self._formats: Formats | None = None
        self._allowed = (0,) * KINDS

    def load_regs(self, core: HwThread, regs: Regs) -> None:
        """Put *regs* in force; flushes nothing."""
        if attrs.evolve(core.regs, cr3=regs.cr3) != regs:  # more than the root has changed
            mode = mode_of(regs)
            self._formats = None if mode is None else formats(mode, regs, core.cpu)
            self._allowed = allowed_kinds(regs)
        core.regs = regs

    def write_pte(self, hpa: int, value: int) -> None:
        """Store a 64-bit entry; flushes nothing."""
        self._memory.u64[hpa >> 3] = value

    def flush(self, scope: Scope, gva: int = 0) -> None:
        """Drop cached translations."""
        self.tlb.flush(scope, gva)

    def counts(self) -> TlbCounts:
        """Return the TLB's counters since the start."""
        instruction, data = self.tlb.first_misses
        return TlbCounts(instruction, data, self.tlb.second_misses)

    def run(
        self,
        core: HwThread,
        gva: Buffer,
        kind: Buffer,
        start: int,
        translated: Buffer | None = None,
    ) -> int:
        """Run accesses from *start* on; return the index of the one that stopped, or len(gva)."""
        vas, kinds = memoryview(gva), memoryview(kind)
        out = None if translated is None else memoryview(translated)
        allowed, instruction, data = self._allowed, self.tlb.instruction, self.tlb.data
        instruction_mask, data_mask = len(instruction) - 1, len(data) - 1
        write, fetch = pf.W, pf.ID
        at = start
        # Most accesses hit their set's most recent 4 KiB entry: that case alone is written out.
        for va, k in zip(vas[start:], kinds[start:], strict=True):
            page = va >> 12
            ways = instruction[page & instruction_mask] if k & fetch else data[page & data_mask]
            if (
                ways
                and (entry := ways[0]).tag == page << 2
                and allowed[entry.access] >> k & 1
                and (entry.dirty or not k & write)
            ):
                pass
            else:
                found = self._look_further(core, va, k)
                if found is None:
                    return at
                entry = found
            if out is not None:
                out[at] = entry.base | va & entry.mask
            at += 1
        core.event = None
        return at

    def promote(self, gva: Buffer, kind: Buffer) -> None:
        """Make pages the most recent ones of their sets, where they are cached."""
        for va, k in zip(memoryview(gva), memoryview(kind), strict=True):
            self.tlb.promote(va, fetch=bool(k & pf.ID))

    def _look_further(self, core: HwThread, va: int, kind: int) -> TlbEntry | None:
        """Look in the whole TLB, then walk; None if the access stops, with the reason in *core*.

        A cached entry that does not allow the access is no fault yet: the tables are walked again,
        so that a permission raised without a flush is seen at once. If the walk faults as well, the
        entry is dropped: SDM "Operations that Invalidate TLBs and Paging-Structure Caches".
        """
        fetch = bool(kind & pf.ID)
        entry = self.tlb.find(va, fetch=fetch)
        if entry is not None and (entry.dirty or not kind & pf.W):
            if self._allowed[entry.access] >> kind & 1:
                return entry
            if not permission_fault(entry.access, entry.pkey, kind, core.regs):
                return entry
        if self._formats is None:
            raise InvariantError("an access was run before paging was on")
        result = walk(self._memory, core.regs, self._formats, va, kind)
        core.walk_refs += len(result.path)
        if result.outcome is not Outcome.OK or result.pa >= self._memory.size:
            if entry is not None and result.outcome is Outcome.PAGE_FAULT:
                self.tlb.flush(Scope.PAGE, va)
            self._stop(core, result, va, kind)
            return None
        fresh = _entry_for(va, result)
        if entry is not None and entry.tag == fresh.tag:
            _refresh(entry, fresh)
            return entry
        if entry is not None:
            self.tlb.flush(Scope.PAGE, va)  # the page has changed its size
        self.tlb.fill(va, fresh, fetch=fetch)
        return fresh

    def _stop(self, core: HwThread, result: Walk, va: int, kind: int) -> None:
        core.gva, core.kind, core.pfec, core.level = va, kind, result.pfec, result.level
        core.access = result.path[-1].access if result.path else 0
        if result.outcome is Outcome.OK:
            core.event, core.pa = Event.PHYSICAL, result.pa
        elif result.outcome is Outcome.GENERAL_PROTECTION:
            core.event = Event.GENERAL_PROTECTION
        elif core.exit_filter >> (result.pfec & 63) & 1:
            core.event = Event.EXIT
        else:
            core.event, core.cr2 = Event.DELIVERED, va


def _entry_for(va: int, result: Walk) -> TlbEntry:
    size = result.level - 1
    mask = (1 << SHIFTS[size]) - 1
    return TlbEntry(
        tag_of(va, size),
        result.pa & ~mask,
        mask=mask,
        access=result.access,
        pkey=result.pkey,
        dirty=result.dirty,
        is_global=result.is_global,
    )


def _refresh(entry: TlbEntry, fresh: TlbEntry) -> None:
    """Bring a cached entry up to date in place, so that both levels see it."""
    entry.base, entry.access, entry.pkey = fresh.base, fresh.access, fresh.pkey
    entry.dirty, entry.is_global = fresh.dirty, fresh.is_global
