"""Level 4: the page faults that exit, and those that hardware delivers to the guest.

Only the error code and the values of non-present entries show the origin of a page fault. The codes
that each entry can raise are found by walks to it.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from hvmmu.arch import pfec as pf
from hvmmu.engine import EXIT_ALWAYS, FILTER_BITS
from hvmmu.testing.check import CheckFailure, Need, check
from hvmmu.testing.error_codes import faults, narrower

if TYPE_CHECKING:
    from collections.abc import Iterator

    from hvmmu.arch.regs import CpuFeatures
    from hvmmu.backend import Backend
    from hvmmu.testing.context import Context

_PAGE = "how-it-works"


def _filtered(context: Context) -> Iterator[tuple[Backend[Any], int, CpuFeatures]]:
    """Yield the backend with each setting on each CPU model, with its exit filter."""
    for cpu in context.cpus():
        for backend in context.instances(cpu):
            yield backend, backend.exit_filter(backend.create_vcpu(0)), cpu


def _filters(context: Context) -> dict[int, Any]:
    """Return the filters, each with the first setting that has it."""
    found: dict[int, Any] = {}
    for backend, exits, _ in _filtered(context):
        found.setdefault(exits, backend.effective)
    return found


def _goes(exits: int, code: int) -> str:
    return "exits" if exits >> code & 1 else "is delivered to the guest"


@check(
    "routing.filter-is-64-bits",
    rule="The exit filter is a whole number with one bit for each of the 64 error codes.",
    reference="hvmmu.backend: Backend.exit_filter",
)
def filter_is_64_bits(context: Context) -> None:
    """Look at the filter of every setting."""
    for backend, exits, _ in _filtered(context):
        if type(exits) is not int or not 0 <= exits <= EXIT_ALWAYS:
            raise CheckFailure(f"with {backend.effective} the filter is {exits!r}")


@check(
    "routing.present-codes-exit",
    rule="Every page fault on a present entry (P=1) exits: it may be the hypervisor's, as if the"
    " guest's D is clear or the frame is a page table.",
    reference='SDM "Page-Fault Exceptions"',
    needs=(Need.HYPERVISOR,),
)
def present_codes_exit(context: Context) -> None:
    """Look at all 32 codes with P set, also those that no access raises today."""
    for exits, setting in _filters(context).items():
        for code in range(1, FILTER_BITS, 2):
            if not exits >> code & 1:
                what = f"code {code:#x} ({pf.describe(code)})"
                raise CheckFailure(f"{what} is delivered to the guest with {setting}")


@check(
    "routing.not-present-codes-go-one-way",
    rule="Codes with P=0 that differ only in W and I/D are filtered alike: the origin of a fault"
    " does not depend on the access type.",
    reference='SDM "Page-Fault Exceptions"',
    needs=(Need.HYPERVISOR,),
)
def not_present_codes_go_one_way(context: Context) -> None:
    """Compare each code with P clear with the same code for a read."""
    for exits, setting in _filters(context).items():
        for code in range(0, FILTER_BITS, 2):
            read = code & ~(pf.W | pf.ID)
            if exits >> code & 1 != exits >> read & 1:
                one, other = (f"{c:#x} ({pf.describe(c)}) {_goes(exits, c)}" for c in (code, read))
                raise CheckFailure(f"code {one}, and {other}, with {setting}")


@check(
    "routing.trap-faults",
    rule="Every access to a trap entry raises a page fault: trap is not present, or has a bit set"
    " that is reserved on this CPU model.",
    reference='SDM "4-Level Paging and 5-Level Paging"; how-it-works',
    needs=(Need.HYPERVISOR,),
)
def trap_faults(context: Context) -> None:
    """Walk to trap at every level, with every access type, on every CPU model."""
    for backend, _, cpu in _filtered(context):
        trap = backend.nonpresent().trap
        found = faults(trap, cpu, context.kinds)
        if found.succeeded:
            where = f"{found.succeeded[0]}, NX {'offered' if cpu.nx else 'not offered'}"
            raise CheckFailure(
                f"trap is {trap:#x}, and an access ({where}) succeeded with {backend.effective}"
            )
        wrong = [one for one in found.codes if one[1] & pf.P and not one[1] & pf.RSVD]
        if wrong:
            raise CheckFailure(
                f"trap is {trap:#x}, and an access ({wrong[0][0]}) was denied as by a mapping:"
                f" {pf.describe(wrong[0][1])}; with {backend.effective}"
            )


@check(
    "routing.filter-lets-out-host-faults",
    rule="Every fault that the hypervisor must handle exits: on a trap entry, and on a present"
    " entry that allows less than the guest's.",
    reference=_PAGE,
    needs=(Need.HYPERVISOR,),
)
def filter_lets_out_host_faults(context: Context) -> None:
    """Walk to trap and to entries with fewer permissions; look each code up in the filter."""
    for backend, exits, cpu in _filtered(context):
        trap = backend.nonpresent().trap
        raised = [(f"trap, {trap:#x}", one) for one in faults(trap, cpu, context.kinds).codes]
        raised += [
            ("a present entry that allows less", one) for one in narrower(cpu, context.kinds)
        ]
        for entry, (how, code) in raised:
            if not exits >> (code & 63) & 1:
                raise CheckFailure(
                    f"an access ({how}) to {entry} raises {code:#x} ({pf.describe(code)}), which"
                    f" is delivered to the guest with {backend.effective}"
                )


@check(
    "routing.delivered-faults-are-the-guests",
    rule="A fault that hardware delivers is the guest's, with the right error code: notrap raises"
    " the same code as the guest's not-present entry.",
    reference=_PAGE,
    needs=(Need.HYPERVISOR,),
)
def delivered_faults_are_the_guests(context: Context) -> None:
    """Walk to notrap and to an entry of zero; compare the codes that are delivered."""
    for backend, exits, cpu in _filtered(context):
        notrap = backend.nonpresent().notrap
        mine, guests = faults(notrap, cpu, context.kinds), faults(0, cpu, context.kinds)
        if mine.succeeded:
            how = mine.succeeded[0]
            raise CheckFailure(f"notrap is {notrap:#x}, and an access ({how}) succeeded")
        for (how, code), (_, right) in zip(mine.codes, guests.codes, strict=True):
            if code != right and not exits >> (code & 63) & 1:
                raise CheckFailure(
                    f"an access ({how}) to notrap, {notrap:#x}, is delivered as"
                    f" {pf.describe(code)}, and the guest's tables give {pf.describe(right)},"
                    f" with {backend.effective}"
                )


@check(
    "routing.trap-and-notrap-differ-where-it-matters",
    rule="Trap and notrap are distinguishable exactly if the filter or a hook of the plugin relies"
    " on it: by their error codes, if hardware delivers one of them.",
    reference=_PAGE,
    needs=(Need.HYPERVISOR,),
)
def trap_and_notrap_differ_where_it_matters(context: Context) -> None:
    """Compare the codes of both with the filter; compare the values if nothing relies on them."""
    hooked = context.hooks.handle_fault is not None or context.hooks.handle_exit is not None
    for backend, exits, cpu in _filtered(context):
        values = backend.nonpresent()
        what = f"trap is {values.trap:#x}, notrap is {values.notrap:#x}, with {backend.effective}"
        delivers = any(not exits >> (code & 63) & 1 for code in faults(0, cpu, context.kinds).all())
        both = (
            faults(values.trap, cpu, context.kinds).all()
            & faults(values.notrap, cpu, context.kinds).all()
        )
        if delivers and not values.distinguishable:
            raise CheckFailure(f"the filter delivers not-present faults, and {what}")
        if delivers and both:
            raise CheckFailure(f"both raise {pf.describe(min(both))} on {cpu}: {what}")
        if values.distinguishable and not delivers and not hooked:
            raise CheckFailure(f"every fault exits, no hook handles them, and {what}")


@check(
    "routing.caps-say-whether-it-filters",
    rule="caps.filters_page_faults is true exactly if some setting of the parameters lets hardware"
    " deliver page faults to the guest without an exit.",
    reference="hvmmu.backend: Caps.filters_page_faults",
    needs=(Need.HYPERVISOR,),
)
def caps_say_whether_it_filters(context: Context) -> None:
    """Compare the flag with the filters of all settings on all CPU models."""
    declared = context.backend.caps.filters_page_faults
    found = _filters(context)
    if declared != any(exits != EXIT_ALWAYS for exits in found):
        filters = ", ".join(f"{exits:#x}" for exits in sorted(found))
        raise CheckFailure(f"filters_page_faults is {declared}, and the filters are {filters}")
