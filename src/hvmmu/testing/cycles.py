"""Exits and entries at random over one control structure, and what must come of them.

One cycle is what the world switch does: an exit is recorded and read back, the hypervisor may ask
for flushes, load a root and inject, and the guest is entered again.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import attrs

from hvmmu.arch import pfec as pf
from hvmmu.arch.regs import CpuFeatures
from hvmmu.backend import PAGE_FAULT_VECTOR, Backend, CrWrite, Invlpg, MsrWrite, VmEntry, VmExit
from hvmmu.engine import FILTER_BITS, HwThread
from hvmmu.fault import PageFault
from hvmmu.flush import Flush
from hvmmu.tlb import Scope

if TYPE_CHECKING:
    import random
    from collections.abc import Iterator

EXITS, REASONS, VECTOR, CODE, ONCE, CR2, FLUSHES, ROOT, CONTROLS, PROFILE = (
    "exits",
    "reasons",
    "vector",
    "code",
    "once",
    "cr2",
    "flushes",
    "root",
    "controls",
    "profile",
)
"""The rules that a cycle can break."""

EXTREMES = (0, 1, 0xFFF, 0x1000, (1 << 47) - 1, 1 << 47, ((1 << 17) - 1) << 47, (1 << 64) - 1)
_SCOPES = (Scope.PAGE, Scope.PAGE, Scope.PAGE, Scope.NON_GLOBAL, Scope.ALL)
_WIDTH = {Scope.PAGE: 0, Scope.NON_GLOBAL: 1, Scope.ALL: 2}

Request = tuple[Scope, int]
Broken = tuple[str, str]


def switcher(backend: Backend[Any]) -> Any:  # noqa: ANN401 - a backend with more members
    """Return the backend if it runs deprivileged guests, whose privilege it switches; else None."""
    return backend if backend.caps.deprivileged else None


class Cycles:
    """A backend with one control structure, driven as the world switch drives it."""

    def __init__(self, backend: Backend[Any], draw: random.Random, vcpu_id: int = 0) -> None:
        self._backend, self._draw = backend, draw
        self._control = backend.create_vcpu(vcpu_id)
        self._core = HwThread(CpuFeatures())
        self._controls = self._read_controls()
        self._profile = backend.switch_profile(self._control)
        self._root: int | None = None
        self._switcher = switcher(backend)
        self._user = False
        """A deprivileged guest is in user mode."""
        self._user_root: int | None = None
        self._flushes: list[Request] = []
        self._injected: tuple[int, int] | None = None
        self._was_injected = False

    def _read_controls(self) -> tuple[int, object]:
        filters = self._backend.exit_filter(self._control)
        return filters, self._backend.intercepts(self._control)

    def run(self, count: int) -> Iterator[Broken]:
        """Yield rule and values for all that goes wrong in *count* cycles."""
        for _ in range(count):
            yield from self._cycle()

    def _cycle(self) -> Iterator[Broken]:
        chance = self._draw.random
        self._core.gprs = [self._draw.getrandbits(64) for _ in range(16)]
        self._core.cr2 = self._wide()
        if chance() < 0.1:
            self._ask_for_flush()  # as a write to PKRU may: no exit of its own
        if self._switcher is not None:
            yield from self._switch(self._switcher)
        yield from self._exit(self._any_exit())
        if chance() < 0.4:
            self._inject()
        if chance() < 0.3:
            self._load_roots()
        for _ in range(self._draw.choice((0, 0, 1, 1, 2, 3))):
            self._ask_for_flush()
        yield from self._enter()
        yield from self._standing()

    def _load_roots(self) -> None:
        self._root = self._draw.getrandbits(34) << 12
        self._backend.load_root(self._control, self._root)
        if self._switcher is not None:
            self._user_root = self._draw.getrandbits(34) << 12
            self._switcher.load_user_root(self._control, self._user_root)

    def _switch(self, backend: Any) -> Iterator[Broken]:  # noqa: ANN401 - one for such guests
        """Take a deprivileged guest to and fro between its user mode and its kernel."""
        if self._draw.random() < 0.5:
            self._user = not self._user
            backend.switch_privilege(self._control, self._core, user=self._user)
        if self._draw.random() < 0.3:
            gva, pfec = self._wide(), self._draw.getrandbits(6)
            seen = backend.deliver_page_fault(self._control, self._core, gva, pfec | pf.U)
            if seen != self._as_guests(pfec):
                right = f"{self._as_guests(pfec):#x} is its own, user mode {self._user}"
                yield CODE, f"delivered {pfec | pf.U:#x} as {seen:#x} without an exit, and {right}"
            if self._core.cr2 != gva:
                yield CR2, f"CR2 is {self._core.cr2:#x} after a fault at {gva:#x} was delivered"
            self._user = False
        yield from self._standing()

    def _as_guests(self, pfec: int) -> int:
        """Return an error code of hardware's as the guest's privilege has it."""
        if self._switcher is None:
            return pfec
        return pfec | pf.U if self._user else pfec & ~pf.U

    def _wide(self) -> int:
        return self._draw.choice((self._draw.getrandbits(64), self._draw.choice(EXTREMES)))

    def _any_exit(self) -> VmExit:
        bits = self._draw.getrandbits
        return self._draw.choice(
            (
                PageFault(self._wide(), bits(16)),
                PageFault(self._wide(), bits(6)),
                CrWrite(self._draw.choice((0, 3, 4)), self._wide()),
                MsrWrite(bits(32), self._wide()),
                Invlpg(self._wide()),
            )
        )

    def _exit(self, what: VmExit) -> Iterator[Broken]:
        recorded = what
        if isinstance(what, PageFault) and self._switcher is not None:
            recorded = attrs.evolve(what, pfec=what.pfec | pf.U)
            what = attrs.evolve(what, pfec=self._as_guests(what.pfec))
        self._backend.record_exit(self._control, self._core, recorded)
        reason = self._backend.exit_reason(self._control)
        if not isinstance(reason, str) or not reason.isprintable() or not reason:
            yield REASONS, f"{what} has the reason {reason!r}"
        yield from self._named(recorded, reason)
        read = self._backend.decode_exit(self._control, self._core)
        if read != what:
            yield EXITS, f"recorded {recorded}, and read back {read}, not {what}"

    def _named(self, what: VmExit, reason: str) -> Iterator[Broken]:
        """Hold the reason of an exit against the switch profile."""
        if self._profile is None or not isinstance(what, (PageFault, Invlpg)):
            return
        named = self._profile.invlpg
        if isinstance(what, PageFault):
            named = self._profile.page_faults[what.pfec & (FILTER_BITS - 1)]
        if named != reason:
            yield PROFILE, f"{what} exits with {reason!r}, and the profile says {named!r}"

    def _inject(self) -> None:
        gva, pfec = self._wide(), self._draw.choice((self._draw.getrandbits(6), 0x8007, 0x47))
        self._injected = gva, pfec
        self._backend.inject_page_fault(self._control, self._core, gva, pfec)

    def _ask_for_flush(self) -> None:
        scope, gva = self._draw.choice(_SCOPES), self._draw.choice((0, 0x1000, self._wide()))
        self._flushes.append((scope, gva))
        self._backend.flush_tlb(self._control, scope, gva)

    def _enter(self) -> Iterator[Broken]:
        cr2 = self._core.cr2 if self._injected is None else self._injected[0]
        entry = self._backend.enter(self._control, self._core)
        if self._injected is None and entry.vector is not None:
            told = (
                "delivered again" if self._was_injected else "delivered, and nothing was injected"
            )
            yield ONCE, f"vector {entry.vector}, code {entry.error_code:#x}, is {told}"
        elif self._injected is not None:
            yield from self._delivered(entry, *self._injected)
        if self._core.cr2 != cr2:
            was = "after an injection" if self._injected else "though nothing was injected"
            yield CR2, f"CR2 is {self._core.cr2:#x} {was}, and should be {cr2:#x}"
        self._user = self._user and self._injected is None
        self._was_injected, self._injected = self._injected is not None, None
        yield from self._flushed(entry)

    def _delivered(self, entry: VmEntry, gva: int, pfec: int) -> Iterator[Broken]:
        what = f"injected {pfec:#x} for {gva:#x}"
        if entry.vector != PAGE_FAULT_VECTOR:
            yield VECTOR, f"{what}, and the entry delivers vector {entry.vector}"
        elif entry.error_code != pfec:
            yield CODE, f"{what}, and the entry delivers {entry.error_code:#x}"

    def _flushed(self, entry: VmEntry) -> Iterator[Broken]:
        explicit, self._flushes = self._flushes, []
        if self._profile is not None:
            owed = Flush.nothing()
            for scope, gva in explicit:
                owed = owed.merge(Flush(scope, gva))
            owed.forgo("it is compared with what the entry has flushed")
            flushes = self._profile.flushes[owed.scope]
            if entry.flush is not flushes:
                done = "nothing" if entry.flush is None else entry.flush.value
                said = "nothing" if flushes is None else flushes.value
                yield PROFILE, f"an entry flushes {done}, and the profile says {said}"
        for scope, gva in explicit:
            if not _covers(entry, scope, gva):
                wanted = ", ".join(_shown(*one) for one in explicit)
                done = "nothing" if entry.flush is None else _shown(entry.flush, entry.gva)
                yield FLUSHES, f"asked to flush {wanted}, and the entry flushes {done}"
                return

    def _standing(self) -> Iterator[Broken]:
        """Look at what no exit or entry may change."""
        root = self._user_root if self._user else self._root
        if root is not None:
            found = self._backend.root(self._control)
            if found != root:
                told = hex(found) if isinstance(found, int) else repr(found)
                yield ROOT, f"loaded root {root:#x}, and hardware walks from {told}"
        if self._read_controls() != self._controls:
            yield CONTROLS, f"{self._read_controls()} after an exit, and before {self._controls}"


def _covers(entry: VmEntry, scope: Scope, gva: int) -> bool:
    """Say whether the flush of an entry does what was asked for.

    Under shadow paging no translation is global, so that one scope is wider than another.
    """
    if entry.flush is None:
        return False
    if entry.flush is Scope.PAGE and scope is Scope.PAGE:
        return entry.gva >> 12 == gva >> 12
    return _WIDTH[entry.flush] >= max(_WIDTH[scope], 1)


def _shown(scope: Scope, gva: int) -> str:
    return f"page {gva:#x}" if scope is Scope.PAGE else scope.value


@attrs.frozen
class Found:
    """The first time that each rule was broken, by rule."""

    broken: dict[str, str]


def found(backend: Backend[Any], draw: random.Random, count: int, vcpu_id: int = 0) -> Found:
    """Run cycles on a new control structure; return what was broken."""
    broken: dict[str, str] = {}
    for rule, values in Cycles(backend, draw, vcpu_id).run(count):
        broken.setdefault(rule, f"{values}, with {backend.effective}")
    return Found(broken)
