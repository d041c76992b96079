"""The guest's page-fault handler: log, judge, resolve; it never learns how a fault reached it."""

from __future__ import annotations

import hashlib
import struct
from typing import TYPE_CHECKING

from hvmmu._guest.layout import USER_END
from hvmmu.arch import pfec as pf
from hvmmu.errors import InputError, InvariantError
from hvmmu.steps import PROT_EXEC, PROT_NONE, PROT_WRITE
from hvmmu.types import PAGE_SIZE, Buffer, Gva

if TYPE_CHECKING:
    from hvmmu._guest.pager import Pager
    from hvmmu._guest.process import Process
    from hvmmu._guest.regions import Region

MOST_REPEATS = 8
"""The same fault this often in a row, with nothing between: resolving it has no effect."""

_RECORD = struct.Struct("<QI")
_EXPECTED = pf.P | pf.KIND


class SegfaultError(InputError):
    """The workload touched memory that its process may not touch so."""

    def __init__(self, pid: int, gva: int, pfec: int, why: str) -> None:
        """Keep the faulting address and the error code."""
        self.pid, self.gva, self.pfec = pid, gva, pfec
        super().__init__(
            f"process {pid} at {gva:#x} ({pf.describe(pfec)}): {why};"
            " map it so before the workload touches it"
        )


class FaultLog:
    """A running digest of every fault's address and error code, in order."""

    def __init__(self) -> None:
        self.count = 0
        self._digest = hashlib.sha256()

    def add(self, gva: int, pfec: int) -> None:
        """Add one fault."""
        self.count += 1
        self._digest.update(_RECORD.pack(gva, pfec))

    def add_all(self, records: Buffer) -> None:
        """Add faults as they go into the digest: 12 bytes each."""
        self.count += memoryview(records).nbytes // _RECORD.size
        self._digest.update(records)

    @property
    def sha256(self) -> str:
        """Return the digest so far: 12 bytes a fault, CR2 then the error code, little-endian."""
        return self._digest.hexdigest()


class PageFaultHandler:
    """Handle the faults of whichever process runs."""

    def __init__(self, pager: Pager) -> None:
        self.log = FaultLog()
        self._pager = pager
        self.last = (0, 0)
        self.repeats = 0
        """How often the last fault, which *last* names, was taken in a row."""

    def forget_last(self) -> None:
        """Begin counting repeats anew: mappings have changed since the last fault."""
        self.repeats = 0

    def handle(self, process: Process, gva: int, pfec: int) -> None:
        """Resolve a fault.

        Raise SegfaultError if the workload may not do what it did, InvariantError for a fault that
        no right machine delivers: a reserved bit, the kernel's own memory, or the same for ever.
        """
        self.log.add(gva, pfec)
        self._refuse_impossible(gva, pfec)
        if gva >= USER_END:
            raise SegfaultError(process.pid, gva, pfec, "user mode touched kernel addresses")
        region = process.regions.find(gva)
        why = _why_illegal(region, pfec)
        if region is None or why:
            raise SegfaultError(process.pid, gva, pfec, why)
        self._pager.resolve(process, region, Gva(gva & -PAGE_SIZE), pfec)

    def _refuse_impossible(self, gva: int, pfec: int) -> None:
        what = f"guest page fault at {gva:#x} ({pf.describe(pfec)})"
        if pfec & ~_EXPECTED:
            raise InvariantError(f"{what}: this guest sets up nothing that could raise it")
        if gva >= USER_END and not pfec & pf.U:
            raise InvariantError(f"{what}: the direct map is always present and writable")
        self.repeats = self.repeats + 1 if (gva, pfec) == self.last else 1
        self.last = (gva, pfec)
        if self.repeats >= MOST_REPEATS:
            raise InvariantError(f"{what}: delivered {MOST_REPEATS} times in a row for nothing")


def _why_illegal(region: Region | None, pfec: int) -> str:
    """Return why *region* does not allow the access, or nothing.

    Any protection but PROT_NONE lets x86 read, and without NX a fetch is seen as a read.
    """
    if region is None:
        return "nothing is mapped there"
    if pfec & pf.W and not region.prot & PROT_WRITE:
        return "the mapping is not writable"
    if pfec & pf.ID and not region.prot & PROT_EXEC:
        return "the mapping is not executable"
    return "the mapping allows no access" if region.prot == PROT_NONE else ""
