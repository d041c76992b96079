"""Level 2: what the guest sees of an access is what the manual says, held against an oracle."""

from __future__ import annotations

from typing import TYPE_CHECKING

from hvmmu.testing.check import BOTH, CheckFailure, check
from hvmmu.testing.observed import Mistakes, observe

if TYPE_CHECKING:
    from hvmmu.testing.context import Context


def _mistakes(context: Context) -> Mistakes:
    return context.once("architecture", lambda: observe(context))


def _fail_if(told: str) -> None:
    if told:
        raise CheckFailure(told)


@check(
    "architecture.access-rights",
    rule="An access goes through exactly if the guest's tables and control registers allow it.",
    reference='SDM "Access Rights"',
    of=BOTH,
)
def access_rights(context: Context) -> None:
    """Make every kind of access through every combination of rights, in every mode."""
    _fail_if(_mistakes(context).outcome)


@check(
    "architecture.error-codes",
    rule="The guest's error code says of a fault what the guest's own tables say: P, W, U, RSVD,"
    " I/D and PK, and nothing of the shadow's.",
    reference='SDM "Page-Fault Exceptions"',
    of=BOTH,
)
def error_codes(context: Context) -> None:
    """Compare the code of every fault with the oracle's."""
    _fail_if(_mistakes(context).code)


@check(
    "architecture.cr2",
    rule="CR2 holds the whole linear address of the access that faulted.",
    reference='SDM "Page-Fault Exceptions"',
    of=BOTH,
)
def cr2(context: Context) -> None:
    """Compare CR2 at every fault with the address accessed."""
    _fail_if(_mistakes(context).cr2)


@check(
    "architecture.landings",
    rule="An access lands where the guest's tables lead.",
    reference='SDM "4-Level Paging and 5-Level Paging"',
    of=BOTH,
)
def landings(context: Context) -> None:
    """Compare the guest-physical address of every access that went through."""
    _fail_if(_mistakes(context).landing)


@check(
    "architecture.accessed-bits",
    rule="A is set in every entry on the way of an access that goes through, and by no access that"
    " is denied.",
    reference='SDM "Accessed and Dirty Flags"',
    of=BOTH,
)
def accessed_bits(context: Context) -> None:
    """Compare the A bits of all tables at the end."""
    _fail_if(_mistakes(context).accessed)


@check(
    "architecture.dirty-bits",
    rule="D is set in the leaf by a write that goes through, and by nothing before it.",
    reference='SDM "Accessed and Dirty Flags"',
    of=BOTH,
)
def dirty_bits(context: Context) -> None:
    """Compare the D bits of all tables at the end."""
    _fail_if(_mistakes(context).dirty)


@check(
    "architecture.entries-stay",
    rule="Nothing but A and D changes in the guest's tables, unless the guest writes them.",
    reference='SDM "Accessed and Dirty Flags"',
    of=BOTH,
)
def entries_stay(context: Context) -> None:
    """Compare all other bits of all tables at the end."""
    _fail_if(_mistakes(context).other)
