"""Shadow entries: presence by value, leaves, and what CR0.WP clear makes of them."""

from __future__ import annotations

from itertools import product

import attrs
import pytest

from hvmmu._core.engine import ffi, lib
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
    EFER_LMA,
    EFER_LME,
    EFER_NXE,
    Regs,
)
from hvmmu.spec.walk import permission_fault
from hvmmu.spte import LINK, Nonpresent, access_of

TRAP = 0xFFFF_FFFF_FFFF_F001
ACCESSES = [w | u | x for w in (0, pf.W) for u in (0, pf.U) for x in (0, pf.ID)]
KINDS = [k | u for k in (pf.READ, pf.WRITE, pf.FETCH) for u in (0, pf.U)]
FRAME = 0x12_3456_7000


def make_spte(hpa: int, access: int, *, writable: bool, large: bool, pkey: int) -> int:
    """Return a leaf as the MMU makes it."""
    return lib.hv_make_spte(hpa, access, writable, large, pkey)


def wp_override(access: int, kind: int, regs: Regs) -> int:
    """Return what the MMU has a leaf allow, of *access*."""
    return lib.hv_wp_override(access, kind, ffi.new("hv_regs *", attrs.asdict(regs)))


def test_presence_is_never_read_from_p() -> None:
    """If wrong, trap (whose P is set) passes for a mapping, or an entry of ours for none."""
    marked, plain = Nonpresent(TRAP, 0), Nonpresent()
    assert TRAP & pte.P
    assert not marked.is_present(TRAP)
    assert not marked.is_present(0)
    assert marked.is_present(FRAME | pte.P)
    assert not plain.is_present(0)
    assert plain.is_present(FRAME | pte.P)
    assert marked.distinguishable
    assert not plain.distinguishable


@pytest.mark.parametrize("access", ACCESSES)
@pytest.mark.parametrize("writable", [False, True])
@pytest.mark.parametrize("large", [False, True])
def test_leaves(access: int, writable: bool, large: bool) -> None:
    """If wrong, an entry allows other accesses than the guest's path does, or maps another page."""
    spte = make_spte(FRAME, access, writable=writable, large=large, pkey=9)
    assert access_of(spte) == (access if writable else access & ~pf.W)
    assert spte & pte.ADDRESS == FRAME
    assert spte & pte.P
    assert bool(spte & pte.PS) is large
    assert spte >> pte.PKEY_SHIFT & 0xF == 9
    assert not spte & (pte.A | pte.D | pte.G)  # hardware sets A and D; ours are never global


def test_no_leaf_is_taken_for_an_unbuilt_entry() -> None:
    """If wrong, a mapping the MMU made counts as none, and is never flushed."""
    for access, pkey in product(ACCESSES, range(16)):
        spte = make_spte(pte.ADDRESS, access, writable=True, large=False, pkey=pkey)
        assert Nonpresent(TRAP, 0).is_present(spte)


def test_links_leave_everything_to_the_child() -> None:
    """If wrong, a link takes away what the child's role, which is shared, still allows."""
    assert LINK == pte.P | pte.W | pte.U | pte.A
    assert access_of(LINK) == pf.W | pf.U | pf.ID


def guests_without_wp() -> list[Regs]:
    """Return guests that may write read-only pages, in every setting of what else decides."""
    cr4s = [a | b | c for a in (0, CR4_SMEP) for b in (0, CR4_SMAP) for c in (0, CR4_PKE)]
    long = EFER_LME | EFER_LMA
    return [
        Regs(CR0_PE | CR0_PG, 0, CR4_PAE | cr4, long | nxe, pkru, ac)
        for cr4, nxe, pkru, ac in product(cr4s, (0, EFER_NXE), range(4), (0, 1))
    ]


def shadowed(regs: Regs) -> Regs:
    """Return the registers that hardware runs such a guest with."""
    return Regs(regs.cr0 | CR0_WP, 0, regs.cr4, regs.efer, regs.pkru, regs.rflags_ac)


def test_what_is_lifted_stays_within_what_the_guest_may_do() -> None:
    """If wrong, an entry made writable for the kernel lets something else through with it.

    The entry stays when the guest sets AC or PKRU, which nobody intercepts: it must be right under
    all of them.
    """
    for regs, access, kind in product(guests_without_wp(), ACCESSES, KINDS):
        if permission_fault(access, 0, kind, regs):
            continue
        entry = wp_override(access, kind, regs)
        if entry == access:
            continue
        assert not permission_fault(entry, 0, kind, shadowed(regs))
        for later, other in product(guests_without_wp(), KINDS):
            if (later.cr4, later.efer) == (regs.cr4, regs.efer):
                allowed = not permission_fault(entry, 0, other, shadowed(later))
                assert not (allowed and permission_fault(access, 0, other, later)), (
                    f"{pf.describe(other)} passes at {access:#x} lifted to {entry:#x}: {later}"
                )


@pytest.mark.parametrize("access", ACCESSES)
@pytest.mark.parametrize("kind", KINDS)
def test_nothing_is_lifted_without_need(access: int, kind: int) -> None:
    """If wrong, entries change for accesses that CR0.WP has nothing to do with."""
    for regs in guests_without_wp():
        with_wp = Regs(regs.cr0 | CR0_WP, 0, regs.cr4, regs.efer)
        assert wp_override(access, kind, with_wp) == access
        if kind != pf.WRITE or access & pf.W:
            assert wp_override(access, kind, regs) == access


def test_what_lifting_makes_of_a_page() -> None:
    """If wrong, the kernel's writes are emulated where an entry would have done."""
    plain, smep = Regs(efer=EFER_NXE), Regs(cr4=CR4_SMEP, efer=EFER_NXE)
    user, kernel = pf.U | pf.ID, pf.ID
    assert wp_override(user, pf.WRITE, plain) == pf.W | pf.ID
    assert wp_override(kernel, pf.WRITE, plain) == pf.W | pf.ID
    assert wp_override(user, pf.WRITE, smep) == pf.W  # the kernel may not run it
    assert wp_override(kernel, pf.WRITE, smep) == pf.W | pf.ID
    for guard in (CR4_SMAP, CR4_PKE):  # which AC and PKRU would lift unseen
        guarded = Regs(cr4=guard, efer=EFER_NXE, rflags_ac=1)
        assert wp_override(user, pf.WRITE, guarded) == user
        assert wp_override(kernel, pf.WRITE, guarded) == pf.W | pf.ID
    without_nx = Regs(cr4=CR4_SMEP)
    assert wp_override(user, pf.WRITE, without_nx) == user  # nothing to forbid it with


@pytest.mark.parametrize("cr0_wp", [True, False])
@pytest.mark.parametrize("access", ACCESSES)
def test_access_of_a_guest_without_privilege(access: int, cr0_wp: bool) -> None:
    """If wrong, an entry allows one of the guest's privileges more, or less, than its tables do."""
    assert lib.hv_deprivileged_access(access, True, cr0_wp) == access
    kernels = lib.hv_deprivileged_access(access, False, cr0_wp)
    assert kernels & pf.U
    assert bool(kernels & pf.W) is (bool(access & pf.W) or not cr0_wp)
    assert kernels & pf.ID == access & pf.ID
