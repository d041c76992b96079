"""The shadow MMU against what a real Linux kernel's shadow MMU counted, guest by guest.

The recorded guest walks a list of accesses in ring 3; KVM's instruction emulator ran its ring-0
fault handler, whose one store to a page table therefore costs no fault here either.
"""

from __future__ import annotations

import json
import lzma
from array import array
from pathlib import Path
from typing import TYPE_CHECKING

import attrs
import pytest

from hvmmu import _plugins as plugins
from hvmmu._mmu_params import MmuParams
from hvmmu.arch import pfec as pf
from hvmmu.arch import pte
from hvmmu.arch.regs import CR0_PE, CR0_PG, CR0_WP, CR4_PAE, EFER_LMA, EFER_LME, CpuFeatures
from hvmmu.backend import Backend, Paging
from hvmmu.engine import EXIT_ALWAYS
from hvmmu.fault import Route
from hvmmu.machine import Platform, build
from hvmmu.vcpu import Resume, Vcpu

if TYPE_CHECKING:
    from hvmmu.ledger import Ledger

RECORDED = Path(__file__).with_name("linux-kvm-shadow-counters.jsonl.xz")
CASES = 100

RAM = 16 << 20
CODE = 0x1000
PML4, PDPT, PD, PT = 0x10000, 0x11000, 0x12000, 0x13000
TABLES = 3
"""Page tables from PT on: the identity map of the first 6 MiB."""
FIRST_PAGE = 0x100
"""The test range begins here; flags[0] is this page's."""
LIST = 0x400000
"""Where the guest's list of accesses begins: one word each, and one that ends it."""
LINK = pte.P | pte.W | pte.U
ENTRY = {"-": 0, "r": pte.P | pte.U, "w": LINK}
FETCH, READ, WRITE = (pf.U | kind for kind in (pf.FETCH, pf.READ, pf.WRITE))
CPU = CpuFeatures(maxphyaddr=46, nx=False, smep=False, smap=False, pku=False)


@attrs.frozen
class Case:
    """One recorded guest, and what the kernel counted."""

    seed: int
    flags: str
    accesses: str
    pf_taken: int
    pf_fixed: int
    pf_guest: int

    def program(self) -> tuple[array[int], bytes]:
        """Return the accesses: for each one of the list the code, the list's word, and itself."""
        gva, kind = array("Q"), bytearray()
        for nth, access in enumerate(self.accesses.split()):
            gva.extend((CODE, LIST + 8 * nth, (int(access[:-1], 16) << 12) + 8))
            kind.extend((FETCH, READ, WRITE if access[-1] == "w" else READ))
        gva.append(LIST + 8 * (len(gva) // 3))
        kind.append(READ)
        return gva, bytes(kind)


@pytest.fixture(scope="module")
def cases() -> list[Case]:
    """Return the recorded guests."""
    names = [field.name for field in attrs.fields(Case)]
    with lzma.open(RECORDED, "rt") as file:
        return [Case(**{name: case[name] for name in names}) for case in map(json.loads, file)]


def variants() -> list[object]:
    """Return each installed shadow backend, with each boolean it is compared over off and on."""
    found = []
    for name, backend in plugins.load().backends.items():
        if backend.caps.paging is not Paging.SHADOW:
            continue
        for over in backend.compare_params or (None,):
            for on in (False, True) if over else (None,):
                params = backend.params(**({over: on} if over else {}))
                label = f"{name}-{over}={on:d}" if over else name
                found.append(pytest.param(backend(params, CPU, frozenset()), id=label))
    none = pytest.mark.skip("no backend that shadows is installed")
    return found or [pytest.param(None, marks=none)]


def boot(backend: Backend, flags: str, params: MmuParams) -> Platform:
    """Build the guest's tables, turn its paging on, and give it its fault handler."""
    platform = build(backend, CPU, params, RAM)
    vcpu = platform.vcpu
    vcpu.boot_store(PML4, PDPT | LINK)
    vcpu.boot_store(PDPT, PD | LINK)
    for nth in range(TABLES):
        vcpu.boot_store(PD + 8 * nth, PT + nth * 0x1000 | LINK)
    for page in range(512 * TABLES):
        tested = FIRST_PAGE <= page < FIRST_PAGE + len(flags)
        access = ENTRY[flags[page - FIRST_PAGE]] if tested else LINK
        vcpu.boot_store(PT + 8 * page, page << 12 | access if access else 0)
    vcpu.write_cr4(CR4_PAE)
    vcpu.write_efer(EFER_LME | EFER_LMA)
    vcpu.write_cr3(PML4)
    vcpu.write_cr0(CR0_PE | CR0_WP | CR0_PG)
    vcpu.page_fault = lambda _: map_page(vcpu)
    vcpu.ledger.clear()
    return platform


def map_page(vcpu: Vcpu) -> Resume:
    """Handle a fault as the recorded guest did: its store is emulated, and the exit is not ours."""
    page = vcpu.cr2 >> 12
    vcpu.perform(vcpu.mmu.emulate_store(PT + 8 * page, page << 12 | LINK, 8))
    vcpu.enter()
    return Resume.RETRY


def counted(backend: Backend, case: Case, params: MmuParams) -> Ledger:
    """Run a recorded guest; return the ledger."""
    platform = boot(backend, case.flags, params)
    platform.vcpu.run(*case.program())
    platform.memory.close()
    return platform.vcpu.ledger


def compare(backend: Backend, cases: list[Case], params: MmuParams) -> None:
    """Hold the three counters of every case against the kernel's."""
    filtered = backend.exit_filter(backend.create_vcpu(0)) != EXIT_ALWAYS
    for case in cases:
        ledger = counted(backend, case, params)
        fixed = ledger.total(Route.INSTALL, Route.ACCESSED_DIRTY)
        bypassed = ledger.total(Route.BYPASS)
        injected = ledger.total(Route.INJECT)
        taken = sum(ledger.exits.values())
        assert (taken + bypassed, fixed, injected + bypassed) == (
            case.pf_taken,
            case.pf_fixed,
            case.pf_guest,
        ), case
        assert bool(bypassed) is (filtered and "-" in case.flags), case


@pytest.mark.parametrize("backend", variants())
def test_recorded_guests(backend: Backend, cases: list[Case]) -> None:
    """If wrong, our shadow MMU does not route page faults as a real kernel's does.

    Where the backend filters, what it bypasses must be exactly what it no longer injects: the
    kernel did not filter, so a fifth of the guests is enough for that.
    """
    assert len(cases) == CASES
    filtered = backend.exit_filter(backend.create_vcpu(0)) != EXIT_ALWAYS
    compare(backend, cases[::5] if filtered else cases, MmuParams())


@pytest.mark.parametrize("backend", variants())
@pytest.mark.parametrize(
    "params",
    [
        MmuParams(flood_threshold=0),
        MmuParams(flood_threshold=1 << 20),
        MmuParams(update_on_write=False),
        MmuParams(large_pages=False),
    ],
    ids=["no-flood", "late-flood", "no-update-on-write", "no-large-pages"],
)
def test_parameters_that_do_not_matter(
    backend: Backend, cases: list[Case], params: MmuParams
) -> None:
    """If wrong, a parameter changes what happens to a guest that gives it no occasion.

    This guest uses what it writes before it writes again, never sets A itself, and has no large
    page.
    """
    compare(backend, cases[::20], params)


def test_the_recording_is_what_it_is_said_to_be(cases: list[Case]) -> None:
    """If wrong, the recording was cut or mixed up, and the tests above show less than they say."""
    assert [case.seed for case in cases] == sorted({case.seed for case in cases})
    assert all(case.pf_taken == case.pf_fixed + case.pf_guest for case in cases)
    assert sum(case.pf_guest for case in cases) > 10_000
