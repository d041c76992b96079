"""The pager: what each kind of mapping puts behind a page at its first touch, and at later ones.

- Anonymous: a read maps the shared zero frame, read-only; a write maps a fresh frame.
- File: a read or fetch maps the page-cache frame, read-only; a write maps a private copy.
- Inferred, for traces, which never tell what is mapped: the first access decides. A fetch makes the
  page file-backed text, executable and read-only; a read makes it an anonymous page of zeros; a
  write a fresh private page; the latter two are not executable. A fetch from a page that is not
  executable makes it so, and a page once executable stays so when it is copied.

A write to a read-only page of any of them breaks the sharing: copy-on-write.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from hvmmu._guest.flush import Flush
from hvmmu.arch import pfec as pf
from hvmmu.arch import pte
from hvmmu.errors import InvariantError
from hvmmu.steps import PROT_EXEC, Backing
from hvmmu.types import Gpa, Gva

if TYPE_CHECKING:
    from hvmmu._guest.frames import Frames
    from hvmmu._guest.process import Process
    from hvmmu._guest.ptes import PteMaker
    from hvmmu._guest.regions import Region
    from hvmmu._guest.tables import Tables
    from hvmmu.vcpu import Vcpu

CAUSES = ("zero", "file", "cow_zero", "cow_copy", "cow_reuse", "exec_upgrade", "spurious")
"""Why a fault was taken; every handled fault has exactly one cause."""


class Pager:
    """Resolve legal faults, each by at most one new leaf entry, and count them by cause."""

    def __init__(self, vcpu: Vcpu, frames: Frames, tables: Tables, entries: PteMaker) -> None:
        self._vcpu, self._frames = vcpu, frames
        self._tables, self._entries = tables, entries
        # The pager's own share keeps the zero frame from ever looking exclusive, or being freed.
        self.zero_frame = frames.take()
        self.counters = dict.fromkeys(CAUSES, 0)

    def resolve(self, process: Process, region: Region, gva: Gva, pfec: int) -> None:
        """Make the access *pfec* to the page at *gva*, which *region* allows, succeed."""
        write, fetch = bool(pfec & pf.W), bool(pfec & pf.ID)
        at = self._tables.leaf_slot(process.root, gva)
        entry = self._tables.read(at)
        if not entry:
            cause = self._fill(region, gva, at, write=write, fetch=fetch)
        elif not entry & pte.P:
            raise InvariantError(f"the page at {gva:#x} is parked, yet its region allows access")
        elif write and not entry & pte.W:
            cause = self._break_sharing(gva, at, entry)
        elif fetch and entry & pte.NX:
            new = self._entries.touched(entry & ~pte.NX, write=False)
            self._tables.write(at, entry, new)
            cause = "exec_upgrade"
        else:
            cause = "spurious"
        self.counters[cause] += 1

    def _fill(self, region: Region, gva: Gva, at: Gpa, *, write: bool, fetch: bool) -> str:
        inferred = region.backing is Backing.INFERRED
        no_execute = not (fetch if inferred else region.prot & PROT_EXEC)
        is_file = fetch if inferred else region.backing is Backing.FILE
        if is_file:
            frame, cause = self._file_frame(region, gva, write=write)
        else:
            frame, cause = self._zeros(write=write), "zero"
        new = self._entries.leaf(frame, write=write, no_execute=no_execute)
        self._tables.write(at, 0, new)
        return cause

    def _zeros(self, *, write: bool) -> Gpa:
        if write:
            return self._frames.take()
        self._frames.share(self.zero_frame)
        return self.zero_frame

    def _file_frame(self, region: Region, gva: Gva, *, write: bool) -> tuple[Gpa, str]:
        """Return the page-cache frame for *gva*, read in if it is new, or a private copy of it."""
        if region.cache is None:
            raise InvariantError(f"the region at {region.start:#x} has no file behind it")
        cached = region.cache.frames.get(gva)
        if cached is None:
            cached = region.cache.frames[gva] = self._frames.take()
        if write:
            return self._frames.take_copy(cached), "cow_copy"
        self._frames.share(cached)
        return cached, "file"

    def _break_sharing(self, gva: Gva, at: Gpa, entry: int) -> str:
        old = Gpa(entry & pte.ADDRESS)
        if self._frames.shares(old) == 1:
            # Same frame, more rights: the fault itself dropped the TLB's entry for this page.
            self._tables.write(at, entry, self._entries.touched(entry | pte.W, write=True))
            return "cow_reuse"
        is_zero = old == self.zero_frame
        frame = self._frames.take() if is_zero else self._frames.take_copy(old)
        no_execute = bool(entry & pte.NX)
        # Another frame: the old translation goes before the new one comes, as Linux does it.
        self._tables.write(at, entry, 0)
        flush = Flush(self._vcpu, self._frames, loaded=True)
        flush.page(gva)
        flush.drop(old)
        flush.perform()
        new = self._entries.leaf(frame, write=True, no_execute=no_execute)
        self._tables.write(at, 0, new)
        return "cow_zero" if is_zero else "cow_copy"
