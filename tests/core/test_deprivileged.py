"""A guest that hardware runs as user throughout: two roots, one privilege that hardware sees."""

from __future__ import annotations

from array import array
from itertools import product
from typing import TYPE_CHECKING

import attrs
import pytest

from hvmmu._native import NativeBackend, NativeParams
from hvmmu.arch import pfec as pf
from hvmmu.arch import pte
from hvmmu.arch.regs import (
    CR0_PE,
    CR0_PG,
    CR0_WP,
    CR4_PAE,
    CR4_PKE,
    CR4_SMAP,
    CR4_SMEP,
    CpuFeatures,
)
from hvmmu.engine import NO_TRANSLATION
from hvmmu.errors import BackendUnavailableError, InputError, InvariantError
from hvmmu.fault import Cause, Route
from hvmmu.spec.audit import audit
from hvmmu.vcpu import Resume

if TYPE_CHECKING:
    from collections.abc import Callable

    from conftest import Kernel, Variant

READ, WRITE, FETCH = pf.READ, pf.WRITE, pf.FETCH
KINDS = [user | how for user in (0, pf.U) for how in (READ, WRITE, FETCH)]
WILD = 1 << 50


def run(kernel: Kernel, *accesses: tuple[int, int]) -> list[int]:
    """Run accesses; return where each landed in guest-physical memory."""
    vas, kinds = zip(*accesses, strict=True)
    translated = array("Q", [0]) * len(vas)
    kernel.vcpu.run(array("Q", vas), bytes(kinds), translated)
    return list(translated)


@pytest.fixture
def kernel(boot: Callable[..., Kernel], deprivileged: Variant) -> Kernel:
    """Return a booted kernel; the test runs on every backend that takes its privilege away."""
    return boot(deprivileged)


@pytest.fixture
def bare(boot: Callable[..., Kernel], deprivileged: Variant) -> Kernel:
    """Return a kernel on the bare machine, to compare with."""
    native = attrs.evolve(deprivileged, backend=NativeBackend, params=NativeParams())
    return boot(native)


# What the guest sees.


@pytest.mark.parametrize("cr0", [CR0_WP, 0], ids=["wp", "no-wp"])
@pytest.mark.parametrize("dirty", [pte.D, 0], ids=["dirty", "clean"])
def test_each_privilege_may_do_what_it_may(
    kernel: Kernel, bare: Kernel, cr0: int, dirty: int
) -> None:
    """If wrong, hardware that knows one privilege lets one of the guest's do what only one may."""
    entries = [
        kernel.FREE + (n << 12) | pte.P | pte.A | dirty | sum(bits)
        for n, bits in enumerate(product((0, pte.W), (0, pte.U), (0, pte.NX)))
    ]
    seen = []
    for one in (kernel, bare):
        one.vcpu.write_cr0(CR0_PE | CR0_PG | cr0)
        for page, entry in enumerate([*entries, 0]):
            one.map(page, entry)
        order = [*KINDS, *reversed(KINDS), *KINDS[::2], *KINDS[1::2]]
        accesses = [(one.user(page), kind) for kind in order for page in range(len(entries) + 1)]
        seen.append(
            (run(one, *accesses), one.faults, [one.vcpu.peek(one.slot(n)) for n in range(8)])
        )
    assert seen[0] == seen[1]


def test_a_batch_changes_privilege_as_it_goes(kernel: Kernel, bare: Kernel) -> None:
    """If wrong, a fault between two changes of privilege loses its place, or an access its own."""
    seen = []
    for one in (kernel, bare):
        one.map(1, one.FREE | one.RW)
        one.map(2, one.FREE + 0x1000 | one.KERNEL)

        def answer(one: Kernel = one) -> Resume:
            page = one.vcpu.cr2 - one.USER >> 12
            if page != 3:
                return Resume.SKIP
            one.vcpu.store(one.slot(3), one.FREE + 0x2000 | one.RW)
            return Resume.RETRY

        one.answer = answer
        user, pages = pf.U, [one.user(n) for n in range(4)]
        seen.append(
            run(
                one,
                (pages[1], user),
                (pages[2], READ),
                (pages[2], user),
                (pages[3], user | WRITE),
                (pages[3], READ),
                (WILD >> 12, user),
                (pages[2], WRITE),
                (pages[1], user | WRITE),
            )
        )
        seen[-1].append(one.faults)
    assert seen[0] == seen[1]
    assert [pfec for _, pfec in kernel.faults] == [pf.P | pf.U, pf.U | pf.W, pf.U]


def test_the_same_buffer_with_other_kinds(kernel: Kernel) -> None:
    """If wrong, a batch is run at the privileges of the one that lay in the buffer before it."""
    kernel.map(1, kernel.FREE | kernel.KERNEL)
    vas, kinds, translated = array("Q", [kernel.user(1)] * 2), bytearray(2), array("Q", [0, 0])
    kernel.vcpu.run(vas, kinds, translated)
    assert translated.tolist() == [kernel.FREE] * 2
    kinds[:] = bytes([pf.U, pf.U])
    kernel.vcpu.run(vas, kinds, translated)
    assert translated.tolist() == [NO_TRANSLATION] * 2


def test_error_codes_of_the_kernels_own_faults(kernel: Kernel) -> None:
    """If wrong, U of hardware's error code reaches a guest that was in its kernel."""
    kernel.map(1, kernel.FREE | kernel.RO)
    run(kernel, (kernel.user(0), READ), (kernel.user(1), WRITE), (kernel.user(1), pf.U | WRITE))
    kernel.vcpu.store(kernel.user(2), 1)
    assert [pfec for _, pfec in kernel.faults] == [0, pf.P | pf.W, pf.P | pf.W | pf.U, pf.W]
    assert {row.pfec & pf.U for row in kernel.vcpu.ledger.faults} == {0, pf.U}


def test_a_wild_access_in_user_mode(kernel: Kernel) -> None:
    """If wrong, the guest's handler of #GP runs in user mode."""
    kernel.map(1, kernel.FREE | kernel.RW)
    modes = []

    def general_protection(gva: int) -> Resume:
        modes.append(kernel.vcpu.user)
        kernel.vcpu.store(kernel.FREE, gva)
        return Resume.SKIP

    kernel.vcpu.general_protection = general_protection
    assert run(kernel, (kernel.user(1), pf.U), (WILD, pf.U), (kernel.user(1), pf.U)) == [
        kernel.FREE,
        NO_TRANSLATION,
        kernel.FREE,
    ]
    assert kernel.vcpu.peek(kernel.FREE) == WILD
    assert modes == [False]


@pytest.mark.parametrize(
    ("bits", "names"),
    [
        (CR4_SMEP, "SMEP"),
        (CR4_SMAP, "SMAP"),
        (CR4_PKE, "PKE"),
        (CR4_SMEP | CR4_SMAP, "SMEP and SMAP"),
    ],
)
def test_what_such_a_guest_cannot_have(kernel: Kernel, bits: int, names: str) -> None:
    """If wrong, a guest believes itself guarded by what hardware has no notion of."""
    with pytest.raises(BackendUnavailableError, match=f"turned on {names} in CR4.*leave them off"):
        kernel.vcpu.write_cr4(CR4_PAE | bits)


def test_a_cpu_that_does_not_offer_it_comes_first(
    boot: Callable[..., Kernel], deprivileged: Variant
) -> None:
    """If wrong, the message tells of another backend where no backend would help."""
    kernel = boot(deprivileged, CpuFeatures(smep=False))
    with pytest.raises(InputError, match="this CPU does not have"):
        kernel.vcpu.write_cr4(CR4_PAE | CR4_SMEP)


# Switches.


def test_direct_switches_are_counted(kernel: Kernel) -> None:
    """If wrong, the price of a guest without privilege cannot be told."""
    ledger = kernel.vcpu.ledger
    kernel.map(1, kernel.FREE | kernel.RW)
    assert ledger.direct_switches == 0  # so far all was done in the kernel
    run(kernel, (kernel.user(1), pf.U), (kernel.user(1), pf.U), (kernel.user(1), READ))
    assert ledger.direct_switches == 2
    run(kernel, (kernel.user(1), pf.U))
    ledger.clear()
    assert ledger.direct_switches == 0


@pytest.mark.parametrize("register", ["cr0", "cr3", "cr4", "efer", ""])
def test_privileged_operations_are_the_kernels(kernel: Kernel, register: str) -> None:
    """If wrong, a hypercall is made from user mode, which no guest's kernel would let pass."""
    kernel.map(1, kernel.FREE | kernel.RW)
    run(kernel, (kernel.user(1), pf.U))
    before = kernel.vcpu.ledger.direct_switches
    if register:
        getattr(kernel.vcpu, f"write_{register}")(getattr(kernel.vcpu, register))
    else:
        kernel.vcpu.invlpg(0)
    assert kernel.vcpu.user is False
    assert kernel.vcpu.ledger.direct_switches == before + 1


def test_a_fault_takes_the_guest_to_its_kernel(kernel: Kernel) -> None:
    """If wrong, a fault costs a switch that nobody makes, or its handler runs as the user."""
    bypasses = kernel.platform.backend.nonpresent().distinguishable
    kernel.map(0, kernel.FREE | kernel.RW)
    run(kernel, (kernel.user(0), pf.U))
    kernel.vcpu.ledger.clear()
    kernel.mapping(1, kernel.FREE | kernel.RW)
    run(kernel, (kernel.user(1), pf.U))
    assert kernel.vcpu.ledger.direct_switches == 1 + bypasses  # and back again
    row = next(row for row in kernel.vcpu.ledger.faults if row.cause == Cause.NOT_PRESENT.value)
    assert row.route == (Route.BYPASS if bypasses else Route.INJECT).value


def test_no_translation_outlives_its_privilege(kernel: Kernel) -> None:
    """If wrong, the user reads the kernel's memory by what the kernel left in the TLB."""
    kernel.map(1, kernel.FREE | kernel.KERNEL)
    kernel.vcpu.load(kernel.user(1))
    flushes = kernel.vcpu.ledger.tlb_flushes
    assert run(kernel, (kernel.user(1), pf.U)) == [NO_TRANSLATION]
    assert kernel.vcpu.ledger.tlb_flushes > flushes


# The two roots.


def leaf(kernel: Kernel, page: int, *, user: bool) -> int:
    """Return where the leaf for a user page lies in the shadow of one privilege."""
    shadow = kernel.platform.shadow
    gfn = kernel.USER_PT >> 12
    (table,) = [one for one in shadow.pages.shadows_of(gfn) if one.role.user is user]
    return table.hpa + 8 * page


def test_two_roots_for_one(kernel: Kernel) -> None:
    """If wrong, hardware walks the same tables for either of the guest's privileges."""
    shadow, core = kernel.platform.shadow, kernel.vcpu.core
    kernel.map(1, kernel.FREE | kernel.RW)
    assert core.regs.cr3 == shadow.root.hpa != shadow.user_root
    run(kernel, (kernel.user(1), pf.U))
    assert core.regs.cr3 == shadow.user_root
    kernel.vcpu.write_cr0(CR0_PE)
    assert shadow.root is shadow.user_root is None


@pytest.mark.parametrize("flood_threshold", [0, 1])
def test_few_shadow_pages(
    boot: Callable[..., Kernel], deprivileged: Variant, flood_threshold: int
) -> None:
    """If wrong, one of the roots is zapped under the guest's feet when shadow pages run out."""
    few = {"shadow_pages": 8, "flood_threshold": flood_threshold, "update_on_write": False}
    kernel = boot(deprivileged, **few)
    shadow = kernel.platform.shadow
    for page in range(3):
        kernel.map(page, kernel.FREE + (page << 12) | kernel.RW)
        kernel.vcpu.store(kernel.PML4 + 8 * 7, page)
        for kind in KINDS[:4]:
            assert run(kernel, (kernel.user(page), kind)) == [kernel.FREE + (page << 12)]
            audit(shadow, kernel.vcpu.slots)
            assert len(shadow.pages) <= 8
    for user in (pf.U, READ):  # fault after fault, with no change of privilege in between
        for page in range(3, 9):
            kernel.map(page, kernel.FREE | kernel.RW)
        accesses = [(kernel.user(page), user) for page in range(3, 9)]
        assert run(kernel, *accesses) == [kernel.FREE] * 6


def test_a_new_root_for_the_user_alone(kernel: Kernel) -> None:
    """If wrong, hardware goes on walking the frame of a user's root that was given up."""
    shadow = kernel.platform.shadow
    kernel.map(1, kernel.FREE | kernel.RW)
    run(kernel, (kernel.user(1), pf.U), (kernel.user(1), READ))
    old = shadow.user_root
    (page,) = [one for one in shadow.pages if one.hpa == old]
    shadow.pages.zap_page(page).forgo("the guest is in its kernel")
    taken, flush = shadow.pages.get(kernel.FREE >> 12, page.role)  # the frame has another use
    flush.forgo("the guest is in its kernel")
    kernel.vcpu.invlpg(0)
    kernel.map(2, kernel.FREE | kernel.RW)
    assert shadow.user_root not in (old, taken.hpa)
    assert run(kernel, (kernel.user(1), pf.U)) == [kernel.FREE]


def test_update_on_write_keeps_to_the_privilege(kernel: Kernel) -> None:
    """If wrong, a page that the kernel maps for itself is there for the user at once, too."""
    for kind in (pf.U, READ):
        kernel.mapping(0, kernel.FREE | kernel.RW)
        run(kernel, (kernel.user(0), kind))
    kernel.map(1, kernel.FREE | kernel.KERNEL)
    entry, trap = kernel.platform.shadow.pages.entry, kernel.platform.backend.nonpresent().trap
    assert entry(leaf(kernel, 1, user=True)) == trap
    assert entry(leaf(kernel, 1, user=False)) & ~pte.A == (
        kernel.platform.vcpu.slots.hpa(kernel.FREE) | pte.P | pte.W | pte.U
    )


@pytest.mark.parametrize(
    ("user", "entry", "flip", "rule"),
    [
        (True, pte.U, pte.U, "supervisor's leaf"),
        (False, 0, pte.U, "supervisor's leaf"),
        (True, pte.U, pte.W, "allows more"),
        (False, 0, pte.W, "allows more"),
        (False, pte.NX, pte.NX, "allows more"),
    ],
)
def test_the_audit_holds_each_leaf_against_its_privilege(
    kernel: Kernel, user: bool, entry: int, flip: int, rule: str
) -> None:
    """If wrong, a broken promise of one of the two roots goes unseen."""
    kernel.map(1, kernel.FREE | pte.P | pte.A | pte.D | entry)
    run(kernel, (kernel.user(1), pf.U if user else READ))
    shadow, slots = kernel.platform.shadow, kernel.vcpu.slots
    words, at = kernel.platform.memory.u64, leaf(kernel, 1, user=user) >> 3
    right = words[at]
    words[at] = right ^ flip
    with pytest.raises(InvariantError, match=rule):
        audit(shadow, slots)
    words[at] = right


def test_the_audit_finds_a_supervisor_page_in_the_users_root(kernel: Kernel) -> None:
    """If wrong, a leaf that gives the kernel's memory to the user goes unseen."""
    kernel.map(1, kernel.FREE | kernel.RO)
    run(kernel, (kernel.user(1), pf.U))
    gpte = kernel.slot(1)
    right = kernel.vcpu.peek(gpte)
    kernel.vcpu.slots.store(gpte, right & ~pte.U, 8)  # behind the MMU's back
    with pytest.raises(InvariantError, match="maps a supervisor page in the root for the guest's"):
        audit(kernel.platform.shadow, kernel.vcpu.slots)
    kernel.vcpu.slots.store(gpte, right, 8)
