"""The system calls a process changes its address space with: mmap, munmap, mprotect, fork, exit."""

from __future__ import annotations

from typing import TYPE_CHECKING

from hvmmu._guest.flush import Flush
from hvmmu._guest.layout import LARGE_PAGE, USER_END, slot
from hvmmu._guest.process import Process
from hvmmu._guest.ptes import is_downgrade, protect
from hvmmu._guest.regions import PageCache, Region
from hvmmu.arch import pte
from hvmmu.errors import InputError
from hvmmu.steps import PROT_EXEC, PROT_READ, PROT_WRITE, Backing, Mmap
from hvmmu.types import PAGE_SIZE, Gpa, Gva

if TYPE_CHECKING:
    from hvmmu._guest.frames import Frames
    from hvmmu._guest.tables import Tables
    from hvmmu.vcpu import Vcpu


class Syscalls:
    """Change address spaces; *loaded* says that CR3 holds the process in question.

    Every check comes before the first change: a refused call has had no effect.
    """

    def __init__(self, vcpu: Vcpu, frames: Frames, tables: Tables) -> None:
        self._vcpu, self._frames, self._tables = vcpu, frames, tables

    def mmap(self, process: Process, step: Mmap) -> None:
        """Map a range; raise InputError if it is no range or something is mapped there."""
        end = _end(step.start, step.pages, f"mmap in process {process.pid}", prot=step.prot)
        taken = process.regions.within(step.start, end)
        if taken:
            raise InputError(
                f"mmap in process {process.pid}: {taken[0].start:#x} is mapped already;"
                " unmap it first"
            )
        cache = None if step.backing is Backing.ANONYMOUS else PageCache(step.pages)
        process.regions.insert(Region(step.start, end, step.prot, step.backing, cache))

    def munmap(self, process: Process, start: Gva, pages: int, *, loaded: bool) -> None:
        """Unmap a range, holes in it included, and free what it alone used."""
        end = _end(start, pages, f"munmap in process {process.pid}")
        flush = Flush(self._vcpu, self._frames, loaded=loaded)
        for region in process.regions.within(start, end):
            for gva, at, entry in self._tables.leaves(process.root, region.start, region.end):
                self._tables.write(at, entry, 0)
                flush.drop(Gpa(entry & pte.ADDRESS))
                if entry & pte.P:
                    flush.page(gva)
            self._forget_file(region, flush)
        process.regions.remove(start, end)
        unlinked = self._tables.prune(process.root, start, end)
        flush.perform(start if unlinked else None)
        self._tables.free_unlinked()

    def mprotect(
        self, process: Process, start: Gva, pages: int, prot: int, *, loaded: bool
    ) -> None:
        """Change the protection of a range; raise InputError if any of it is not mapped."""
        call = f"mprotect in process {process.pid}"
        end = _end(start, pages, call, prot=prot)
        parts = process.regions.within(start, end)
        _refuse_holes(parts, start, end, call)
        flush = Flush(self._vcpu, self._frames, loaded=loaded)
        for part in parts:
            if part.prot != prot:
                self._protect(process, part, prot, flush)
        process.regions.protect(start, end, prot)
        flush.perform()

    def fork(self, parent: Process, pid: int, *, loaded: bool) -> Process:
        """Return the new process *pid*: a copy of *parent*, frames shared until written."""
        child = Process(pid, self._tables.new_root(parent.root), parent.regions.copy())
        flush = Flush(self._vcpu, self._frames, loaded=loaded)
        for region in parent.regions:
            if region.cache is not None:
                region.cache.pages += region.pages
            self._copy_pages(parent, child, region, flush)
        flush.perform()
        return child

    def exit(self, process: Process) -> None:
        """Give back all that *process* has; CR3 must hold another's tables."""
        self.munmap(process, Gva(0), USER_END // PAGE_SIZE, loaded=False)
        self._tables.free_root(process.root)

    def _copy_pages(self, parent: Process, child: Process, region: Region, flush: Flush) -> None:
        table, table_end = Gpa(0), region.start
        for gva, at, entry in self._tables.leaves(parent.root, region.start, region.end):
            shared = entry & ~pte.W
            if entry & pte.W:
                self._tables.write(at, entry, shared)
                if is_downgrade(entry, shared):
                    flush.page(gva)
            self._frames.share(Gpa(entry & pte.ADDRESS))
            if gva >= table_end:
                table = self._tables.leaf_slot(child.root, gva)
                table_end = Gva((gva | LARGE_PAGE - 1) + 1)
            # The child has touched nothing yet: it begins with A clear, as in Linux.
            self._tables.write(slot(table & -PAGE_SIZE, gva, 1), 0, shared & ~pte.A)

    def _protect(self, process: Process, part: Region, prot: int, flush: Flush) -> None:
        for gva, at, entry in self._tables.leaves(process.root, part.start, part.end):
            exclusive = self._frames.shares(Gpa(entry & pte.ADDRESS)) == 1
            new = protect(entry, prot, part.backing, exclusive=exclusive, nx=self._vcpu.cpu.nx)
            if new == entry:
                continue
            self._tables.write(at, entry, new)
            if is_downgrade(entry, new):
                flush.page(gva)

    @staticmethod
    def _forget_file(part: Region, flush: Flush) -> None:
        """Count the pages of *part* out of its file; drop the page cache of a file out of reach."""
        if part.cache is None:
            return
        part.cache.pages -= part.pages
        if not part.cache.pages:
            for frame in part.cache.frames.values():
                flush.drop(frame)


def _end(start: int, pages: int, call: str, *, prot: int = 0) -> Gva:
    """Return the end of a range of the user half; raise InputError if it is none."""
    end = start + pages * PAGE_SIZE
    if start % PAGE_SIZE:
        raise InputError(f"{call}: {start:#x} is not page-aligned; round it to 0x1000")
    if start < 0 or pages < 1 or end > USER_END:
        raise InputError(
            f"{call}: {pages} pages from {start:#x} do not lie below {USER_END:#x};"
            " give at least one page of the user half"
        )
    if prot & ~(PROT_READ | PROT_WRITE | PROT_EXEC):
        raise InputError(f"{call}: protection {prot:#x} is unknown; use bits 1, 2 and 4")
    return Gva(end)


def _refuse_holes(parts: list[Region], start: int, end: int, call: str) -> None:
    expected = start
    for part in parts:
        if part.start != expected:
            break
        expected = part.end
    if expected != end:
        raise InputError(f"{call}: {expected:#x} is not mapped; map it first")
