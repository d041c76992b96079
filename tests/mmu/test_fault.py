"""Faults as values: the access in an error code, and the rule that a fault of the guest's broke."""

from __future__ import annotations

from typing import TYPE_CHECKING

import attrs
import pytest

from hvmmu._bare_mmu import BareMmu
from hvmmu._core.engine import ffi, lib
from hvmmu.arch import pfec as pf
from hvmmu.arch.regs import CR0_WP, CR4_PGE, CR4_PKE, CR4_SMAP, CR4_SMEP, EFER_NXE, Regs
from hvmmu.errors import InvariantError
from hvmmu.fault import Cause, PageFault, guest_fault_cause
from hvmmu.tlb import Scope

if TYPE_CHECKING:
    from collections.abc import Callable

    from conftest import Bench

    from hvmmu.arch.role import Role

U, W, X = pf.U, pf.W, pf.ID


@pytest.mark.parametrize(
    ("pfec", "kind"),
    [(0, 0), (pf.P | pf.W, pf.W), (0xFFFF, pf.KIND), (pf.P | pf.RSVD | pf.U, pf.U)],
)
def test_kind(pfec: int, kind: int) -> None:
    """If wrong, the guest's tables are walked for another access than the one that faulted."""
    assert PageFault(0x1000, pfec).kind == kind


def in_c(pfec: int, access: int, kind: int, regs: Regs) -> Cause:
    """Return the cause that the MMU names."""
    given = ffi.new("hv_regs *", attrs.asdict(regs))
    return tuple(Cause)[lib.hv_guest_cause(pfec, access, kind, given)]


@pytest.mark.parametrize(
    ("pfec", "access", "kind", "cr4", "cause"),
    [
        (U, U | W | X, U, 0, Cause.NOT_PRESENT),
        (pf.P | pf.RSVD | U, 0, U, 0, Cause.RESERVED),
        (pf.P | pf.PK | U, U | W | X, U, CR4_PKE, Cause.PROTECTION_KEY),
        (pf.P | U | X, U | W, U | X, 0, Cause.NO_EXECUTE),
        (pf.P | X, W, X, CR4_SMEP, Cause.NO_EXECUTE),
        (pf.P | U | W, U | X, U | W, 0, Cause.READ_ONLY),
        (pf.P | U | W, X, U | W, 0, Cause.SUPERVISOR_PAGE),
        (pf.P | U, W | X, U, 0, Cause.SUPERVISOR_PAGE),
        (pf.P | U, W, U, 0, Cause.SUPERVISOR_PAGE),
        (pf.P | X, U | W | X, X, CR4_SMEP, Cause.SMEP),
        (pf.P, U | W | X, 0, CR4_SMAP, Cause.SMAP),
        (pf.P | W, U | X, W, CR4_SMAP, Cause.SMAP),
        (pf.P | W, U | X, W, 0, Cause.READ_ONLY),
        (pf.P | W, X, W, CR4_SMAP, Cause.READ_ONLY),
    ],
)
def test_guest_cause(pfec: int, access: int, kind: int, cr4: int, cause: Cause) -> None:
    """If wrong, the ledger blames a fault on a rule that was not broken."""
    regs = Regs(cr4=cr4)
    assert guest_fault_cause(pfec, access, kind, regs) is cause
    assert in_c(pfec, access, kind, regs) is cause


def test_smap_is_not_to_blame_while_ac_is_set() -> None:
    """If wrong, a write to a read-only page counts as an SMAP fault though SMAP is suspended."""
    regs = Regs(cr4=CR4_SMAP, rflags_ac=1)
    assert guest_fault_cause(pf.P | W, U | X, W, regs) is Cause.READ_ONLY
    assert in_c(pf.P | W, U | X, W, regs) is Cause.READ_ONLY


def role_of(build: Callable[..., Bench], **registers: int) -> Role:
    """Return the role that these registers give."""
    bench = build()
    bench.load(**{"cr0": 0, "efer": 0, **registers})
    return bench.mmu.role


@pytest.mark.parametrize(
    ("cr4", "efer", "hidden"),
    [
        (0, 0, False),
        (CR4_SMAP, 0, True),
        (CR4_PKE, 0, True),
        (CR4_SMAP, EFER_NXE, False),
        (CR4_SMAP | CR4_SMEP, 0, False),
        (CR4_SMEP, 0, False),
    ],
)
def test_where_error_codes_hide_fetches(
    build: Callable[..., Bench], cr4: int, efer: int, hidden: bool
) -> None:
    """If wrong, a fetch that SMAP spares passes for a read that it forbids."""
    assert role_of(build, cr4=cr4, efer=efer).bypassable is not hidden


@pytest.mark.parametrize(
    ("registers", "same"),
    [
        ({"cr0": CR0_WP}, False),
        ({"efer": EFER_NXE}, False),
        ({"cr4": CR4_SMEP}, False),
        ({"cr4": CR4_SMAP}, False),
        ({"cr4": CR4_PKE}, False),
        ({"cr3": 0x1000, "pkru": 7, "rflags_ac": 1}, True),
        ({"cr4": CR4_PGE}, True),
    ],
)
def test_roles_tell_registers_apart(
    build: Callable[..., Bench], registers: dict[str, int], same: bool
) -> None:
    """If wrong, a page made for other registers is used, or one that would do is made again."""
    assert (role_of(build, **registers) == role_of(build)) is same


def test_smep_and_smap_make_no_role_while_wp_is_set(build: Callable[..., Bench]) -> None:
    """If wrong, shadow pages are made twice for what hardware checks by itself."""
    plain = role_of(build, cr0=CR0_WP, efer=EFER_NXE)
    assert role_of(build, cr0=CR0_WP, cr4=CR4_SMEP | CR4_SMAP, efer=EFER_NXE) == plain


def test_a_bare_machine_passes_registers_through() -> None:
    """If wrong, the native machine runs with other registers than its guest's."""
    mmu, regs = BareMmu(), Regs(cr0=1, cr3=0x5000)
    for found, flush in (mmu.load_guest(regs), mmu.reload()):
        assert found == regs
        assert flush.scope is None
    flush = mmu.invlpg(0x5000)
    assert (flush.scope, flush.gva) == (Scope.PAGE, 0x5000)
    flush.forgo("there is no TLB here")


def test_a_bare_machine_has_nothing_to_handle() -> None:
    """If wrong, a fault that left the native machine is swallowed."""
    mmu = BareMmu()
    with pytest.raises(InvariantError, match="0x5000 left the bare machine"):
        mmu.handle(PageFault(0x5000, 0))
    with pytest.raises(InvariantError, match=r"8 bytes \(0x7\) at 0x5000"):
        mmu.emulate_store(0x5000, 7, 8)
