"""Failures: no frames, no memory, an engine that refuses; and each is an error with a message."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

from hvmmu._core.engine import lib
from hvmmu._core.shadow_mmu import ShadowMmu, ShadowVm
from hvmmu._core.shadow_pages import checked
from hvmmu._mmu_params import MmuParams
from hvmmu.arch import pte
from hvmmu.arch.paging import LONG4
from hvmmu.errors import GuestMemoryError
from hvmmu.fault import PageFault

if TYPE_CHECKING:
    from collections.abc import Callable

    from conftest import Bench

VA, NEXT = 0x7F00_0000_1000, 0x7F00_0000_2000
FRAME = 0x10_0000
RW = pte.P | pte.W | pte.U | pte.A | pte.D


def test_frames_run_out(build: Callable[..., Bench]) -> None:
    """If wrong, shadow tables grow into guest memory, or the process ends."""
    bench = build(frames=4)  # the root's and two more
    bench.map(VA, FRAME | RW)
    bench.load()
    with pytest.raises(GuestMemoryError, match=r"no host frame left.*raise mmu\.shadow_pages"):
        bench.mmu.handle(PageFault(VA, pte.U))
    bench.audit()
    assert len(bench.pages) == 3
    bench.perform(bench.pages.zap_page(bench.pages.shadows_of(bench.slot(VA, 2) >> 12)[0]))
    with pytest.raises(GuestMemoryError):
        bench.mmu.handle(PageFault(VA, pte.U))
    bench.audit()


def test_a_root_without_a_frame(build: Callable[..., Bench]) -> None:
    """If wrong, hardware is given a root at host-physical 0."""
    bench = build(frames=1)
    with pytest.raises(GuestMemoryError, match="no host frame left"):
        bench.load()
    assert bench.mmu.root is None
    with pytest.raises(GuestMemoryError, match="no host frame left"):
        bench.mmu.reload()


def test_no_memory_for_the_books() -> None:
    """If wrong, the host's memory running out ends the interpreter."""
    with pytest.raises(GuestMemoryError, match=r"lower mmu\.shadow_pages or guest\.memory"):
        checked(lib.HV_NO_HOST_MEMORY)


class Stubborn(Exception):  # noqa: N818 - a test's own
    """What an engine raises."""


def test_an_engine_stores_each_entry(build: Callable[..., Bench]) -> None:
    """If wrong, an engine that keeps entries elsewhere walks tables that are out of date."""
    bench = build()
    bench.map(VA, FRAME | RW)
    bench.access(VA, bench.WRITE)
    stored: dict[int, int] = {}
    vm = ShadowVm(
        bench.slots, bench.nonpresent, MmuParams(), end_frame=99, write=stored.__setitem__
    )
    mmu = ShadowMmu(vm, bench.core.cpu)
    bench.sound = False  # the two share frames
    hardware, flush = mmu.load_guest(bench.mmu.guest_regs)
    flush.forgo("nothing runs")
    mmu.handle(PageFault(VA, 6))[1].forgo("nothing runs")
    links = [hardware.cr3 + 8 * LONG4.levels[0].index(VA)]
    while links[-1] in stored and len(links) < 4:
        table, level = stored[links[-1]] & pte.ADDRESS, LONG4.levels[len(links)]
        links.append(table + 8 * level.index(VA))
    assert set(stored) == set(links)
    assert stored[links[-1]] & pte.ADDRESS == bench.hpa(FRAME)


def test_an_engine_that_cannot_store(build: Callable[..., Bench]) -> None:
    """If wrong, an engine's error is lost on its way through C, and the run goes on."""
    bench = build()
    bench.map(VA, FRAME | RW)

    def write(hpa: int, value: int) -> None:
        raise Stubborn(hpa, value)

    vm = ShadowVm(bench.slots, bench.nonpresent, MmuParams(), end_frame=99, write=write)
    mmu = ShadowMmu(vm, bench.core.cpu)
    bench.load()
    bench.sound = False
    mmu.load_guest(bench.mmu.guest_regs)[1].forgo("nothing runs")
    with pytest.raises(Stubborn):
        mmu.handle(PageFault(VA, 6))
    mmu.reload()[1].forgo("nothing runs")
