"""Level 3: the tables that hardware walks, audited after every step of hand-written programs."""

from __future__ import annotations

import warnings
from typing import TYPE_CHECKING

from hvmmu._mmu_params import MmuParams
from hvmmu.testing.check import BOTH, MMU, CheckFailure, Need, check
from hvmmu.testing.differential import BrokenRule, Setup, first_violation
from hvmmu.testing.scenarios import scenarios
from hvmmu.testing.settings import otherwise

if TYPE_CHECKING:
    from collections.abc import Iterator

    from hvmmu.testing.context import Context
    from hvmmu.testing.differential import Violation

_TWO_ROOTS = "two roots"
_ONE_BY_ONE = "flushed one by one"
_DROPPED = "dropped"
_SETTINGS = 4  # level 5 tries them all
_MMUS = (MmuParams(), otherwise(MmuParams))


def _setups(context: Context) -> Iterator[Setup]:
    """Yield the machines to run on: both MMUs with the defaults, one with each other setting."""
    cpu = context.cpu()
    if context.mmu is not None:
        yield from (Setup(setting, cpu) for setting in context.settings()[:_SETTINGS])
        return
    for nth, setting in enumerate(context.settings()[:_SETTINGS]):
        for mmu in _MMUS if nth == 0 else _MMUS[nth % 2 :][:1]:
            yield Setup(setting, cpu, mmu)


def _broken_rules(context: Context) -> dict[str, str]:
    """Run every scenario; return the first violation of each rule, all of one machine."""
    for setup in _setups(context):
        found: dict[str, str] = {}
        for name, program in scenarios(setup.cpu).items():
            with warnings.catch_warnings(record=True) as caught:
                warnings.simplefilter("always", ResourceWarning)
                violation = first_violation(context, setup, program)
            if violation is not None:
                kind = _kind(name, violation, of_mmu=context.mmu is not None)
                found.setdefault(kind, f"{name}, {violation}; on {setup}")
            dropped = [str(one.message) for one in caught if one.category is ResourceWarning]
            if dropped:
                found.setdefault(_DROPPED, f"{name}: {dropped[0]}; on {setup}")
        if found:
            return found
    return {}


def _kind(name: str, violation: Violation, *, of_mmu: bool) -> str:
    """Return the broken rule; with an MMU under test, a wrong entry breaks the scenario's rule."""
    scenario = name.partition(",")[0]
    scenarios_of_rules = (_TWO_ROOTS, _ONE_BY_ONE) if of_mmu else (_TWO_ROOTS,)
    symptoms = (BrokenRule.SEEN, BrokenRule.SHADOW) if of_mmu else (BrokenRule.SEEN,)
    own = scenario in scenarios_of_rules and violation.rule in symptoms
    return scenario if own else violation.rule.name


def _fail_if(context: Context, kind: str) -> None:
    line = context.once("scenarios", lambda: _broken_rules(context)).get(kind)
    if line:
        raise CheckFailure(line)


@check(
    "shadow.notrap-only-where-not-present",
    rule="A shadow entry is notrap only while the guest's entry is not present: once that is"
    " present, a fault is the hypervisor's.",
    reference="how-it-works",
    needs=(Need.HYPERVISOR,),
    of=BOTH,
)
def notrap_only_where_not_present(context: Context) -> None:
    """Compare all shadow entries with the guest's after each step."""
    _fail_if(context, BrokenRule.NOTRAP.name)


@check(
    "shadow.keeps-its-promises",
    rule="The shadow tables allow nothing that the guest's tables forbid, map the same frames, let"
    " no write reach a page table or bypass a clear D, and their reverse maps are right.",
    reference="hvmmu.spec.audit",
    needs=(Need.HYPERVISOR,),
)
def keeps_its_promises(context: Context) -> None:
    """Audit the shadow after each step."""
    _fail_if(context, BrokenRule.SHADOW.name)


@check(
    "shadow.allows-no-more",
    rule="An entry that maps something leads where the guest's tables lead, and lets an access"
    " through only if they allow it, with A set, and D for a write.",
    reference="hvmmu.mmu: Mmu",
    of=(MMU,),
)
def allows_no_more(context: Context) -> None:
    """Compare every entry with the guest's tables after each step."""
    _fail_if(context, BrokenRule.SHADOW.name)


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
    rule="A flush that a table update requires is performed before the guest continues: the TLB"
    " agrees with the shadow tables.",
    reference='SDM "Recommended Invalidation"',
    needs=(Need.HYPERVISOR,),
    of=BOTH,
)
def flushes_are_performed(context: Context) -> None:
    """Compare the TLB with the shadow tables after each step."""
    _fail_if(context, BrokenRule.STALE.name)


@check(
    "shadow.flushes-are-not-dropped",
    rule="A flush that the MMU returns is performed, or forgone with a reason; none is dropped.",
    reference="hvmmu.flush: Flush",
    needs=(Need.HYPERVISOR,),
    of=BOTH,
)
def flushes_are_not_dropped(context: Context) -> None:
    """Catch the warning of a flush that was dropped."""
    _fail_if(context, _DROPPED)


@check(
    "shadow.cr3-loads-switch",
    rule="A load of CR3 takes effect at once: the next access goes through the new root's tables.",
    reference='SDM "4-Level Paging and 5-Level Paging"',
    needs=(Need.HYPERVISOR,),
    of=BOTH,
)
def cr3_loads_switch(context: Context) -> None:
    """Load CR3 with one of two roots in turn, whose tables differ."""
    _fail_if(context, _TWO_ROOTS)


@check(
    "shadow.guest-sees-no-difference",
    rule="Through demand paging, table writes, large pages, floods and zaps the guest sees the"
    " same as on a bare machine.",
    reference="how-it-works: The guest cannot tell",
    needs=(Need.HYPERVISOR,),
    of=BOTH,
)
def guest_sees_no_difference(context: Context) -> None:
    """Compare every step of every scenario with the bare machine."""
    _fail_if(context, BrokenRule.SEEN.name)
