"""Level 2: the guest-visible effects of each access, compared with an oracle of the manual."""

from __future__ import annotations

from typing import TYPE_CHECKING

from hvmmu.testing.check import BOTH, CheckFailure, check
from hvmmu.testing.run_matrix import Mismatches, run_matrix

if TYPE_CHECKING:
    from hvmmu.testing.context import Context


def _mismatches(context: Context) -> Mismatches:
    return context.once("architecture", lambda: run_matrix(context))


def _fail_if(mismatch: str) -> None:
    if mismatch:
        raise CheckFailure(mismatch)


@check(
    "architecture.access-rights",
    rule="An access succeeds exactly if the guest's tables and control registers allow it.",
    reference='SDM "Access Rights"',
    of=BOTH,
)
def access_rights(context: Context) -> None:
    """Make an access of every type through every combination of permissions, in every mode."""
    _fail_if(_mismatches(context).outcome)


@check(
    "architecture.error-codes",
    rule="The error code that the guest gets follows from its own tables (P, W, U, RSVD, I/D and"
    " PK), never from the shadow tables.",
    reference='SDM "Page-Fault Exceptions"',
    of=BOTH,
)
def error_codes(context: Context) -> None:
    """Compare the code of every fault with the oracle's."""
    _fail_if(_mismatches(context).code)


@check(
    "architecture.cr2",
    rule="CR2 holds the whole linear address of the access that faulted.",
    reference='SDM "Page-Fault Exceptions"',
    of=BOTH,
)
def cr2(context: Context) -> None:
    """Compare CR2 at every fault with the address accessed."""
    _fail_if(_mismatches(context).cr2)


@check(
    "architecture.translations",
    rule="An access reaches the physical address to which the guest's tables map it.",
    reference='SDM "4-Level Paging and 5-Level Paging"',
    of=BOTH,
)
def translations(context: Context) -> None:
    """Compare the guest-physical address of every access that succeeded."""
    _fail_if(_mismatches(context).translation)


@check(
    "architecture.accessed-bits",
    rule="An access that succeeds sets A in every entry of its walk; one that is denied sets none.",
    reference='SDM "Accessed and Dirty Flags"',
    of=BOTH,
)
def accessed_bits(context: Context) -> None:
    """Compare the A bits of all tables at the end."""
    _fail_if(_mismatches(context).accessed)


@check(
    "architecture.dirty-bits",
    rule="A write that succeeds sets D in the leaf; nothing else sets D.",
    reference='SDM "Accessed and Dirty Flags"',
    of=BOTH,
)
def dirty_bits(context: Context) -> None:
    """Compare the D bits of all tables at the end."""
    _fail_if(_mismatches(context).dirty)


@check(
    "architecture.entries-stay",
    rule="Only A and D change in the guest's tables, unless the guest writes them.",
    reference='SDM "Accessed and Dirty Flags"',
    of=BOTH,
)
def entries_stay(context: Context) -> None:
    """Compare all other bits of all tables at the end."""
    _fail_if(_mismatches(context).other)
