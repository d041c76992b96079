"""The reference walk in two dimensions: the guest's walk, with each address of it walked for again.

The guest's dimension is `spec/walk.py` itself. Its physical memory is the space below,
where every load goes through the second dimension's tables first: with four levels on either side
20 entries of the host's and 4 of the guest's. SDM "EPT Translation Mechanism", APM "Nested Paging".
"""

import attrs

from hvmmu.arch import pfec as pf
from hvmmu.arch import pte
from hvmmu.arch.paging import PAE, Formats
from hvmmu.arch.regs import Regs
from hvmmu.arch.tdp import Cause, TdpFormats, Use, use_of
from hvmmu.errors import InvariantError
from hvmmu.memory import Space
from hvmmu.spec.walk import Outcome, Walk, walk

_ALL = (1 << 64) - 1
"""What a path agrees on before any entry narrows it."""


@attrs.frozen
class TdpFault:
    """The second dimension stopped a walk, and the hypervisor hears of it."""

    cause: Cause
    use: Use
    gpa: int
    gva: int
    code: int
    """What hardware reports of it: EPT's exit qualification, nested paging's error code."""
    level: int
    """Level of the host's entry that stopped it, 0 if none was read."""


@attrs.define
class NestedWalk:
    """The result of a walk in two dimensions; those below *host_refs* only where it succeeded."""

    guest: Walk
    """The guest's dimension: a page fault in it is the guest's own. Where *fault* is set, all that
    counts is its path, which ends at the last entry that could be read."""
    fault: TdpFault | None
    host_refs: int
    """Entries read in the second dimension."""
    hpa: int = 0
    access: int = 0
    """What both dimensions allow, in the bits of a kind."""
    readable: bool = False
    """The second dimension allows reads, which the bits of a kind cannot say."""
    level: int = 0
    """Level of the smaller page of the two: what a TLB may cache."""
    dirty: bool = False
    """D is set wherever a write would set it."""

    @property
    def is_ok(self) -> bool:
        """Say whether there is a translation."""
        return self.fault is None and self.guest.outcome is Outcome.OK

    @property
    def guest_refs(self) -> int:
        """Entries read in the guest's dimension."""
        return len(self.guest.path)


@attrs.frozen
class Landing:
    """Where a guest-physical address lies, and what the path there allows."""

    hpa: int
    path: int
    level: int
    dirty: bool


class GuestMemory:
    """Guest-physical memory behind the second dimension, for one walk: a :class:`Space`.

    Once *fault* is set the walk is over, whatever the walker makes of the entry it is given then.
    """

    def __init__(self, memory: Space, tdp: TdpFormats, root: int, gva: int) -> None:
        self._memory, self._tdp, self._root, self._gva = memory, tdp, root, gva
        self._entries: dict[int, Landing] = {}
        self.first = Use.TABLE
        """What the first load is."""
        self.refs = 0
        self.fault: TdpFault | None = None

    def load(self, pa: int, size: int) -> int:
        """Read an entry of the guest's tables; one that cannot be read is not present."""
        found = self.translate(pa, Use.TABLE if self._entries else self.first)
        if found is None:
            return 0
        self._entries[pa] = found
        return self._memory.load(found.hpa, size)

    def store(self, pa: int, value: int, size: int) -> None:
        """Set bits in an entry that was read, if the path to it allows that."""
        found = self._entries[pa]
        if self.fault is not None:
            return
        if self._tdp.allows(found.path, Use.MARK):
            self._memory.store(found.hpa, value, size)
        else:
            self._stop(Cause.DENIED, Use.MARK, pa, found.path, level=found.level, access=0)

    def translate(self, gpa: int, use: Use, access: int = 0) -> Landing | None:
        """Walk for *gpa*, setting accessed and dirty bits if it succeeds; None sets *fault*.

        *access* is what the guest's path allows, if this is where it ends.
        """
        used, path, cause = self._descend(gpa)
        level = self._tdp.mode.levels[max(len(used), 1) - 1]
        if cause is None and not self._tdp.allows(path, use):
            cause = Cause.DENIED
        if cause is not None:
            self._stop(cause, use, gpa, path, level=level.level if used else 0, access=access)
            return None
        writes = self._tdp.needs[use].dirties
        self._mark(used, self._tdp.dirty if writes else 0)
        leaf, offset = used[-1][1], level.span - 1
        dirty = writes or not self._tdp.dirty or bool(leaf & self._tdp.dirty)
        return Landing(leaf & pte.ADDRESS & ~offset | gpa & offset, path, level.level, dirty)

    def _descend(self, gpa: int) -> tuple[list[tuple[int, int]], int, Cause | None]:
        """Return where entries were read and what they held, what they agree on, what is wrong."""
        tdp, table, path = self._tdp, self._root, _ALL
        used: list[tuple[int, int]] = []
        if gpa >> tdp.mode.va_bits:  # more than the levels can translate
            return used, 0, Cause.NOT_PRESENT
        for level in tdp.mode.levels:
            where = table + 8 * level.index(gpa)
            entry = self._memory.load(where, 8)
            self.refs += 1
            path &= entry ^ tdp.inverted
            used.append((where, entry))
            if not entry & tdp.present:
                return used, path, Cause.NOT_PRESENT
            if tdp.is_reserved(entry, level.level):
                return used, path, Cause.RESERVED
            if tdp.is_leaf(entry, level.level):
                break
            table = entry & pte.ADDRESS
        return used, path, None

    def _mark(self, used: list[tuple[int, int]], dirty: int) -> None:
        """Set A in every entry used, *dirty* in the leaf; store only what changes."""
        for left, (where, entry) in enumerate(used, 1 - len(used)):
            marked = entry | self._tdp.accessed | (0 if left else dirty)
            if marked != entry:
                self._memory.store(where, marked, 8)

    def _stop(
        self, cause: Cause, use: Use, gpa: int, path: int, *, level: int, access: int
    ) -> None:
        code = self._tdp.code(cause, use, path, access)
        self.fault = TdpFault(cause, use, gpa, self._gva, code, level)


def _compose(result: NestedWalk, landing: Landing, tdp: TdpFormats) -> None:
    """Fill in what both dimensions together come to."""
    guest, path = result.guest, landing.path
    result.hpa = landing.hpa
    result.access = guest.access
    if not tdp.allows(path, Use.WRITE):
        result.access &= ~pf.W
    if not tdp.allows(path, use_of(pf.ID, guest.access)):
        result.access &= ~pf.ID
    result.readable = tdp.allows(path, Use.READ)
    result.level = min(guest.level, landing.level)
    result.dirty = guest.dirty and landing.dirty


class NestedWalker:
    """Walks in two dimensions over one memory, under the registers last loaded."""

    def __init__(self, memory: Space) -> None:
        self._memory = memory
        self._loaded: tuple[Regs, Formats, TdpFormats, int] | None = None

    def load(self, regs: Regs, known: Formats, tdp: TdpFormats, root: int) -> None:
        """Put the guest's *regs*, their formats and the second dimension in force.

        *root* is the host-physical address of the second dimension's highest table.
        """
        self._loaded = regs, known, tdp, root

    def walk(self, gva: int, kind: int) -> NestedWalk:
        """Translate *gva* for an access of *kind*; something must have been loaded.

        Bits are set as hardware comes by: the host's as each guest-physical address is translated,
        the guest's once its own walk has granted the access, and only then is the final address
        translated: SDM "Prioritization of EPT Misconfigurations and EPT Violations", APM "Nested
        versus Guest Page Faults, Fault Ordering".
        """
        if self._loaded is None:
            raise InvariantError("a walk in two dimensions before any registers were loaded")
        regs, known, tdp, root = self._loaded
        space = GuestMemory(self._memory, tdp, root, gva)
        if known.mode is PAE:
            space.first = Use.POINTER
        found = walk(space, regs, known, gva, kind)
        if space.fault is not None and space.fault.use is not Use.MARK:
            found.path.pop()  # it could not be read
        landing = None
        if space.fault is None and found.outcome is Outcome.OK:
            landing = space.translate(found.pa, use_of(kind, found.access), found.access)
        result = NestedWalk(found, space.fault, space.refs)
        if landing is not None:
            _compose(result, landing, tdp)
        return result
