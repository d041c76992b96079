"""Machines to test: every installed backend, and a guest kernel small enough to see through."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, ClassVar

import attrs
import pytest

from hvmmu import _plugins as plugins
from hvmmu._mmu_params import MmuParams
from hvmmu.arch import pte
from hvmmu.arch.regs import (
    CR0_PE,
    CR0_PG,
    CR0_WP,
    CR4_PAE,
    EFER_LMA,
    EFER_LME,
    EFER_NXE,
    CpuFeatures,
)
from hvmmu.backend import Backend, Caps, Paging
from hvmmu.generic import GenericDeprivilegedBackend
from hvmmu.machine import Platform, build
from hvmmu.spec.audit import audit
from hvmmu.spec.engine import ReferenceEngine
from hvmmu.spte import Nonpresent
from hvmmu.vcpu import Resume

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

CPU = CpuFeatures(maxphyaddr=46)
TRAP = 0xFFFF_FFFF_FFFF_F001


class Deprivileged(GenericDeprivilegedBackend):
    """A guest that runs as user throughout, and all of whose page faults exit."""

    name = "deprivileged"
    summary = "for tests"


class DeprivilegedFiltering(GenericDeprivilegedBackend):
    """The same, with its not-present faults delivered by the switcher."""

    name = "deprivileged-filtering"
    summary = "for tests"
    caps = Caps(Paging.SHADOW, filters_page_faults=True, deprivileged=True)

    def page_faults(self) -> int:
        """Return those with P."""
        return sum(1 << pfec for pfec in range(1, 64, 2))

    def nonpresent(self) -> Nonpresent:
        """Return the values that go with that."""
        return Nonpresent(trap=TRAP)


@attrs.frozen
class Variant:
    """A backend, and one setting of the booleans that it is compared over."""

    backend: type[Backend[Any]]
    params: Any

    @property
    def hypervised(self) -> bool:
        """Say whether a hypervisor stands between guest and hardware."""
        return self.backend.caps.paging is not Paging.BARE

    @property
    def deprivileged(self) -> bool:
        """Say whether hardware runs the guest's kernel as user."""
        return self.backend.caps.deprivileged


def variants() -> Iterator[Any]:
    """Yield every installed backend, with each boolean it is compared over off and on."""
    for name, backend in plugins.load().backends.items():
        if not backend.compare_params:
            yield pytest.param(Variant(backend, backend.params()), id=name)
        for over in backend.compare_params:
            for on in (False, True):
                params = backend.params(**{over: on})
                yield pytest.param(Variant(backend, params), id=f"{name}-{over}={on:d}")
    for backend in (Deprivileged, DeprivilegedFiltering):
        yield pytest.param(Variant(backend, backend.params()), id=backend.name)


ALL = list(variants())
HYPERVISED = [one for one in ALL if one.values[0].hypervised]
DEPRIVILEGED = [one for one in ALL if one.values[0].deprivileged]


@pytest.fixture(params=ALL)
def variant(request: pytest.FixtureRequest) -> Variant:
    """Return one backend with one setting; the test runs for all."""
    return request.param


@pytest.fixture(params=HYPERVISED)
def hypervised(request: pytest.FixtureRequest) -> Variant:
    """Return one backend that is not native, with one setting; the test runs for all."""
    return request.param


@pytest.fixture(params=DEPRIVILEGED)
def deprivileged(request: pytest.FixtureRequest) -> Variant:
    """Return one backend whose guests run as user throughout; the test runs for all."""
    return request.param


@pytest.fixture
def privileged(variant: Variant) -> None:
    """Leave out backends whose guests have no SMEP, SMAP and keys, and one root for each mode."""
    if variant.deprivileged:
        pytest.skip("hardware runs this guest's kernel in user mode")


class Kernel:
    """A guest kernel with the first 2 MiB mapped to themselves, for it alone, and user pages."""

    RAM: ClassVar[int] = 16 << 20
    PML4, PDPT, PD, PT, USER_PT, SPARE_PT = (0x1000 * n for n in range(1, 7))
    USER: ClassVar[int] = 2 << 20
    """Where the user's pages begin: 512 entries in USER_PT, none of them present at first."""
    FREE: ClassVar[int] = 0x10_0000
    """Frames from here on are used by nobody."""
    HOLE: ClassVar[int] = 1 << 40
    LINK: ClassVar[int] = pte.P | pte.W | pte.U | pte.A
    RW: ClassVar[int] = pte.P | pte.W | pte.U | pte.A | pte.D
    RO: ClassVar[int] = pte.P | pte.U | pte.A | pte.D
    KERNEL: ClassVar[int] = pte.P | pte.W | pte.A | pte.D

    def __init__(self, platform: Platform) -> None:
        self.platform, self.vcpu = platform, platform.vcpu
        self.faults: list[tuple[int, int]] = []
        """CR2 and error code of each fault taken."""
        self.answer: Callable[[], Resume] = lambda: Resume.SKIP
        """What the fault handler does, after it has noted the fault."""
        store = self.vcpu.boot_store
        store(self.PML4, self.PDPT | self.LINK)
        store(self.PDPT, self.PD | self.LINK)
        for nth, table in enumerate((self.PT, self.USER_PT, self.SPARE_PT)):
            store(self.PD + 8 * nth, table | self.LINK)
        for page in range(512):
            store(self.PT + 8 * page, page << 12 | self.KERNEL)
        self.no_handler = self.vcpu.page_fault
        """The handler that a vCPU has before anybody sets one."""
        self.vcpu.page_fault = self._page_fault
        self.boot()

    def boot(self, cr0: int = CR0_WP, cr4: int = 0, efer: int = EFER_NXE) -> None:
        """Turn paging on, and clear the ledger."""
        self.vcpu.write_cr4(CR4_PAE | cr4)
        self.vcpu.write_efer(EFER_LME | EFER_LMA | efer)
        self.vcpu.write_cr3(self.PML4)
        self.vcpu.write_cr0(CR0_PE | CR0_PG | cr0)
        self.vcpu.ledger.clear()

    def _page_fault(self, pfec: int) -> Resume:
        self.faults.append((self.vcpu.cr2, pfec))
        return self.answer()

    def user(self, page: int) -> int:
        """Return the address of a user page."""
        return self.USER + (page << 12)

    def slot(self, page: int) -> int:
        """Return the kernel's address of the entry of a user page."""
        return self.USER_PT + 8 * page

    def map(self, page: int, entry: int) -> None:
        """Write the entry of a user page, and flush what that owes."""
        self.vcpu.store(self.slot(page), entry)
        self.vcpu.invlpg(self.user(page))

    def mapping(self, page: int, entry: int, resume: Resume = Resume.RETRY) -> None:
        """Have the fault handler map a user page."""

        def answer() -> Resume:
            self.vcpu.store(self.slot(page), entry)
            return resume

        self.answer = answer


@pytest.fixture
def boot() -> Iterator[Callable[..., Kernel]]:
    """Return the function that boots a kernel on a backend; its shadow is audited at the end."""
    booted: list[Platform] = []

    def make(on: Variant, cpu: CpuFeatures = CPU, **params: bool | int) -> Kernel:
        backend = on.backend(on.params, cpu, frozenset())
        # the engine whose TLB can be looked into
        made = build(backend, cpu, MmuParams(**params), Kernel.RAM, engine=ReferenceEngine)
        booted.append(made)
        return Kernel(booted[-1])

    yield make
    for platform in booted:
        if platform.shadow is not None:
            audit(platform.shadow, platform.vcpu.slots)
        platform.memory.close()


@pytest.fixture
def kernel(boot: Callable[..., Kernel], variant: Variant) -> Kernel:
    """Return a booted kernel; the test runs on every backend."""
    return boot(variant)
