"""The vCPU as a guest sees it: the same on every backend, down to the last bit."""

from __future__ import annotations

from array import array
from typing import TYPE_CHECKING
from unittest import mock

import attrs
import pytest

from hvmmu.arch import pfec as pf
from hvmmu.arch import pte
from hvmmu.arch.regs import (
    CR0_PE,
    CR0_PG,
    CR0_WP,
    CR4_LA57,
    CR4_PAE,
    CR4_PGE,
    CR4_PKE,
    CR4_SMAP,
    CR4_SMEP,
    EFER_LMA,
    EFER_LME,
    EFER_NXE,
    CpuFeatures,
)
from hvmmu.backend import Invlpg
from hvmmu.engine import NO_TRANSLATION, Event, HwThread
from hvmmu.errors import InputError, InvariantError
from hvmmu.fault import Cause, Route
from hvmmu.vcpu import Resume

if TYPE_CHECKING:
    from collections.abc import Callable

    from conftest import Kernel, Variant

READ, WRITE, FETCH = (pf.U | kind for kind in (pf.READ, pf.WRITE, pf.FETCH))
ONES = (1 << 64) - 1
SIZES = (1, 2, 4, 8)


def run(kernel: Kernel, *accesses: tuple[int, int]) -> list[int]:
    """Run the user's accesses; return where each landed in guest-physical memory."""
    vas, kinds = zip(*accesses, strict=True)
    translated = array("Q", [0]) * len(vas)
    kernel.vcpu.run(array("Q", vas), bytes(kinds), translated)
    return list(translated)


# Loads and stores.


@pytest.mark.parametrize("size", SIZES)
def test_loads_and_stores(kernel: Kernel, size: int) -> None:
    """If wrong, a guest finds other bytes in its memory than it wrote there."""
    at = kernel.FREE + 0x10
    kernel.vcpu.store(at, ONES)
    value = 0x8877_6655_4433_2211 & (1 << 8 * size) - 1
    kernel.vcpu.store(at + size % 8, value, size)
    assert kernel.vcpu.load(at + size % 8, size) == value
    mask = ((1 << 8 * size) - 1) << 8 * (size % 8)
    assert kernel.vcpu.peek(at) == ONES & ~mask | value << 8 * (size % 8)
    assert kernel.vcpu.ledger.accesses == 3


@pytest.mark.parametrize("size", SIZES[1:])
def test_accesses_must_be_aligned(kernel: Kernel, size: int) -> None:
    """If wrong, an access that crosses a page is made with one translation."""
    at = kernel.FREE + size - 1
    wrong = f"{size} bytes at {at:#x} are not aligned; split the access"
    with pytest.raises(InputError, match=wrong):
        kernel.vcpu.load(at, size)
    with pytest.raises(InputError, match=wrong):
        kernel.vcpu.store(at, 0, size)


def test_the_boot_loader_and_the_debugger_make_no_access(kernel: Kernel) -> None:
    """If wrong, looking at memory changes what is counted."""
    kernel.vcpu.boot_store(kernel.FREE, 7)
    assert kernel.vcpu.peek(kernel.FREE) == 7
    assert kernel.vcpu.peek(kernel.HOLE) == ONES
    assert kernel.vcpu.ledger.accesses == 0


# Faults.


def test_a_fault_that_the_handler_resolves(kernel: Kernel) -> None:
    """If wrong, the guest is not told of its fault, or the access is not made again after it."""
    kernel.mapping(3, kernel.FREE | kernel.RW)
    assert run(kernel, (kernel.user(3) + 8, WRITE)) == [kernel.FREE + 8]
    assert kernel.faults == [(kernel.user(3) + 8, pf.W | pf.U)]
    assert kernel.vcpu.cr2 == kernel.user(3) + 8


def test_faults_in_a_batch(kernel: Kernel) -> None:
    """If wrong, an access is lost, made twice, or charged with another's fault."""
    kernel.map(0, kernel.FREE | kernel.RW)

    def answer() -> Resume:
        page = kernel.vcpu.cr2 - kernel.USER >> 12
        if page == 2:
            return Resume.SKIP
        kernel.vcpu.store(kernel.slot(page), kernel.FREE + (page << 12) | kernel.RO)
        return Resume.RETRY

    kernel.answer = answer
    accesses = [(kernel.user(page), READ) for page in (0, 1, 2, 3, 1, 2)]
    skipped, free = NO_TRANSLATION, kernel.FREE
    translated = [free, free + 0x1000, skipped, free + 0x3000, free + 0x1000, skipped]
    assert run(kernel, *accesses) == translated
    assert [cr2 for cr2, _ in kernel.faults] == [kernel.user(page) for page in (1, 2, 3, 2)]


def test_three_faults_in_a_row(kernel: Kernel) -> None:
    """If wrong, a handler that fails at first never gets another try, or never ends."""
    answers = iter([Resume.RETRY, Resume.RETRY, Resume.SKIP])
    kernel.answer = lambda: next(answers)
    assert run(kernel, (kernel.user(9), FETCH)) == [NO_TRANSLATION]
    assert kernel.faults == [(kernel.user(9), pf.U | pf.ID)] * 3


def test_skipped_accesses(kernel: Kernel) -> None:
    """If wrong, an access that the guest gave up happens after all."""
    assert kernel.vcpu.load(kernel.user(1)) == ONES
    assert kernel.vcpu.load(kernel.user(1), 2) == 0xFFFF
    kernel.vcpu.store(kernel.user(1), 7)
    assert kernel.faults == [(kernel.user(1), 0), (kernel.user(1), 0), (kernel.user(1), pf.W)]


def test_a_fault_in_the_handler(kernel: Kernel) -> None:
    """If wrong, a handler that faults itself mixes up the two accesses."""
    inner, outer = kernel.user(1), kernel.user(2)

    def answer() -> Resume:
        if kernel.vcpu.cr2 == outer:
            kernel.vcpu.store(inner, 0x1234)
            kernel.vcpu.store(kernel.slot(2), kernel.FREE + 0x1000 | kernel.RW)
        else:
            kernel.vcpu.store(kernel.slot(1), kernel.FREE | kernel.RW)
        return Resume.RETRY

    kernel.answer = answer
    kernel.vcpu.store(outer, 0x5678)
    assert kernel.faults == [(outer, pf.W), (inner, pf.W)]
    assert kernel.vcpu.peek(kernel.FREE) == 0x1234
    assert kernel.vcpu.peek(kernel.FREE + 0x1000) == 0x5678


def test_user_code_in_the_middle_of_a_kernels_store(kernel: Kernel) -> None:
    """If wrong, an emulated store writes what another access in between had."""
    outer = kernel.user(2) + 8 * 7

    def answer() -> Resume:
        if kernel.vcpu.cr2 == outer:
            kernel.vcpu.store(kernel.slot(2), kernel.USER_PT | kernel.RW)
            run(kernel, (kernel.user(1), WRITE))
        else:
            kernel.vcpu.store(kernel.slot(1), kernel.FREE | kernel.RW)
        return Resume.RETRY

    kernel.answer = answer
    kernel.vcpu.store(outer, kernel.FREE + 0x7000 | kernel.RW)
    assert kernel.vcpu.peek(kernel.slot(7)) == kernel.FREE + 0x7000 | kernel.RW
    assert run(kernel, (kernel.user(7), WRITE)) == [kernel.FREE + 0x7000]


def test_many_faults_in_a_batch(kernel: Kernel) -> None:
    """If wrong, a batch with many faults counts as one access that never gets through."""
    accesses = [(kernel.user(page), WRITE) for page in range(300)]

    def answer() -> Resume:
        page = kernel.vcpu.cr2 - kernel.USER >> 12
        kernel.vcpu.store(kernel.slot(page), kernel.FREE + (page << 12) | kernel.RW)
        return Resume.RETRY

    kernel.answer = answer
    assert run(kernel, *accesses) == [kernel.FREE + (page << 12) for page in range(300)]


@pytest.mark.parametrize("single", [False, True])
def test_a_handler_that_resolves_nothing(kernel: Kernel, single: bool) -> None:
    """If wrong, an access that never gets through hangs the tool instead of ending it."""
    kernel.answer = lambda: Resume.RETRY
    user = kernel.user(1)
    access = (lambda: kernel.vcpu.load(user)) if single else (lambda: run(kernel, (user, READ)))
    with pytest.raises(InvariantError, match=r"the access to 0x201000 stopped 101 times in a row"):
        access()
    assert len(kernel.faults) in (100, 101)


@pytest.mark.usefixtures("privileged")
def test_present_faults(kernel: Kernel) -> None:
    """If wrong, a fault on a present page reaches the guest with another error code."""
    key = 1 << pte.PKEY_SHIFT
    kernel.map(1, kernel.FREE | kernel.RO | pte.NX)
    kernel.map(2, kernel.FREE | kernel.KERNEL)
    kernel.map(3, 1 << 50 | kernel.RW)
    kernel.map(4, kernel.FREE | kernel.RW | key)
    kernel.vcpu.write_cr4(CR4_PAE | CR4_PKE)
    kernel.vcpu.write_pkru(0b100)
    pages = [kernel.user(n) for n in range(5)]
    run(kernel, (pages[1], WRITE), (pages[1], FETCH), (pages[2], READ), (pages[3], READ))
    run(kernel, (pages[4], WRITE))
    assert [pfec for _, pfec in kernel.faults] == [
        pf.P | pf.W | pf.U,
        pf.P | pf.U | pf.ID,
        pf.P | pf.U,
        pf.P | pf.U | pf.RSVD,
        pf.P | pf.U | pf.W | pf.PK,
    ]


def test_a_guest_without_handlers(kernel: Kernel) -> None:
    """If wrong, a fault that nobody handles goes on for ever, or ends in a traceback."""
    kernel.vcpu.page_fault = kernel.no_handler
    with pytest.raises(InputError, match=r"page fault \(W\) and has no handler"):
        kernel.vcpu.store(kernel.user(1), 0)
    with pytest.raises(InputError, match="0x800000000000, which is no canonical address"):
        kernel.vcpu.load(1 << 47)


def test_general_protection(kernel: Kernel) -> None:
    """If wrong, a non-canonical address page-faults, or its handler is not believed."""
    seen: list[int] = []
    answers = iter([Resume.RETRY, Resume.SKIP])

    def handler(gva: int) -> Resume:
        seen.append(gva)
        return next(answers)

    kernel.vcpu.general_protection = handler
    kernel.map(5, kernel.FREE | kernel.RW)
    assert run(kernel, (1 << 47, READ), (kernel.user(5), READ)) == [NO_TRANSLATION, kernel.FREE]
    assert seen == [1 << 47] * 2
    assert kernel.faults == []


# Where no memory is.


def test_mmio(kernel: Kernel) -> None:
    """If wrong, an access to no memory lands in some, or is not where the guest put it."""
    kernel.map(1, kernel.HOLE | kernel.RW)
    assert kernel.vcpu.load(kernel.user(1)) == ONES
    assert kernel.vcpu.load(kernel.user(1), 2) == 0xFFFF
    kernel.vcpu.store(kernel.user(1), 7)
    assert run(kernel, (kernel.user(1) + 8, WRITE)) == [kernel.HOLE + 8]
    assert kernel.faults == []
    assert kernel.vcpu.ledger.total(Route.MMIO, cause=Cause.NO_MEMORY) == 4


def test_copying_from_no_memory(kernel: Kernel) -> None:
    """If wrong, a page copied from nowhere holds something."""
    kernel.map(1, kernel.HOLE | kernel.RW)
    with pytest.raises(InvariantError, match=r"copies a page from .*, where nothing is"):
        kernel.vcpu.copy_page(kernel.FREE, kernel.user(1))


# Whole pages.


def fill(kernel: Kernel, gpa: int) -> list[int]:
    """Fill a frame with numbers; return them."""
    numbers = [n * 0x1001 + 7 for n in range(512)]
    for n, number in enumerate(numbers):
        kernel.vcpu.boot_store(gpa + 8 * n, number)
    return numbers


def contents(kernel: Kernel, gpa: int) -> list[int]:
    """Return the numbers in a frame."""
    return [kernel.vcpu.peek(gpa + 8 * n) for n in range(512)]


def test_whole_pages(kernel: Kernel) -> None:
    """If wrong, a page is cleared or copied in part, or beyond its end."""
    one, two, three = (kernel.FREE + n * 0x1000 for n in range(3))
    numbers = fill(kernel, one)
    fill(kernel, two)
    kernel.vcpu.boot_store(three, 5)
    kernel.vcpu.copy_page(two, one)
    assert contents(kernel, two) == numbers
    kernel.vcpu.clear_page(two)
    assert contents(kernel, two) == [0] * 512
    assert contents(kernel, one) == numbers
    assert kernel.vcpu.peek(three) == 5
    assert kernel.vcpu.ledger.accesses == 3  # one store for each page, and the copy's load


def test_whole_pages_that_fault(kernel: Kernel) -> None:
    """If wrong, a page is cleared before it is mapped, or not at all."""
    fill(kernel, kernel.FREE)
    kernel.mapping(1, kernel.FREE | kernel.RW)
    kernel.vcpu.clear_page(kernel.user(1))
    assert contents(kernel, kernel.FREE) == [0] * 512
    assert kernel.faults == [(kernel.user(1), pf.W)]


@pytest.mark.parametrize("flood_threshold", [0, 3])
def test_whole_pages_over_a_table(
    boot: Callable[..., Kernel], variant: Variant, flood_threshold: int
) -> None:
    """If wrong, a kernel that recycles a page table leaves part of it, or its translations."""
    kernel = boot(variant, flood_threshold=flood_threshold)
    for page in (0, 100, 511):
        kernel.map(page, kernel.FREE + (page << 12) | kernel.RW)
        run(kernel, (kernel.user(page), WRITE))
    new = kernel.FREE + 0x8_0000
    entries = [kernel.FREE + (n << 12) | kernel.RO for n in reversed(range(512))]
    for n, entry in enumerate(entries):
        kernel.vcpu.boot_store(new + 8 * n, entry)
    before = kernel.vcpu.ledger.accesses
    kernel.vcpu.copy_page(kernel.USER_PT, new)
    assert kernel.vcpu.ledger.accesses == before + 2  # on every backend: a load and a store
    kernel.vcpu.write_cr3(kernel.PML4)
    assert contents(kernel, kernel.USER_PT) == entries
    assert run(kernel, (kernel.user(511), READ)) == [kernel.FREE]
    assert run(kernel, (kernel.user(511), WRITE)) == [NO_TRANSLATION]
    kernel.vcpu.clear_page(kernel.USER_PT)
    kernel.vcpu.write_cr3(kernel.PML4)
    assert contents(kernel, kernel.USER_PT) == [0] * 512
    assert run(kernel, (kernel.user(511), READ), (kernel.user(0), READ)) == [NO_TRANSLATION] * 2
    assert [pfec for _, pfec in kernel.faults] == [pf.P | pf.W | pf.U, pf.U, pf.U]


@pytest.mark.parametrize("size", [1, 4, 8])
def test_stores_to_a_table_keep_their_size(kernel: Kernel, size: int) -> None:
    """If wrong, an emulated store writes more or less than the instruction did."""
    kernel.map(0, kernel.FREE | kernel.RW)
    run(kernel, (kernel.user(0), READ))
    kernel.vcpu.store(kernel.slot(1), ONES & ~1)
    kernel.vcpu.store(kernel.slot(1), 0, size)
    assert kernel.vcpu.peek(kernel.slot(1)) == (ONES & ~1) >> 8 * size << 8 * size


def test_a_traces_write_to_a_table_changes_nothing(kernel: Kernel) -> None:
    """If wrong, a trace, which tells of no values, destroys the guest's tables."""
    kernel.map(0, kernel.USER_PT | kernel.RW)
    kernel.map(1, kernel.FREE | kernel.RW)
    before = contents(kernel, kernel.USER_PT)
    assert run(kernel, (kernel.user(0) + 12, WRITE))[0] & ~7 == kernel.USER_PT + 8
    assert contents(kernel, kernel.USER_PT) == before
    assert run(kernel, (kernel.user(1), WRITE)) == [kernel.FREE]


# Registers.


@pytest.mark.usefixtures("privileged")
def test_the_guest_reads_its_own_registers(kernel: Kernel) -> None:
    """If wrong, the guest sees what hardware runs with, and can tell that it is not alone."""
    kernel.vcpu.write_cr4(CR4_PAE | CR4_PGE | CR4_SMEP)
    kernel.vcpu.write_cr0(CR0_PE | CR0_PG)
    assert kernel.vcpu.cr0 == CR0_PE | CR0_PG
    assert kernel.vcpu.cr3 == kernel.PML4
    assert kernel.vcpu.cr4 == CR4_PAE | CR4_PGE | CR4_SMEP
    assert kernel.vcpu.efer == EFER_LME | EFER_LMA | EFER_NXE
    assert kernel.vcpu.guest_memory == kernel.RAM
    assert kernel.vcpu.cpu.maxphyaddr == 46


@pytest.mark.parametrize(
    ("register", "value", "bits"),
    [
        ("cr0", 1 << 3 | CR0_PE, "0x8 of CR0"),
        ("cr3", 1 << 46, "0x400000000000 of CR3"),
        ("cr4", CR4_PAE | CR4_LA57, "0x1000 of CR4"),
        ("cr4", CR4_PAE | 1 << 40, "0x10000000000 of CR4"),
        ("efer", EFER_LME | 1, "0x1 of IA32_EFER"),
    ],
)
def test_bits_that_the_cpu_has_not(kernel: Kernel, register: str, value: int, bits: str) -> None:
    """If wrong, a guest sets what would be #GP, and nobody says so."""
    before = attrs.evolve(kernel.vcpu.regs)
    with pytest.raises(InputError, match=f"set bits {bits}, which this CPU does not have"):
        getattr(kernel.vcpu, f"write_{register}")(value)
    assert kernel.vcpu.regs == before
    assert kernel.vcpu.ledger.exits.total() == 0


def test_features_that_the_cpu_has_not(boot: Callable[..., Kernel], variant: Variant) -> None:
    """If wrong, NX, SMEP, SMAP or keys work on a CPU that is to have none."""
    cpu = CpuFeatures(maxphyaddr=46, nx=False, smep=False, smap=False, pku=False)
    with pytest.raises(InputError, match="0x800 of IA32_EFER"):
        boot(variant, cpu)


def test_write_protection_off_and_on(kernel: Kernel) -> None:
    """If wrong, a kernel writes read-only pages with CR0.WP set, or cannot without."""
    kernel.map(1, kernel.FREE | kernel.RO)
    kernel.vcpu.store(kernel.user(1), 1)
    kernel.vcpu.write_cr0(CR0_PE | CR0_PG)
    kernel.vcpu.store(kernel.user(1), 2)
    assert kernel.vcpu.peek(kernel.FREE) == 2
    kernel.vcpu.write_cr0(CR0_PE | CR0_PG | CR0_WP)
    kernel.vcpu.store(kernel.user(1), 3)
    assert kernel.vcpu.peek(kernel.FREE) == 2
    assert kernel.faults == [(kernel.user(1), pf.P | pf.W)] * 2


@pytest.mark.usefixtures("privileged")
def test_smep_and_smap(kernel: Kernel) -> None:
    """If wrong, the kernel uses user pages that it was told to keep off, or AC does not help."""
    kernel.map(1, kernel.FREE | kernel.RW)
    user = kernel.user(1)
    kernel.vcpu.load(user)
    kernel.vcpu.write_cr4(CR4_PAE | CR4_SMEP | CR4_SMAP)
    run(kernel, (user, pf.FETCH), (user, pf.READ), (user, pf.WRITE))
    assert [pfec for _, pfec in kernel.faults] == [pf.P | pf.ID, pf.P, pf.P | pf.W]
    kernel.vcpu.write_rflags_ac(1)
    assert run(kernel, (user, pf.WRITE)) == [kernel.FREE]
    kernel.vcpu.write_rflags_ac(0)
    assert run(kernel, (user, pf.READ)) == [NO_TRANSLATION]


@pytest.mark.parametrize("guard", [CR4_SMAP, CR4_PKE], ids=["smap", "pke"])
@pytest.mark.usefixtures("privileged")
def test_what_nobody_intercepts_is_obeyed(kernel: Kernel, guard: int) -> None:
    """If wrong, a page that the kernel wrote with CR0.WP clear escapes AC or PKRU from then on."""
    kernel.map(1, kernel.FREE | kernel.RO)
    kernel.boot(cr0=0, cr4=guard)
    kernel.vcpu.write_rflags_ac(1)
    kernel.vcpu.store(kernel.user(1), 1)
    kernel.vcpu.write_rflags_ac(0)
    kernel.vcpu.write_pkru(1)
    kernel.vcpu.load(kernel.user(1))
    expected = pf.P | (pf.PK if guard == CR4_PKE else 0)
    assert kernel.faults == [(kernel.user(1), expected)]


# Flushes.


def cached(kernel: Kernel) -> set[int]:
    """Return the pages that the TLB holds."""
    return {entry.tag >> 2 << 12 for entry in kernel.platform.engine.tlb.entries()}


@pytest.mark.parametrize("register", ["cr0", "cr3", "cr4"])
@pytest.mark.usefixtures("privileged")
def test_a_flush_happens_before_the_guest_runs_on(kernel: Kernel, register: str) -> None:
    """If wrong, a flush waits for an exit that may be long in coming, or is not counted."""
    kernel.map(1, kernel.FREE | kernel.RW)
    run(kernel, (kernel.user(1), READ), (kernel.user(1), FETCH))
    before = kernel.vcpu.ledger.tlb_flushes
    kernel.vcpu.invlpg(kernel.user(1))
    assert kernel.vcpu.ledger.tlb_flushes == before + 1
    assert kernel.user(1) not in cached(kernel)
    run(kernel, (kernel.user(1), READ))
    flip = {"cr0": CR0_PG, "cr3": 0, "cr4": CR4_PGE}[register]
    write = getattr(kernel.vcpu, f"write_{register}")
    write(getattr(kernel.vcpu, register) ^ flip)
    assert kernel.vcpu.ledger.tlb_flushes == before + 2
    assert cached(kernel) == set()


@pytest.mark.parametrize("register", ["cr0", "cr4", "efer"])
@pytest.mark.usefixtures("privileged")
def test_a_registers_own_value_flushes_nothing(kernel: Kernel, register: str) -> None:
    """If wrong, a write that changes nothing empties the TLB; only CR3's does."""
    kernel.map(1, kernel.FREE | kernel.RW)
    run(kernel, (kernel.user(1), READ))
    before = kernel.vcpu.ledger.tlb_flushes
    getattr(kernel.vcpu, f"write_{register}")(getattr(kernel.vcpu, register))
    assert kernel.vcpu.ledger.tlb_flushes == before
    assert kernel.user(1) in cached(kernel)


def test_invlpg(kernel: Kernel) -> None:
    """If wrong, a page unmapped and flushed is still there."""
    kernel.map(1, kernel.FREE | kernel.RW)
    run(kernel, (kernel.user(1), WRITE))
    kernel.vcpu.store(kernel.slot(1), 0)
    kernel.vcpu.invlpg(kernel.user(1))
    assert run(kernel, (kernel.user(1), READ)) == [NO_TRANSLATION]
    assert kernel.vcpu.ledger.invlpg == 2


def test_cr3_loads(kernel: Kernel) -> None:
    """If wrong, a page unmapped is still there after CR3 was loaded."""
    kernel.map(1, kernel.FREE | kernel.RW)
    run(kernel, (kernel.user(1), WRITE))
    kernel.vcpu.store(kernel.slot(1), 0)
    kernel.vcpu.write_cr3(kernel.PML4)
    assert run(kernel, (kernel.user(1), READ)) == [NO_TRANSLATION]
    assert kernel.vcpu.ledger.cr3_loads == 1


def test_global_pages_go_with_pge(kernel: Kernel) -> None:
    """If wrong, a global page outlives the change of CR4.PGE that is to drop it."""
    kernel.vcpu.write_cr4(CR4_PAE | CR4_PGE)
    kernel.map(1, kernel.FREE | kernel.RW | pte.G)
    run(kernel, (kernel.user(1), READ))
    kernel.vcpu.store(kernel.slot(1), 0)
    kernel.vcpu.write_cr4(CR4_PAE)
    assert run(kernel, (kernel.user(1), READ)) == [NO_TRANSLATION]


def test_global_pages_need_pge(kernel: Kernel) -> None:
    """If wrong, a guest without CR4.PGE keeps a page marked global over a CR3 load."""
    kernel.map(1, kernel.FREE | kernel.RW | pte.G)
    run(kernel, (kernel.user(1), READ))
    kernel.vcpu.store(kernel.slot(1), 0)
    kernel.vcpu.write_cr3(kernel.PML4)
    assert run(kernel, (kernel.user(1), READ)) == [NO_TRANSLATION]


@pytest.mark.usefixtures("privileged")
def test_smep_turned_on_flushes(kernel: Kernel) -> None:
    """If wrong, setting CR4.SMEP, or turning paging off and on, leaves old translations behind."""
    kernel.map(1, kernel.FREE | kernel.RW)
    for flush in (
        lambda: kernel.vcpu.write_cr4(CR4_PAE | CR4_SMEP),
        lambda: (kernel.vcpu.write_cr0(CR0_PE), kernel.vcpu.write_cr0(CR0_PE | CR0_PG)),
    ):
        kernel.vcpu.store(kernel.slot(1), kernel.FREE | kernel.RW)
        assert run(kernel, (kernel.user(1), READ)) == [kernel.FREE]
        kernel.vcpu.store(kernel.slot(1), 0)
        flush()
        assert run(kernel, (kernel.user(1), READ)) == [NO_TRANSLATION]


def test_two_address_spaces(kernel: Kernel) -> None:
    """If wrong, a process sees another's pages after a switch."""
    other = kernel.FREE
    for entry in range(0, 0x1000, 8):
        kernel.vcpu.store(other + entry, kernel.vcpu.load(kernel.PML4 + entry))
    tables = [kernel.FREE + 0x1000 * n for n in (1, 2, 3)]
    for above, below in zip([other, *tables], tables, strict=False):
        kernel.vcpu.store(above + 8, below | kernel.LINK)
    kernel.vcpu.store(tables[-1] + 8, kernel.FREE + 0x5000 | kernel.RW)
    gva = 1 << 39 | 1 << 30 | 1 << 21 | 1 << 12
    for _ in range(2):
        kernel.vcpu.write_cr3(other)
        assert run(kernel, (gva, WRITE)) == [kernel.FREE + 0x5000]
        kernel.vcpu.write_cr3(kernel.PML4)
        assert run(kernel, (gva, WRITE)) == [NO_TRANSLATION]
    assert [pfec for _, pfec in kernel.faults] == [pf.W | pf.U] * 2


# What a hypervisor is told.


def test_every_privileged_operation_exits_once(
    boot: Callable[..., Kernel], hypervised: Variant
) -> None:
    """If wrong, a world switch is not counted, or counted twice."""
    vcpu = boot(hypervised).vcpu
    for operation in (
        lambda: vcpu.write_cr0(vcpu.cr0),
        lambda: vcpu.write_cr3(vcpu.cr3),
        lambda: vcpu.write_cr4(vcpu.cr4),
        lambda: vcpu.write_efer(vcpu.efer),
        lambda: vcpu.invlpg(0x1000),
    ):
        before = vcpu.ledger.exits.total()
        operation()
        assert vcpu.ledger.exits.total() == before + 1
    for bypassable in (lambda: vcpu.write_pkru(0), lambda: vcpu.write_rflags_ac(0)):
        before = vcpu.ledger.exits.total()
        bypassable()
        assert vcpu.ledger.exits.total() == before


def test_a_bare_machine_never_exits(kernel: Kernel, variant: Variant) -> None:
    """If wrong, the baseline of a comparison pays for a hypervisor that it has not."""
    kernel.mapping(1, kernel.FREE | kernel.RW)
    run(kernel, (kernel.user(1), WRITE))
    kernel.vcpu.write_cr3(kernel.PML4)
    assert (kernel.vcpu.ledger.exits.total() == 0) is not variant.hypervised
    taken = kernel.vcpu.ledger.total(Route.BYPASS, Route.INJECT)
    assert taken == 1
    if not variant.hypervised:
        assert kernel.vcpu.ledger.total(Route.BYPASS, cause=Cause.NOT_PRESENT) == 1


def test_bypass_needs_no_exit(boot: Callable[..., Kernel], hypervised: Variant) -> None:
    """If wrong, the technique is on and saves nothing, or off and loses faults."""
    kernel = boot(hypervised)
    caps = hypervised.backend.caps
    bypasses = caps.filters_page_faults and kernel.vcpu.backend.nonpresent().distinguishable
    kernel.map(0, kernel.FREE | kernel.RW)
    run(kernel, (kernel.user(0), READ))
    before = kernel.vcpu.ledger.exits.total()
    assert run(kernel, (kernel.user(1), WRITE)) == [NO_TRANSLATION]
    assert kernel.vcpu.ledger.exits.total() == before + (not bypasses)
    route = Route.BYPASS if bypasses else Route.INJECT
    assert kernel.vcpu.ledger.total(route, cause=Cause.NOT_PRESENT) == 1


def test_an_exit_that_is_read_as_another(boot: Callable[..., Kernel], hypervised: Variant) -> None:
    """If wrong, a plugin whose two halves disagree makes the guest do what it never asked for."""
    backend = hypervised.backend
    liar = type("Liar", (backend,), {"decode_exit": lambda *_: Invlpg(0)})
    with pytest.raises(InvariantError, match=rf"{backend.name} recorded CrWrite\(.* read back Inv"):
        boot(attrs.evolve(hypervised, backend=liar))


def test_a_traces_write_to_a_table_is_still_a_write(
    boot: Callable[..., Kernel], hypervised: Variant
) -> None:
    """If wrong, the MMU follows it at another address, or does not see a flood of such writes."""
    kernel = boot(hypervised, flood_threshold=1)
    shadow = kernel.platform.shadow
    assert shadow is not None
    kernel.map(0, kernel.USER_PT | kernel.RW)
    run(kernel, (kernel.user(0), READ))
    assert shadow.pages.is_table(kernel.USER_PT >> 12)
    run(kernel, (kernel.user(0) + 12, WRITE))
    assert not shadow.pages.is_table(kernel.USER_PT >> 12)


def test_an_event_that_cannot_be_is_our_bug(
    boot: Callable[..., Kernel], hypervised: Variant
) -> None:
    """If wrong, a shadow entry that leads nowhere goes unnoticed under a hypervisor."""
    vcpu = boot(hypervised).vcpu
    for event in (Event.PHYSICAL, None):

        def stop(core: HwThread, *_: object, event: Event | None = event) -> int:
            core.event = event
            return 0

        with (
            mock.patch.object(vcpu.engine, "run", stop),
            pytest.raises(InvariantError, match="the engine stopped at"),
        ):
            vcpu.load(0x1000)


def test_before_paging(boot: Callable[..., Kernel], variant: Variant) -> None:
    """If wrong, an access before paging is on is translated by tables that nobody loaded."""
    kernel = boot(variant)
    kernel.vcpu.write_cr0(CR0_PE)
    with pytest.raises(InvariantError, match="before paging was on"):
        kernel.vcpu.load(0x1000)
