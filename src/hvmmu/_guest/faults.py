"""The guest's page-fault handler: log, judge, resolve; it never learns how a fault reached it.

All of it is in `_core/guest.c`, and its books are read here.
"""

from __future__ import annotations

import hashlib
from typing import TYPE_CHECKING

from hvmmu._core.binding import ffi, lib
from hvmmu._guest.policy import CAUSES

if TYPE_CHECKING:
    from hvmmu._guest.kernel import Kernel


class FaultLog:
    """A running digest of every fault's address and error code, in order."""

    def __init__(self, kernel: Kernel) -> None:
        self._state = kernel.state
        self._digest = hashlib.sha256()
        kernel.drain = self._drain

    def _drain(self) -> None:
        self._digest.update(ffi.buffer(self._state.log, self._state.log_bytes))
        self._state.log_bytes = 0

    @property
    def count(self) -> int:
        """Count the faults since boot."""
        return int(self._state.faults)

    @property
    def sha256(self) -> str:
        """Return the digest so far: 12 bytes a fault, CR2 then the error code, little-endian."""
        self._drain()
        return self._digest.hexdigest()


class PageFaultHandler:
    """Handle the faults of whichever process runs."""

    def __init__(self, kernel: Kernel) -> None:
        self._kernel, self._state = kernel, kernel.state
        self.log = FaultLog(kernel)

    @property
    def last(self) -> tuple[int, int]:
        """The address and the error code of the last fault."""
        return self._state.last_gva, self._state.last_pfec

    @property
    def repeats(self) -> int:
        """How often the last fault was taken in a row."""
        return int(self._state.repeats)

    @property
    def counters(self) -> dict[str, int]:
        """The handled faults by cause, since boot."""
        return dict(zip(CAUSES, self._state.causes, strict=False))

    def forget_last(self) -> None:
        """Begin counting repeats anew: mappings have changed since the last fault."""
        self._state.repeats = 0

    def handle(self, gva: int, pfec: int) -> None:
        """Resolve a fault.

        Raise SegfaultError if the workload may not do what it did, InvariantError for a fault that
        no right machine delivers: a reserved bit, the kernel's own memory, or the same for ever.
        """
        self._kernel.call(lib.hv_guest_page_fault, self._kernel.cpu, gva, pfec)
