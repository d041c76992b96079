"""The world switch: out of the guest and back in, with all that happens on the way.

On a bare machine nothing is ever left, and what is asked of hardware is done at once.
"""

from typing import TYPE_CHECKING, Any, TypeVar

import attrs

from hvmmu.arch.regs import Regs
from hvmmu.backend import Backend, Entry, Exit, Paging
from hvmmu.errors import InvariantError
from hvmmu.hw.engine import Core, Engine
from hvmmu.hw.tlb import Scope
from hvmmu.ledger import Ledger
from hvmmu.mmu.flush import Flush

if TYPE_CHECKING:
    from collections.abc import Callable

E = TypeVar("E", bound=Exit)


class WorldSwitch:
    """One vCPU's way between guest and hypervisor, over its control structure."""

    def __init__(self, core: Core, engine: Engine, backend: Backend[Any], ledger: Ledger) -> None:
        self._core, self._engine, self._backend, self._ledger = core, engine, backend, ledger
        self.hypervised = backend.caps.paging is not Paging.BARE
        self.control = backend.create_vcpu(0)
        self.intercepts = backend.intercepts(self.control)
        core.exit_filter = backend.exit_filter(self.control)
        self.on_exit: Callable[..., Any] | None = None
        """Sees each exit first (argument *what*), and may return another one of its kind."""

    def leave(self, what: E) -> E:
        """Exit, and read back why: all that passes is in the control structure."""
        self._backend.record_exit(self.control, self._core, what)
        self._ledger.exits[self._backend.exit_reason(self.control)] += 1
        read = self._backend.decode_exit(self.control, self._core)
        if type(read) is not type(what):
            raise InvariantError(f"{self._backend.name} recorded {what} and read back {read}")
        if self.on_exit is None:
            return read
        answer: E | None = self.on_exit(what=read)
        return read if answer is None else answer

    def enter(self) -> Entry:
        """Enter the guest; return what hardware did, after the flush in it is done."""
        entry = self._backend.enter(self.control, self._core)
        if entry.flush is not None:
            self._flush(entry.flush, entry.gva)
        return entry

    def load(self, regs: Regs, flush: Flush) -> None:
        """Put hardware's registers in force, and ask for the flush that goes with them."""
        if self.hypervised and regs != self._core.regs:
            self._backend.load_root(self.control, regs.cr3)
            regs = attrs.evolve(regs, cr3=self._backend.root(self.control))
        if regs != self._core.regs:
            self._engine.load_regs(self._core, regs)
        self.perform(flush)

    def inject_page_fault(self, gva: int, pfec: int) -> None:
        """Have the guest take a page fault when it is next entered."""
        self._backend.inject_page_fault(self.control, self._core, gva, pfec)

    def perform(self, flush: Flush) -> None:
        """Ask for a flush: done before the guest runs on."""
        flush.perform(self._request if self.hypervised else self._flush)

    def _request(self, scope: Scope, gva: int) -> None:
        self._backend.flush_tlb(self.control, scope, gva)

    def _flush(self, scope: Scope, gva: int) -> None:
        self._ledger.tlb_flushes += 1
        self._engine.flush(scope, gva)
