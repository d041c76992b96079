"""Level 3: the tables that hardware walks, looked at after each step of programs made by hand."""

from __future__ import annotations

import warnings
from typing import TYPE_CHECKING

from hvmmu._mmu_params import MmuParams
from hvmmu.testing.check import BOTH, MMU, CheckFailure, Need, check
from hvmmu.testing.lockstep import Broken, Setup, differs
from hvmmu.testing.scenarios import scenarios
from hvmmu.testing.settings import otherwise

if TYPE_CHECKING:
    from collections.abc import Iterator

    from hvmmu.testing.context import Context
    from hvmmu.testing.lockstep import Violation

_TWO_ROOTS = "two roots"
_ONE_BY_ONE = "flushed one by one"
_DROPPED = "dropped"
_SETTINGS = 4  # level 5 tries them all
_MMUS = (MmuParams(), otherwise(MmuParams))


def _setups(context: Context) -> Iterator[Setup]:
    """Yield machines to play on: with the defaults both MMUs, with each other setting one."""
    cpu = context.cpu()
    if context.mmu is not None:
        yield from (Setup(setting, cpu) for setting in context.settings()[:_SETTINGS])
        return
    for nth, setting in enumerate(context.settings()[:_SETTINGS]):
        for mmu in _MMUS if nth == 0 else _MMUS[nth % 2 :][:1]:
            yield Setup(setting, cpu, mmu)


def _played(context: Context) -> dict[str, str]:
    """Play every scenario; return what was broken first of each kind, on one machine."""
    for setup in _setups(context):
        told: dict[str, str] = {}
        for name, program in scenarios(setup.cpu).items():
            with warnings.catch_warnings(record=True) as heard:
                warnings.simplefilter("always", ResourceWarning)
                violation = differs(context, setup, program)
            if violation is not None:
                kind = _kind(name, violation, of_mmu=context.mmu is not None)
                told.setdefault(kind, f"{name}, {violation}; on {setup}")
            dropped = [str(one.message) for one in heard if one.category is ResourceWarning]
            if dropped:
                told.setdefault(_DROPPED, f"{name}: {dropped[0]}; on {setup}")
        if told:
            return told
    return {}


def _kind(name: str, violation: Violation, *, of_mmu: bool) -> str:
    """Return what is broken: of an MMU that follows no table, a wrong entry says what it missed."""
    about = name.partition(",")[0]
    telling = (_TWO_ROOTS, _ONE_BY_ONE) if of_mmu else (_TWO_ROOTS,)
    shows = (Broken.SEEN, Broken.SHADOW) if of_mmu else (Broken.SEEN,)
    return about if about in telling and violation.broken in shows else violation.broken.name


def _fail_if(context: Context, kind: str) -> None:
    told = context.once("scenarios", lambda: _played(context)).get(kind)
    if told:
        raise CheckFailure(told)


@check(
    "shadow.notrap-only-where-not-present",
    rule="A shadow entry is notrap only while the guest's entry is not present: where the guest's"
    " entry has become present, the fault is no longer the guest's.",
    reference="how-it-works",
    needs=(Need.HYPERVISOR,),
    of=BOTH,
)
def notrap_only_where_not_present(context: Context) -> None:
    """Compare all shadow entries with the guest's after each step."""
    _fail_if(context, Broken.NOTRAP.name)


@check(
    "shadow.keeps-its-promises",
    rule="The shadow allows nothing that the guest's tables forbid, leads where they lead, lets no"
    " write through to a page table or past a clear D, and its books are right.",
    reference="hvmmu.spec.audit",
    needs=(Need.HYPERVISOR,),
)
def keeps_its_promises(context: Context) -> None:
    """Audit the shadow after each step."""
    _fail_if(context, Broken.SHADOW.name)


@check(
    "shadow.allows-no-more",
    rule="An entry that maps something leads where the guest's tables lead, and lets an access"
    " through only if they allow it, with A set, and D for a write.",
    reference="hvmmu.mmu: Mmu",
    of=(MMU,),
)
def allows_no_more(context: Context) -> None:
    """Hold every entry against the guest's tables after each step."""
    _fail_if(context, Broken.SHADOW.name)


@check(
    "shadow.invlpg-takes-effect",
    rule="After INVLPG the next access to the page goes by the guest's tables as they then are,"
    " whatever the size of the page.",
    reference='SDM "Operations that Invalidate TLBs and Paging-Structure Caches"',
    of=(MMU,),
)
def invlpg_takes_effect(context: Context) -> None:
    """Change entries of every level, and flush each page by itself."""
    _fail_if(context, _ONE_BY_ONE)


@check(
    "shadow.flushes-are-performed",
    rule="A flush that an update of the tables owes is performed before the guest runs on: the TLB"
    " holds nothing that the tables do not give.",
    reference='SDM "Recommended Invalidation"',
    needs=(Need.HYPERVISOR,),
    of=BOTH,
)
def flushes_are_performed(context: Context) -> None:
    """Compare the TLB with the shadow tables after each step."""
    _fail_if(context, Broken.STALE.name)


@check(
    "shadow.flushes-are-not-dropped",
    rule="A flush that the MMU hands over is performed, or forgone with a reason; none is dropped.",
    reference="hvmmu.flush: Flush",
    needs=(Need.HYPERVISOR,),
    of=BOTH,
)
def flushes_are_not_dropped(context: Context) -> None:
    """Listen for the warning of a flush that nobody took."""
    _fail_if(context, _DROPPED)


@check(
    "shadow.cr3-loads-switch",
    rule="A load of CR3 takes effect at once: the next access goes through the new root's tables.",
    reference='SDM "4-Level Paging and 5-Level Paging"',
    needs=(Need.HYPERVISOR,),
    of=BOTH,
)
def cr3_loads_switch(context: Context) -> None:
    """Load CR3 to and fro between roots that lead elsewhere."""
    _fail_if(context, _TWO_ROOTS)


@check(
    "shadow.guest-sees-no-difference",
    rule="Through demand paging, table writes, large pages, floods and zaps the guest sees what it"
    " sees on a bare machine.",
    reference="how-it-works: The guest cannot tell",
    needs=(Need.HYPERVISOR,),
    of=BOTH,
)
def guest_sees_no_difference(context: Context) -> None:
    """Compare every step of every scenario with the bare machine."""
    _fail_if(context, Broken.SEEN.name)
