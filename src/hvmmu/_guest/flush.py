"""The flush that a change of page tables owes, and the frames that must wait for it."""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from hvmmu._guest.frames import Frames
    from hvmmu.types import Gpa, Gva
    from hvmmu.vcpu import Vcpu

SINGLE_PAGE_CEILING = 33
"""More pages than this are flushed by a CR3 load: Linux tlb_single_page_flush_ceiling."""


class Flush:
    """Gather stale pages and unmapped frames; `perform` flushes, then frees.

    SDM "Invalidation of TLBs and Paging-Structure Caches": INVLPG drops one page's translations
    and, whatever its operand, all paging-structure-cache entries; a CR3 load drops everything that
    is not global. *loaded* says whether CR3 holds the changed tables: those of any other process
    left the TLB with the last CR3 load, so nothing is owed for them.
    """

    def __init__(self, vcpu: Vcpu, frames: Frames, *, loaded: bool) -> None:
        self._vcpu, self._frames, self._loaded = vcpu, frames, loaded
        self._pages: list[Gva] = []
        self._dropped: list[Gpa] = []

    def page(self, gva: Gva) -> None:
        """Note that the TLB may hold a translation of *gva* that is no longer allowed."""
        if len(self._pages) <= SINGLE_PAGE_CEILING:
            self._pages.append(gva)

    def drop(self, frame: Gpa) -> None:
        """Note a data frame that lost a mapping."""
        self._dropped.append(frame)

    def perform(self, unlinked: Gva | None = None) -> None:
        """Flush what is stale, then let go of the frames.

        *unlinked* is an address that a table translated which is linked no more.
        """
        if self._loaded:
            self._invalidate(unlinked)
        for frame in self._dropped:
            self._frames.drop(frame)

    def _invalidate(self, unlinked: Gva | None) -> None:
        if len(self._pages) > SINGLE_PAGE_CEILING:
            self._vcpu.write_cr3(self._vcpu.cr3)
        elif self._pages:
            for gva in self._pages:
                self._vcpu.invlpg(gva)
        elif unlinked is not None:
            self._vcpu.invlpg(unlinked)
