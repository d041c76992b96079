"""An audit of all entries that hardware can walk to, against the guest's own tables.

It reads only memory and registers, so that it works with any MMU.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, NamedTuple

from hvmmu.arch import pfec as pf
from hvmmu.arch import pte
from hvmmu.arch.paging import LONG4, formats, mode_of
from hvmmu.backend import Paging
from hvmmu.spec.walk import ALL_ACCESS, Outcome, permission_fault, walk
from hvmmu.spte import access_of
from hvmmu.types import ENTRIES

if TYPE_CHECKING:
    from collections.abc import Iterator

    from hvmmu.machine import Platform
    from hvmmu.memory import Memslots
    from hvmmu.spec.walk import Walk

_KINDS = (pf.READ, pf.WRITE, pf.FETCH)
_USERS = tuple(pf.U | kind for kind in _KINDS)
_SIGN = 1 << 47


class Found(NamedTuple):
    """An entry that breaks a rule."""

    text: str
    is_notrap: bool = False


class _Entry(NamedTuple):
    """An entry that is not trap, with what the path to it allows."""

    gva: int
    level: int
    value: int
    access: int


def wrong_entry(platform: Platform) -> Found | None:
    """Return an entry that contradicts the guest's tables, None if there is none.

    Nothing is found on a bare machine, and while the guest has paging off.
    """
    if platform.backend.caps.paging is Paging.BARE or mode_of(platform.vcpu.regs) is not LONG4:
        return None
    return _Audit(platform).first()


class _Audit:
    """One audit of all tables of a machine."""

    def __init__(self, platform: Platform) -> None:
        vcpu = self._vcpu = platform.vcpu
        self._words, self._slots = platform.memory.u64, vcpu.slots
        self._guest = _Unwritten(vcpu.slots)
        self._formats = formats(LONG4, vcpu.regs, vcpu.cpu)
        self._hardware = vcpu.core.regs
        self._nonpresent = platform.backend.nonpresent()

    def first(self) -> Found | None:
        """Return the first entry that is wrong."""
        c = self._vcpu.c
        roots = [(self._hardware.cr3, _KINDS + _USERS, 0)]
        if c.deprivileged:
            roots = [(c.roots[0], _KINDS, pf.U), (c.roots[1], _USERS, 0)]
        for root, kinds, added in roots:
            for entry in self._entries(root & pte.ADDRESS):
                if found := self._wrong(entry, kinds, added):
                    return found
        return None

    def _entries(
        self, table: int, level: int = 4, gva: int = 0, access: int = ALL_ACCESS
    ) -> Iterator[_Entry]:
        """Yield the reachable entries except links."""
        shift = 12 + 9 * (level - 1)
        for index, value in enumerate(self._words[table >> 3 : (table >> 3) + ENTRIES].tolist()):
            if value == self._nonpresent.trap:
                continue
            at = gva | index << shift
            at |= -_SIGN & (1 << 64) - 1 if at & _SIGN else 0
            narrowed = access & access_of(value)
            if level == 1 or value & pte.PS or value == self._nonpresent.notrap:
                yield _Entry(at, level, value, narrowed)
            else:
                yield from self._entries(value & pte.ADDRESS, level - 1, at, narrowed)

    def _wrong(self, entry: _Entry, kinds: tuple[int, ...], added: int) -> Found | None:
        if entry.value == self._nonpresent.notrap:
            return self._wrong_notrap(entry)
        if not entry.value & pte.P:
            what = f"the entry of level {entry.level} for {entry.gva:#x} is {entry.value:#x}"
            return Found(f"{what}, which maps nothing, and is neither trap nor notrap")
        pkey = entry.value >> pte.PKEY_SHIFT & 0xF
        for kind in kinds:
            if not permission_fault(entry.access, pkey, kind | added, self._hardware):
                wrong = self._compared(entry, kind, self._walk(entry.gva, kind))
                if wrong:
                    what = f"{pf.describe(kind)} at {entry.gva:#x} is allowed by an entry of level"
                    return Found(f"{what} {entry.level}, {entry.value:#x}, and {wrong}")
        return None

    def _wrong_notrap(self, entry: _Entry) -> Found | None:
        found = self._walk(entry.gva, pf.READ)
        absent = found.outcome is Outcome.PAGE_FAULT and not found.pfec & pf.P
        if absent and found.level >= entry.level:
            return None
        last = found.path[-1].entry
        text = f"the entry of level {entry.level} for {entry.gva:#x} is notrap, and the guest's of"
        return Found(f"{text} level {found.level} is {last:#x}", is_notrap=True)

    def _walk(self, gva: int, kind: int) -> Walk:
        self._guest.would_be_set = False
        return walk(self._guest, self._vcpu.regs, self._formats, gva, kind)

    def _compared(self, entry: _Entry, kind: int, found: Walk) -> str:
        if found.outcome is not Outcome.OK:
            return f"the guest's tables give {pf.describe(found.pfec)}"
        if found.level < entry.level:
            return f"the guest's page is one of level {found.level}"
        hpa = entry.value & pte.ADDRESS & -(1 << 12 + 9 * (entry.level - 1))
        if self._slots.hpa(found.pa) != hpa:
            return f"the guest's tables lead to gpa {found.pa:#x}, not to hpa {hpa:#x}"
        if self._guest.would_be_set:
            return f"the guest's {'A or D' if kind & pf.W else 'A'} is clear"
        return ""


class _Unwritten:
    """Guest-physical memory that a walk leaves as it is."""

    def __init__(self, slots: Memslots) -> None:
        self.would_be_set = False
        """A walk wanted to set A or D."""
        self._slots = slots

    def load(self, pa: int, size: int) -> int:
        """Read memory."""
        return self._slots.load(pa, size)

    def store(self, pa: int, value: int, size: int) -> None:
        """Note the attempt."""
        del pa, value, size
        self.would_be_set = True
