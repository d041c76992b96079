"""Level 2, continued: what passes between hardware and hypervisor at exits and entries."""

from __future__ import annotations

from typing import TYPE_CHECKING

from hvmmu.backend import Intercept
from hvmmu.testing import cycles
from hvmmu.testing.check import CheckFailure, Need, check

if TYPE_CHECKING:
    from hvmmu.testing.context import Context

_COUNT = 200
_BACKEND = "hvmmu.backend: Backend"


def _fail_if_broken(context: Context, rule: str) -> None:
    """Fail if the cycles of any setting broke this rule; they are run once for all rules."""
    told = context.once("cycles", lambda: _cycles(context)).get(rule)
    if told:
        raise CheckFailure(told)


def _cycles(context: Context) -> dict[str, str]:
    broken: dict[str, str] = {}
    for nth, backend in enumerate(context.instances()):
        draw = context.random(f"cycles {nth}")
        for rule, told in cycles.found(backend, draw, _COUNT).broken.items():
            broken.setdefault(rule, told)
    return broken


@check(
    "architecture.exits-are-read-back",
    rule="The hypervisor reads of an exit exactly what hardware recorded, whatever came before.",
    reference='SDM "VM-Exit Information Fields"; APM "SVM Intercept Exit Codes"',
    needs=(Need.HYPERVISOR,),
)
def exits_are_read_back(context: Context) -> None:
    """Record exits of every kind with wide random values, and read each back."""
    _fail_if_broken(context, cycles.EXITS)


@check(
    "architecture.exits-have-a-reason",
    rule="Every exit has a reason, a name in printable characters.",
    reference=_BACKEND,
    needs=(Need.HYPERVISOR,),
)
def exits_have_a_reason(context: Context) -> None:
    """Ask for the reason of every exit."""
    _fail_if_broken(context, cycles.REASONS)


@check(
    "architecture.injection-delivers-a-page-fault",
    rule="What inject_page_fault asked for is delivered by the next entry, as vector 14.",
    reference='SDM "Exceptions"; APM "#PF—Page-Fault Exception"',
    needs=(Need.HYPERVISOR,),
)
def injection_delivers_a_page_fault(context: Context) -> None:
    """Inject, and enter."""
    _fail_if_broken(context, cycles.VECTOR)


@check(
    "architecture.injection-keeps-the-error-code",
    rule="The page fault that an entry delivers has the error code that was injected, every bit of"
    " it.",
    reference='SDM "Page-Fault Exceptions"',
    needs=(Need.HYPERVISOR,),
)
def injection_keeps_the_error_code(context: Context) -> None:
    """Inject every kind of code, and compare what is delivered."""
    _fail_if_broken(context, cycles.CODE)


@check(
    "architecture.injection-loads-cr2",
    rule="After an injection CR2 is the address of the fault, every bit of it; no other entry"
    " changes CR2. Injection by itself loads none: the hypervisor does.",
    reference="how-it-works: Where a fault can end",
    needs=(Need.HYPERVISOR,),
)
def injection_loads_cr2(context: Context) -> None:
    """Compare CR2 after every entry."""
    _fail_if_broken(context, cycles.CR2)


@check(
    "architecture.injection-happens-once",
    rule="An injected page fault is delivered once, and an entry without one delivers nothing.",
    reference='SDM "Exceptions"',
    needs=(Need.HYPERVISOR,),
)
def injection_happens_once(context: Context) -> None:
    """Enter without an injection, after entries with one and without."""
    _fail_if_broken(context, cycles.ONCE)


@check(
    "architecture.flushes-are-performed",
    rule="Every flush that was asked for is done by the next entry: of several requests all, of"
    " one page that page, and an injection or a new root in between loses none.",
    reference='SDM "Operations that Invalidate TLBs and Paging-Structure Caches"',
    needs=(Need.HYPERVISOR,),
)
def flushes_are_performed(context: Context) -> None:
    """Ask for flushes of every scope, one and several, and compare what the entry does."""
    _fail_if_broken(context, cycles.FLUSHES)


@check(
    "architecture.root-is-the-one-loaded",
    rule="Hardware walks from the root that load_root was last given, until it is given another: a"
    " CR3 load takes effect.",
    reference="hvmmu.backend: Backend.root",
    needs=(Need.HYPERVISOR,),
)
def root_is_the_one_loaded(context: Context) -> None:
    """Load roots between exits and entries, and ask for the root each time."""
    _fail_if_broken(context, cycles.ROOT)


@check(
    "architecture.controls-stay",
    rule="Filter and intercepts stay as create_vcpu made them, whatever exits and entries do.",
    reference=_BACKEND,
    needs=(Need.HYPERVISOR,),
)
def controls_stay(context: Context) -> None:
    """Read both after every entry."""
    _fail_if_broken(context, cycles.CONTROLS)


@check(
    "architecture.paging-operations-exit",
    rule="Every operation that changes how the guest's tables are read exits: writes to CR0, CR3,"
    " CR4 and EFER, and INVLPG.",
    reference='SDM "Other Causes of VM Exits"',
    needs=(Need.HYPERVISOR,),
)
def paging_operations_exit(context: Context) -> None:
    """Look at the intercepts of every setting."""
    wanted = ~Intercept.NONE
    for backend in context.instances():
        missing = wanted & ~backend.intercepts(backend.create_vcpu(0))
        if missing:
            raise CheckFailure(f"{missing} does not exit, with {backend.effective}")


@check(
    "architecture.switch-profile-holds",
    rule="The switch profile says of every page fault, INVLPG and entry what the control structure"
    " gives, whatever came before; a backend whose control structure decides more has none.",
    reference="hvmmu.backend: Backend.switch_profile",
    needs=(Need.HYPERVISOR,),
)
def switch_profile_holds(context: Context) -> None:
    """Compare the reason of every exit and the flush of every entry with the profile."""
    _fail_if_broken(context, cycles.PROFILE)
