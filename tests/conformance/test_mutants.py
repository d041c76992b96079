"""Backends with one mistake each: the kit finds every one, and says which rule it breaks."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import attrs
import pytest

from hvmmu.arch import pfec as pf
from hvmmu.arch import pte
from hvmmu.backend import EACH_AS_ASKED, Caps, CrWrite, Paging, SwitchProfile, VmEntry
from hvmmu.engine import EXIT_ALWAYS, FILTER_BITS
from hvmmu.fault import Cause, FaultOutcome, PageFault, Route
from hvmmu.flush import Flush
from hvmmu.generic import profile_of
from hvmmu.hookspecs import hookimpl
from hvmmu.params import param
from hvmmu.spte import Nonpresent
from hvmmu.testing import check_backend
from hvmmu.testing.context import Context
from hvmmu.testing.report import FAILED
from hvmmu.testing.suite import checks, run_check
from hvmmu.testing.target import hooks_of
from hvmmu.tlb import Scope

if TYPE_CHECKING:
    from collections.abc import Callable

    from hvmmu.testing.check import Check
    from hvmmu.vcpu import Vcpu

Acme = Any
CHECKS = {check.id: check for check in checks()}

# The mistakes in the backend. Each takes the right backend, and returns the wrong one.

FLUSHES = "architecture.flushes-are-performed"
CODE = "architecture.injection-keeps-the-error-code"
CR2 = "architecture.injection-loads-cr2"
ONCE = "architecture.injection-happens-once"
ROOT = "architecture.root-is-the-one-loaded"
EXITS = "architecture.exits-are-read-back"
TRAP = "routing.trap-faults"
DIFFER = "routing.trap-and-notrap-differ-where-it-matters"
STRICT = "parameters.values-are-taken-strictly"
PROFILE = "architecture.switch-profile-holds"


def constant_profile(self: Acme, control: Any) -> SwitchProfile:
    """Promise one name for all page faults, and flushes as they are asked for."""
    return SwitchProfile(("PAGE_FAULT",) * FILTER_BITS, "INVLPG", EACH_AS_ASKED)


def named_by_access(acme: Acme) -> Acme:
    """Name an exit after its access, and promise one name for all."""

    def reason(self: Acme, control: Any) -> str:
        if not isinstance(control.exit, PageFault):
            return acme.reasons[type(control.exit)]
        return "PF_WRITE" if control.exit.pfec & pf.W else "PF_READ"

    return with_method(acme, exit_reason=reason, switch_profile=constant_profile)


def named_by_count(acme: Acme) -> Acme:
    """Name every third exit otherwise: state that a profile cannot have."""
    counted: list[object] = []

    def reason(self: Acme, control: Any) -> str:
        counted.append(control)
        name: str = acme.exit_reason(self, control)
        return name if len(counted) % 3 else f"{name}_AGAIN"

    return with_method(acme, exit_reason=reason, switch_profile=constant_profile)


def flushes_more(acme: Acme) -> Acme:
    """Flush everything at every entry, and promise what was asked."""

    def enter(self: Acme, control: Any, registers: Any) -> VmEntry:
        return attrs.evolve(acme.enter(self, control, registers), flush=Scope.ALL)

    return with_method(acme, enter=enter, switch_profile=constant_profile)


def lying_flushes(acme: Acme) -> Acme:
    """Promise that entries flush nothing."""

    def profile(self: Acme, control: Any) -> SwitchProfile:
        return attrs.evolve(profile_of(self), flushes=dict.fromkeys((None, *Scope)))

    return with_method(acme, switch_profile=profile)


def with_method(acme: Acme, **methods: Any) -> Acme:
    """Return the backend with other methods."""
    return type("Mutant", (acme,), methods)


def no_flush(acme: Acme) -> Acme:
    """Forget every flush."""
    return with_method(acme, flush_tlb=lambda *_: None)


def no_page_flush(acme: Acme) -> Acme:
    """Forget flushes of one page."""

    def flush_tlb(self: Acme, control: Any, scope: Scope, gva: int) -> None:
        if scope is not Scope.PAGE:
            acme.flush_tlb(self, control, scope, gva)

    return with_method(acme, flush_tlb=flush_tlb)


def last_flush_only(acme: Acme) -> Acme:
    """Keep the last request only."""

    def flush_tlb(self: Acme, control: Any, scope: Scope, gva: int) -> None:
        control.flush, control.gva = scope, gva

    return with_method(acme, flush_tlb=flush_tlb)


def first_flush_only(acme: Acme) -> Acme:
    """Keep the first request only."""

    def flush_tlb(self: Acme, control: Any, scope: Scope, gva: int) -> None:
        if control.flush is None:
            control.flush, control.gva = scope, gva

    return with_method(acme, flush_tlb=flush_tlb)


def no_flush_with_event(acme: Acme) -> Acme:
    """Forget the flush where the entry delivers something."""

    def enter(self: Acme, control: Any, registers: Any) -> VmEntry:
        entry = acme.enter(self, control, registers)
        return entry if entry.vector is None else attrs.evolve(entry, flush=None)

    return with_method(acme, enter=enter)


def flush_of_page_zero(acme: Acme) -> Acme:
    """Flush one page, and always the same."""

    def enter(self: Acme, control: Any, registers: Any) -> VmEntry:
        return attrs.evolve(acme.enter(self, control, registers), gva=0)

    return with_method(acme, enter=enter)


def event_stays(acme: Acme) -> Acme:
    """Never clear the event."""

    def enter(self: Acme, control: Any, registers: Any) -> VmEntry:
        event = control.event
        entry = acme.enter(self, control, registers)
        control.event = event
        return entry

    return with_method(acme, enter=enter)


def injecting(acme: Acme, change: Callable[[int], int]) -> Acme:
    """Inject another error code."""

    def inject_page_fault(self: Acme, control: Any, registers: Any, gva: int, pfec: int) -> None:
        acme.inject_page_fault(self, control, registers, gva, change(pfec))

    return with_method(acme, inject_page_fault=inject_page_fault)


def loading_cr2(acme: Acme, change: Callable[[int, int], int]) -> Acme:
    """Load something else into CR2, from what was there and the address."""

    def inject_page_fault(self: Acme, control: Any, registers: Any, gva: int, pfec: int) -> None:
        old = registers.cr2
        acme.inject_page_fault(self, control, registers, gva, pfec)
        registers.cr2 = change(old, gva)

    return with_method(acme, inject_page_fault=inject_page_fault)


def first_root_only(acme: Acme) -> Acme:
    """Keep the root that was loaded first."""

    def load_root(self: Acme, control: Any, root: int) -> None:
        control.root = control.root or root

    return with_method(acme, load_root=load_root)


def root_with_flush_only(acme: Acme) -> Acme:
    """Take a new root over only at an entry that flushes."""

    def load_root(self: Acme, control: Any, root: int) -> None:
        control.intended = root

    def enter(self: Acme, control: Any, registers: Any) -> VmEntry:
        entry = acme.enter(self, control, registers)
        if entry.flush is not None:
            control.root = getattr(control, "intended", control.root)
        return entry

    def create_vcpu(self: Acme, vcpu_id: int) -> Any:
        made = acme.create_vcpu(self, vcpu_id)
        return attrs.make_class("Open", [], bases=(type(made),), slots=False)(
            made.page_faults, made.intercepts
        )

    return with_method(acme, load_root=load_root, enter=enter, create_vcpu=create_vcpu)


def narrow_root(acme: Acme) -> Acme:
    """Lose the upper half of a root."""

    def load_root(self: Acme, control: Any, root: int) -> None:
        control.root = root & 0xFFFF_F000

    return with_method(acme, load_root=load_root)


def filtering(acme: Acme, bits: int) -> Acme:
    """Let other codes out."""
    return type("Mutant", (acme,), {"filter": bits})


def trapping(acme: Acme, value: int) -> Acme:
    """Trap with another value."""
    return type("Mutant", (acme,), {"trap": value})


def swapped_entries(acme: Acme) -> Acme:
    """Mistake trap for notrap."""

    def nonpresent(self: Acme) -> Nonpresent:
        right = acme.nonpresent(self)
        return Nonpresent(right.notrap, right.trap)

    return with_method(acme, nonpresent=nonpresent)


def blind_to_the_cpu(acme: Acme) -> Acme:
    """Trap with reserved bits where none is reserved."""

    def init(self: Acme, params: Any, cpu: Any, explicit: Any) -> None:
        self.effective = params

    return with_method(acme, __init__=init)


def loose(acme: Acme, name: str, converter: Callable[[Any], Any], default: Any) -> Acme:
    """Convert what the class of the parameters is given."""
    right = getattr(attrs.fields(acme.params), name)
    made = attrs.field(default=default, converter=converter, metadata=right.metadata)
    fields = {"filter_faults": param(default=True, doc="as it was")} | {name: made}
    return type("Mutant", (acme,), {"params": attrs.make_class("Loose", fields, frozen=True)})


def undeclared(acme: Acme) -> Acme:
    """Have a parameter that hvmmu's grammar knows nothing of."""
    fields = {"filter_faults": attrs.field(default=True, converter=bool)}
    return type("Mutant", (acme,), {"params": attrs.make_class("Loose", fields, frozen=True)})


def silent(acme: Acme) -> Acme:
    """Turn a parameter off without a word, asked or not."""

    def init(self: Acme, params: Any, cpu: Any, explicit: Any) -> None:
        off = cpu.maxphyaddr == 52 and cpu.nx
        self.effective = attrs.evolve(params, filter_faults=False) if off else params

    return with_method(acme, __init__=init)


def reading_back(acme: Acme, change: Callable[[Any], Any]) -> Acme:
    """Read another exit than was recorded."""

    def decode_exit(self: Acme, control: Any, registers: Any) -> Any:
        return change(acme.decode_exit(self, control, registers))

    return with_method(acme, decode_exit=decode_exit)


def _page(what: Any) -> Any:
    return attrs.evolve(what, gva=what.gva & ~0xFFF) if isinstance(what, PageFault) else what


BACKENDS: dict[str, tuple[Callable[[Acme], Acme], str]] = {
    "no flush": (no_flush, FLUSHES),
    "no flush of one page": (no_page_flush, FLUSHES),
    "last flush only": (last_flush_only, FLUSHES),
    "first flush only": (first_flush_only, FLUSHES),
    "no flush beside an event": (no_flush_with_event, FLUSHES),
    "flush of page zero": (flush_of_page_zero, FLUSHES),
    "event stays": (event_stays, ONCE),
    "code without W": (lambda acme: injecting(acme, lambda code: code & ~pf.W), CODE),
    "code without U": (lambda acme: injecting(acme, lambda code: code & ~pf.U), CODE),
    "code without I/D": (lambda acme: injecting(acme, lambda code: code & 0xF), CODE),
    "code with RSVD": (lambda acme: injecting(acme, lambda code: code | pf.RSVD), CODE),
    "code with P": (lambda acme: injecting(acme, lambda code: code | pf.P), CODE),
    "code of zero": (lambda acme: injecting(acme, lambda code: 0), CODE),
    "CR2 not set": (lambda acme: loading_cr2(acme, lambda old, gva: old), CR2),
    "CR2 rounded": (lambda acme: loading_cr2(acme, lambda old, gva: gva & ~0xFFF), CR2),
    "CR2 of 32 bits": (lambda acme: loading_cr2(acme, lambda old, gva: gva & 0xFFFF_FFFF), CR2),
    "CR2 of 48 bits": (lambda acme: loading_cr2(acme, lambda old, gva: gva & (1 << 48) - 1), CR2),
    "CR2 of zero": (lambda acme: loading_cr2(acme, lambda old, gva: 0), CR2),
    "address of an exit rounded": (lambda acme: reading_back(acme, _page), EXITS),
    "first root only": (first_root_only, ROOT),
    "root with a flush only": (root_with_flush_only, ROOT),
    "narrow root": (narrow_root, ROOT),
    "filter by W": (
        lambda acme: filtering(acme, sum(1 << c for c in range(64) if c & pf.W)),
        "routing.present-codes-exit",
    ),
    "filter upside down": (
        lambda acme: filtering(acme, ~acme.filter & EXIT_ALWAYS),
        "routing.present-codes-exit",
    ),
    "filter shifted": (
        lambda acme: filtering(acme, acme.filter >> 1),
        "routing.present-codes-exit",
    ),
    "filter without the last": (
        lambda acme: filtering(acme, acme.filter & ~(1 << 63)),
        "routing.present-codes-exit",
    ),
    "filter that is none": (lambda acme: filtering(acme, EXIT_ALWAYS), DIFFER),
    "filter by RSVD": (
        lambda acme: filtering(acme, sum(1 << c for c in range(64) if c & pf.RSVD)),
        "routing.filter-lets-out-host-faults",
    ),
    "filter that is hidden": (
        lambda acme: type("Mutant", (acme,), {"caps": Caps(Paging.SHADOW)}),
        "routing.caps-say-whether-it-filters",
    ),
    "trap of P alone": (lambda acme: trapping(acme, pte.P), TRAP),
    "trap of zero": (lambda acme: trapping(acme, 0), DIFFER),
    "trap by NX": (lambda acme: trapping(acme, pte.NX | pte.P), TRAP),
    "trap by bit 46": (lambda acme: trapping(acme, 1 << 46 | pte.P), TRAP),
    "trap not present": (lambda acme: trapping(acme, acme.trap & ~pte.P), DIFFER),
    "trap and notrap swapped": (swapped_entries, "routing.filter-lets-out-host-faults"),
    "trap on any CPU": (blind_to_the_cpu, TRAP),
    "bool that takes 2": (
        lambda acme: loose(
            acme, "filter_faults", lambda given: str(given) not in ("0", "no"), True
        ),
        STRICT,
    ),
    "bool by truth": (lambda acme: loose(acme, "filter_faults", bool, True), STRICT),
    "int that takes floats": (lambda acme: loose(acme, "depth", int, 2), STRICT),
    "int that is clamped": (
        lambda acme: loose(acme, "depth", lambda n: min(max(n, 1), 4), 2),
        STRICT,
    ),
    "exits named by access": (named_by_access, PROFILE),
    "exits named by count": (named_by_count, PROFILE),
    "entries that flush more": (flushes_more, PROFILE),
    "a profile that flushes nothing": (lying_flushes, PROFILE),
    "bool that is not declared": (undeclared, "parameters.declared"),
    "off without a word": (silent, "parameters.never-silently-changed"),
}


@pytest.mark.parametrize("name", BACKENDS)
def test_mistakes_in_a_backend(name: str, acme: Acme) -> None:
    """A backend with this mistake is called right, or the rule that it breaks is not named."""
    make, expected = BACKENDS[name]
    found(expected, make(acme), hooks=None)


def found(expected: str, backend: Acme, hooks: object) -> None:
    """Run one check by itself: it must fail, and say what is wrong in few words."""
    context = Context(backend, hooks_of(hooks or object()))
    check: Check = CHECKS[expected]
    result = run_check(check, context)
    assert result.outcome == FAILED, result
    assert check.rule in str(result)
    assert result.message


def test_every_bit_of_the_filter(acme: Acme) -> None:
    """A filter with one bit wrong is called right."""
    routing = [check for check in CHECKS.values() if check.level == 4]
    for code in range(64):
        mutant = filtering(acme, acme.filter ^ 1 << code)
        results = [run_check(check, Context(mutant)) for check in routing]
        assert any(result.outcome == FAILED for result in results), hex(code)


# The mistakes in a hook of the plugin's own, by what a hook can reach.


def guest_way(vcpu: Vcpu, gva: int) -> list[int]:
    """Return where the guest's entries for an address lie (gpa), as far as they lead."""
    table, way = vcpu.cr3, []
    for shift in (39, 30, 21, 12):
        way.append((table & pte.ADDRESS) + 8 * (gva >> shift & 511))
        entry = vcpu.peek(way[-1])
        if not entry & pte.P or entry & pte.PS or shift == 12:
            break
        table = entry
    return way


def mark(vcpu: Vcpu, gpa: int, bits: int) -> None:
    """Set bits of a guest's entry that is present."""
    entry = vcpu.peek(gpa)
    if entry & pte.P:
        vcpu.slots.store(gpa, entry | bits)


class DirtyOnRead:
    """Sets D with A, whatever the access is."""

    @hookimpl
    def hvmmu_handle_fault(self, vcpu: Vcpu, fault: PageFault) -> Any:
        handled, flush = vcpu.mmu.handle(fault)
        if handled.route is Route.INSTALL:
            mark(vcpu, guest_way(vcpu, fault.gva)[-1], pte.D)
        return handled, flush


class DirtyBeforeDenial:
    """Sets D before it looks whether the write is allowed."""

    @hookimpl
    def hvmmu_handle_fault(self, vcpu: Vcpu, fault: PageFault) -> Any:
        if fault.pfec & pf.W:
            mark(vcpu, guest_way(vcpu, fault.gva)[-1], pte.D)
        return None


class AccessedOnDenial:
    """Sets A of the leaf where the access is denied."""

    @hookimpl
    def hvmmu_handle_fault(self, vcpu: Vcpu, fault: PageFault) -> Any:
        handled, flush = vcpu.mmu.handle(fault)
        if handled.route is Route.INJECT:
            mark(vcpu, guest_way(vcpu, fault.gva)[-1], pte.A)
        return handled, flush


class AccessedAboveOnDenial:
    """Sets A above the leaf where the access is denied."""

    @hookimpl
    def hvmmu_handle_fault(self, vcpu: Vcpu, fault: PageFault) -> Any:
        handled, flush = vcpu.mmu.handle(fault)
        if handled.route is Route.INJECT:
            mark(vcpu, guest_way(vcpu, fault.gva)[0], pte.A)
        return handled, flush


class HardwaresCode:
    """Injects hardware's error code, which speaks of the shadow."""

    @hookimpl
    def hvmmu_handle_fault(self, vcpu: Vcpu, fault: PageFault) -> Any:
        handled, flush = vcpu.mmu.handle(fault)
        if handled.route is Route.INJECT:
            handled = attrs.evolve(handled, pfec=fault.pfec)
        return handled, flush


class KindAsCode:
    """Injects without P, as if every fault of the guest's were a not-present one."""

    @hookimpl
    def hvmmu_handle_fault(self, vcpu: Vcpu, fault: PageFault) -> Any:
        handled, flush = vcpu.mmu.handle(fault)
        if handled.route is Route.INJECT:
            handled = FaultOutcome(Route.INJECT, Cause.NOT_PRESENT, fault.kind, level=1)
        return handled, flush


class ForgoesFlush:
    """Says that nothing is owed, with a reason that is none."""

    @hookimpl
    def hvmmu_handle_fault(self, vcpu: Vcpu, fault: PageFault) -> Any:
        handled, flush = vcpu.mmu.handle(fault)
        flush.forgo("it will be all right")
        return handled, Flush.nothing()


class DropsFlush:
    """Returns another flush than it was given."""

    @hookimpl
    def hvmmu_handle_fault(self, vcpu: Vcpu, fault: PageFault) -> Any:
        handled, _ = vcpu.mmu.handle(fault)
        return handled, Flush.nothing()


class StoresUnseen:
    """Handles page-table writes itself, and tells the shadow nothing."""

    @hookimpl
    def hvmmu_handle_fault(self, vcpu: Vcpu, fault: PageFault) -> Any:
        handled, flush = vcpu.mmu.handle(fault)
        stored = vcpu.fault.stored
        if handled.route is not Route.EMULATE or stored is None:
            return handled, flush
        vcpu.slots.store(handled.gpa, stored, 8)
        return attrs.evolve(handled, route=Route.MMIO), flush


class LetsWritesThrough:
    """Makes a page table writable instead of emulating the write: out-of-sync shadow, badly."""

    @hookimpl
    def hvmmu_handle_fault(self, vcpu: Vcpu, fault: PageFault) -> Any:
        handled, flush = vcpu.mmu.handle(fault)
        if handled.route is not Route.EMULATE:
            return handled, flush
        pages = vcpu.mmu.pages  # type: ignore[attr-defined]
        for sptep in pages.rmap.leaves(handled.gpa >> 12, 1) or pages.rmap.leaves(
            handled.gpa >> 21 << 9, 2
        ):
            vcpu.engine.write_pte(sptep, pages.entry(sptep) | pte.W)
        return attrs.evolve(handled, route=Route.INSTALL), flush


class NotrapForUnused:
    """Leaves entries notrap whose guest entry is present and not accessed."""

    @hookimpl
    def hvmmu_handle_exit(self, vcpu: Vcpu) -> None:
        pages = vcpu.mmu.pages  # type: ignore[attr-defined]
        for page in pages:
            if page.role.level == 1 and not page.role.direct:
                for at, gpte in enumerate(vcpu.slots.table(page.gfn)):
                    sptep = page.hpa + 8 * at
                    if gpte & (pte.P | pte.A) == pte.P and pages.entry(sptep) == TRAP_VALUE:
                        pages.set_notrap(sptep)


TRAP_VALUE = 0xFFFF_FFFF_FFFF_F001


class KeepsCr3:
    """Swallows CR3 loads after the first that matters."""

    @hookimpl
    def hvmmu_handle_exit(self, vcpu: Vcpu, what: Any) -> Any:
        if isinstance(what, CrWrite) and what.cr == 3 and vcpu.cr3:
            return CrWrite(3, vcpu.cr3)
        return None


class KeepsRoot:
    """Lets the guest read the new CR3, and has hardware keep the old root."""

    @hookimpl
    def hvmmu_vm_created(self, vcpu: Vcpu) -> None:
        load_guest, first = vcpu.mmu.load_guest, {}

        def keep(regs: Any) -> Any:
            first.setdefault("cr3", regs.cr3) if regs.cr3 else None
            return load_guest(attrs.evolve(regs, cr3=first.get("cr3", 0)))

        vcpu.mmu.load_guest = keep  # type: ignore[method-assign]


class Crashes:
    """Raises, as bugs do."""

    @hookimpl
    def hvmmu_handle_fault(self, vcpu: Vcpu, fault: PageFault) -> Any:
        raise KeyError(fault.gva)


SEEN_NOTRAP = "shadow.notrap-only-where-not-present"
HOOKS: dict[type, str] = {
    DirtyOnRead: "architecture.dirty-bits",
    DirtyBeforeDenial: "architecture.dirty-bits",
    AccessedOnDenial: "architecture.accessed-bits",
    AccessedAboveOnDenial: "architecture.accessed-bits",
    HardwaresCode: "architecture.error-codes",
    KindAsCode: "architecture.error-codes",
    ForgoesFlush: "shadow.flushes-are-performed",
    DropsFlush: "shadow.flushes-are-not-dropped",
    StoresUnseen: SEEN_NOTRAP,
    LetsWritesThrough: SEEN_NOTRAP,
    NotrapForUnused: SEEN_NOTRAP,
    KeepsCr3: "shadow.cr3-loads-switch",
    KeepsRoot: "shadow.cr3-loads-switch",
    Crashes: "architecture.access-rights",
}


@pytest.mark.parametrize("plugin", HOOKS, ids=lambda plugin: plugin.__name__)
def test_mistakes_in_a_hook(plugin: type, acme: Acme) -> None:
    """A plugin whose hook makes this mistake is called right, or its rule is not named."""
    found(HOOKS[plugin], acme, plugin())


def test_the_right_backend_passes(acme: Acme) -> None:
    """The kit finds fault with a backend that has none."""
    report = check_backend(acme, examples=2)
    assert report.ok, str(report)
    assert report.counts()["skipped"] == 5  # what only an installed package has
