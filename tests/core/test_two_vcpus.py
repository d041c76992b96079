"""Two vCPUs of one machine: one memory and one shadow, registers and a TLB for each."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

from hvmmu._core.shadow_mmu import ShadowMmu
from hvmmu.arch import pfec as pf
from hvmmu.arch.regs import CR0_PE, CR0_PG, CR0_WP, CR4_PAE, EFER_LMA, EFER_LME, EFER_NXE
from hvmmu.engine import HwThread
from hvmmu.fault import Cause, Route
from hvmmu.vcpu import Resume, Vcpu

if TYPE_CHECKING:
    from collections.abc import Callable

    from conftest import Kernel, Variant


def second_vcpu(kernel: Kernel) -> Vcpu:
    """Return one more vCPU in the address space of the first."""
    platform = kernel.platform
    assert platform.shadow is not None
    cpu = kernel.vcpu.cpu
    vcpu = Vcpu(
        core=HwThread(cpu),
        engine=type(platform.engine)(platform.memory),
        backend=platform.backend,
        mmu=ShadowMmu(platform.shadow.vm, cpu),
        memory=platform.memory,
        slots=kernel.vcpu.slots,
        vcpu_id=1,
    )
    vcpu.page_fault = lambda _: Resume.SKIP
    vcpu.write_cr4(CR4_PAE)
    vcpu.write_efer(EFER_LME | EFER_LMA | EFER_NXE)
    vcpu.write_cr3(kernel.PML4)
    vcpu.write_cr0(CR0_PE | CR0_PG | CR0_WP)
    return vcpu


@pytest.fixture
def both(boot: Callable[..., Kernel], hypervised: Variant) -> tuple[Kernel, Vcpu]:
    """Return a kernel on the first vCPU, and the second."""
    kernel = boot(hypervised)
    return kernel, second_vcpu(kernel)


def test_they_share_a_root(both: tuple[Kernel, Vcpu]) -> None:
    """If wrong, each vCPU shadows the guest's tables again."""
    kernel, other = both
    shadow = kernel.platform.shadow
    assert shadow is not None
    assert isinstance(other.mmu, ShadowMmu)
    assert other.mmu.root is not None
    assert other.mmu.root.hpa == (shadow.root and shadow.root.hpa)
    kernel.vcpu.store(kernel.FREE, 7)
    assert other.load(kernel.FREE) == 7


def test_each_walks_from_its_own_root(both: tuple[Kernel, Vcpu]) -> None:
    """If wrong, a CR3 load of one vCPU moves the other to another address space."""
    kernel, other = both
    elsewhere = kernel.FREE
    for at in range(0, 4096, 8):
        kernel.vcpu.store(elsewhere + at, kernel.vcpu.peek(kernel.PML4 + at))
    kernel.map(0, kernel.FREE + 0x1000 | kernel.RW)
    kernel.vcpu.store(kernel.FREE + 0x1000, 11)
    kernel.vcpu.store(kernel.USER_PT + 8, kernel.FREE + 0x2000 | kernel.RW)
    other.write_cr3(elsewhere)
    assert other.cr3 == elsewhere
    assert kernel.vcpu.cr3 == kernel.PML4
    assert other.core.regs.cr3 != kernel.vcpu.core.regs.cr3
    assert other.load(kernel.user(0)) == kernel.vcpu.load(kernel.user(0)) == 11


def test_a_table_is_protected_from_both(both: tuple[Kernel, Vcpu]) -> None:
    """If wrong, a store through the other vCPU's stale TLB changes a shadowed table unseen."""
    kernel, other = both
    table = kernel.FREE
    other.store(table, 0)  # its TLB may write there from now on
    before = other.ledger.remote_flushes
    kernel.vcpu.store(kernel.PD + 8 * 5, table | kernel.LINK)
    gva = 5 << 21
    kernel.vcpu.store(table, kernel.FREE + 0x1000 | kernel.RW)
    kernel.vcpu.load(gva)  # shadows the table, and write-protects it
    written = other.ledger.total(Route.EMULATE, cause=Cause.TABLE_WRITE)
    other.store(table, kernel.FREE + 0x2000 | kernel.RW)
    assert other.ledger.remote_flushes > before
    assert other.ledger.total(Route.EMULATE, cause=Cause.TABLE_WRITE) == written + 1
    kernel.vcpu.invlpg(gva)
    kernel.vcpu.store(kernel.FREE + 0x2000, 5)
    assert kernel.vcpu.load(gva) == other.load(gva) == 5


def test_a_root_that_the_other_zaps(boot: Callable[..., Kernel], hypervised: Variant) -> None:
    """If wrong, a vCPU walks from a frame that is somebody else's by now."""
    kernel = boot(hypervised, flood_threshold=1)
    other = second_vcpu(kernel)
    shadow = kernel.platform.shadow
    assert shadow is not None
    assert shadow.root is not None
    old = shadow.root.hpa
    other.load(0x1000)
    kernel.vcpu.store(kernel.PML4 + 8 * 100, kernel.SPARE_PT | kernel.LINK)  # a flood: one write
    assert other.load(kernel.PML4 + 8 * 100) == kernel.SPARE_PT | kernel.LINK
    assert isinstance(other.mmu, ShadowMmu)
    assert other.mmu.root is not None
    assert (other.mmu.root.hpa, other.core.regs.cr3) != (old, old) or old == shadow.root.hpa
    assert other.ledger.remote_flushes == 1


def test_alone_nothing_is_remote(boot: Callable[..., Kernel], variant: Variant) -> None:
    """If wrong, a machine of one vCPU pays for others."""
    kernel = boot(variant)
    kernel.mapping(3, kernel.FREE | kernel.RW)
    kernel.vcpu.run(memoryview(b"\0" * 8).cast("Q"), bytes([pf.READ]))
    assert kernel.vcpu.ledger.remote_flushes == 0
