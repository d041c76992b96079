"""The fast lane: accesses and the whole faults they cause in C, Python where a plugin listens.

`_core/vcpu.c` handles a stop whole or asks here, and then the readable code handles it. What C
has done to the guest's books is noted there, and taken over here before anybody can look.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, NoReturn, cast

import attrs

from hvmmu._attempts import MOST_TRIES, Operand
from hvmmu._core.engine import ffi, lib
from hvmmu._guest.faults import MOST_REPEATS
from hvmmu._guest.layout import KERNEL_BASE, USER_END
from hvmmu._guest.pager import CAUSES
from hvmmu._hearing import Hearing, row_of
from hvmmu._trace.expand import c_frame
from hvmmu._trace.span import Compact
from hvmmu._trace.tokens import MESSAGES
from hvmmu.errors import InvariantError
from hvmmu.fault import PageFault
from hvmmu.flush import Flush
from hvmmu.ledger import Row
from hvmmu.steps import SITES, Backing
from hvmmu.tlb import SCOPES, Scope
from hvmmu.types import PAGE_SHIFT, Gpa, Gva
from hvmmu.vcpu import Resume

if TYPE_CHECKING:
    from hvmmu._core.engine import CompiledEngine
    from hvmmu._core.shadow_mmu import ShadowMmu
    from hvmmu._crossing import Crossing
    from hvmmu._guest.frames import Zone
    from hvmmu._guest.os import GuestOs
    from hvmmu._hooks import RunHooks
    from hvmmu.arch.regs import Regs
    from hvmmu.steps import Reduced, Words
    from hvmmu.types import Buffer
    from hvmmu.vcpu import Vcpu

_FREE = 256
"""How many of a zone's frames that were given back C is told of at a time."""


class Lane:
    """The lane of one machine, over its vCPU and its guest."""

    def __init__(
        self,
        vcpu: Vcpu,
        guest: GuestOs,
        shadow: ShadowMmu | None,
        crossing: Crossing | None,
        hooks: RunHooks,
    ) -> None:
        self._vcpu, self._guest = vcpu, guest
        self._engine = cast("CompiledEngine", vcpu.engine)
        self._error: BaseException | None = None
        self._regions: tuple[object, int] | None = None
        self._caches: list[Any] = []
        self._regs: Regs | None = None
        self._guest_regs: Regs | None = None
        self._shadow, self._crossing = shadow, crossing
        self._self = ffi.new_handle(self)
        lane = self._lane = ffi.new("hv_lane *")
        lane.self, lane.engine, lane.stop = self._self, self._engine.handle, self._engine.stop
        lane.memory = self._engine.memory
        lane.ram = lane.memory + vcpu.slots.slots[0].hpa
        lane.exit_filter = vcpu.core.exit_filter
        lane.kernel_base, lane.user_end = KERNEL_BASE, USER_END
        lane.zero_frame = guest.pager.zero_frame
        lane.most_tries, lane.most_repeats = MOST_TRIES, MOST_REPEATS
        lane.nx, lane.set_accessed_dirty = guest.entries.nx, guest.entries.set_accessed_dirty
        lane.hypervised = vcpu.switch.hypervised
        self.hearing = Hearing(vcpu, hooks, lane, self._take, self._give_again)
        lane.hears = self.hearing.hears
        self._give_shadow()
        self._shared = ffi.from_buffer("uint32_t[]", guest.frames.shared.obj)
        lane.shared, lane.first_data = self._shared, guest.frames.data.first
        tables = guest.frames.tables.end >> PAGE_SHIFT
        self._used, self._noted = ffi.new("hv_used[]", tables), ffi.new("uint32_t[]", tables)
        lane.used, lane.noted_tables = self._used, self._noted

    def run(self, gva: Buffer, kind: Buffer) -> None:
        """Run accesses as `Vcpu.run` does."""
        self._vcpu.ledger.accesses += len(memoryview(gva))
        self.run_on(gva, kind, 0)

    def run_on(self, gva: Buffer, kind: Buffer, start: int) -> None:
        """Run accesses as `Attempts.run_on` does."""
        vas, kinds = _buffers(gva, kind)
        self._give()
        at = lib.hv_lane_run(self._lane, vas, kinds, start, len(vas))
        self._take()
        if at < len(vas):
            self._fail()

    def run_to_stop(self, kept: Words, site_gva: Words, site_kind: Buffer, start: int) -> int:
        """Run accesses as `Attempts.run_to_stop` does."""
        listed = _listed(kept, site_gva, site_kind)
        self._give()
        at: int = lib.hv_lane_to_stop(self._lane, *listed, start, len(listed[0]))
        self._take()
        return at

    def handle_stop(self, gva: Buffer, kind: Buffer) -> bool:
        """Have a stop handled as `Attempts.handle_stop` does."""
        self._engine.promote(gva, kind)
        self._give()
        became = lib.hv_lane_handle(self._lane)
        self._take()
        if became == lib.HV_FAILED:
            self._fail()
        return bool(became == lib.HV_DONE)

    def run_spans(self, step: Reduced) -> bool:
        """Run a step of a compact trace with its stops; Python unpacks the spans that have some."""
        if not isinstance(step, Compact):
            return False
        listed = _listed(step.kept, step.site_gva, step.site_kind)
        self._give()
        try:
            went = self._run_spans(step, listed)
        finally:
            self._take()
        if not went:
            self._fail()
        return True

    def _run_spans(self, step: Compact, listed: tuple[Any, Any, Any]) -> bool:
        """Run to the end and return True, or to what has failed in Python."""
        at, count, wrong = 0, len(step.kept), ffi.new("int32_t *")
        while (at := lib.hv_lane_to_stop(self._lane, *listed, at, count)) < count:
            rest = step.rest(at)
            content, kept, _, accesses, damaged = rest.frame
            frame, alive = c_frame(content, kept, accesses, listed[1:])
            became = lib.hv_lane_rest(self._lane, frame, rest.nth, wrong)
            del alive
            if wrong[0]:
                raise damaged(MESSAGES[wrong[0]])
            if became == lib.HV_FAILED:
                return False
            at = rest.following
        return True

    def _fail(self) -> NoReturn:
        error, self._error = self._error, None
        for cache in self._caches:
            if cache is not None:
                cache.is_ahead = True
        self._regions = None
        try:
            raise error or InvariantError("the fast lane stopped without a reason")
        finally:
            # Else error and frame hold each other, and with them the callers' memoryviews: before
            # 3.12.4, CPython crashes when it collects a cycle with one of those in it (gh-77894).
            del error

    def answer(self, what: int, value: int, *, has_value: bool) -> int:
        """Do what C asks for; an exception is kept until C has returned."""
        self._take()
        try:
            became: int = self._do(what, value, has_value=has_value)
        except BaseException as error:  # noqa: BLE001 - raised again when C is out of the way
            return self.failed(error)
        self._give_again()
        return became

    def failed(self, error: BaseException) -> int:
        """Keep an exception until C has returned."""
        self._error = error
        return int(lib.HV_FAILED)

    def _do(self, what: int, value: int, *, has_value: bool) -> int:
        vcpu = self._vcpu
        if what == lib.HV_ASK_STOP:
            completed = vcpu.stopped(Operand(value, 8) if has_value else None)
            return int(lib.HV_RETRY if completed is None else lib.HV_DONE)
        if what == lib.HV_ASK_PAGE_FAULT:
            resume = vcpu.page_fault(value)
            return int(lib.HV_RETRY if resume is Resume.RETRY else lib.HV_DONE)
        if what == lib.HV_ASK_NEW_ROOT:
            self._make_root()
            return int(lib.HV_DONE)
        if what == lib.HV_ASK_MMU:
            completed = self.hearing.to_mmu(value if has_value else None)
            return int(lib.HV_RETRY if completed is None else lib.HV_DONE)
        if what == lib.HV_ASK_INVLPG:
            vcpu.invlpg(value)
        if what == lib.HV_ASK_NOTHING_THERE:
            raise InvariantError(f"the guest copies a page from {value:#x}, where nothing is")
        if what == lib.HV_ASK_HANG:
            vcpu.attempts.refuse_to_hang(value)
        return int(lib.HV_RETRY)

    def _make_root(self) -> None:
        """Enter with a new shadow root in place of one that was zapped.

        The exit is told to the control structure after all, where the root goes.
        """
        vcpu = self._vcpu
        vcpu.switch.record(PageFault(vcpu.core.gva, vcpu.core.pfec))
        hardware, made = vcpu.mmu.reload()
        vcpu.switch.load(hardware, made.merge(Flush(Scope.ALL)))
        vcpu.switch.enter()

    # What C is given before it runs on.

    def _give_shadow(self) -> None:
        if self._shadow is None or self._crossing is None:
            return
        self._lane.mmu = self._shadow.pointer
        self._lane.flushes = [SCOPES.index(scope) for scope in self._crossing.flushes]

    def _give_again(self) -> None:
        """Give it in the middle of a stop, of which more is to be taken over."""
        self._give()
        self._lane.stopped = True

    def _give(self) -> None:
        lane, guest, process = self._lane, self._guest, self._guest.current
        lane.root, lane.cr2 = process.root, self._vcpu.core.cr2
        lane.acted_out = self.hearing.acted_out
        (lane.last_gva, lane.last_pfec), lane.repeats = guest.handler.last, guest.handler.repeats
        if self._vcpu.core.regs is not self._regs or self._vcpu.regs is not self._guest_regs:
            self._give_regs()
        _give_zone(lane.tables, guest.frames.tables)
        _give_zone(lane.data, guest.frames.data)
        now = process.regions, process.regions.changes
        if now != self._regions:
            self._give_regions()
            self._regions = now

    def _give_regs(self) -> None:
        vcpu, lane = self._vcpu, self._lane
        self._regs, self._guest_regs = vcpu.core.regs, vcpu.regs
        lane.regs = attrs.asdict(self._regs)

    def _give_regions(self) -> None:
        regions = list(self._guest.current.regions)
        self._c_regions = ffi.new("hv_region[]", len(regions))
        self._caches = [region.cache for region in regions]
        for made, region in zip(self._c_regions, regions, strict=True):
            made.start, made.end, made.prot = region.start, region.end, region.prot
            made.inferred = region.backing is Backing.INFERRED
            made.file = region.backing is Backing.FILE
            made.own_file = region.cache is not None and not region.cache.is_ahead
        self._lane.regions, self._lane.region_count = self._c_regions, len(regions)

    # What C has done.

    def _take(self) -> None:
        lane, ledger = self._lane, self._vcpu.ledger
        ledger.accesses += lane.accesses
        lane.accesses = 0
        self._engine.ended(self._vcpu.core)
        if not lane.stopped:
            return
        lane.stopped = 0
        self._engine.stopped(self._vcpu.core)
        self._vcpu.core.cr2 = lane.cr2
        ledger.invlpg += lane.invlpg
        ledger.tlb_flushes += lane.tlb_flushes
        ledger.guest_walk_refs += lane.guest_walk_refs
        lane.invlpg = lane.tlb_flushes = lane.guest_walk_refs = 0
        self._take_exits()
        for row in lane.rows[0 : lane.row_count]:
            ledger.faults[_row(row.key)] += row.count
        lane.row_count = 0
        self._take_faults()
        self._take_frames()
        self._take_tables()

    def _take_exits(self) -> None:
        if self._crossing is None:
            return
        exits, counted = self._vcpu.ledger.exits, self._lane.exits
        for at, reason in enumerate((self._crossing.page_fault, self._crossing.invlpg)):
            if counted[at]:
                exits[reason] += counted[at]
                counted[at] = 0

    def _take_faults(self) -> None:
        lane, handler, counters = self._lane, self._guest.handler, self._guest.pager.counters
        handler.log.add_all(ffi.buffer(lane.log, lane.log_bytes))
        lane.log_bytes = 0
        handler.last, handler.repeats = (lane.last_gva, lane.last_pfec), lane.repeats
        for at, cause in enumerate(CAUSES):
            counters[cause] += lane.causes[at]
            lane.causes[at] = 0

    def _take_frames(self) -> None:
        lane, frames = self._lane, self._guest.frames
        _take_zone(lane.tables, frames.tables)
        _take_zone(lane.data, frames.data)
        for cached in lane.cached[0 : lane.cached_count]:
            self._caches[cached.region].frames[Gva(cached.gva)] = Gpa(cached.frame)
        lane.cached_count = 0

    def _take_tables(self) -> None:
        lane, used = self._lane, self._guest.tables.used
        for nth in lane.noted_tables[0 : lane.noted_count]:
            table, count = Gpa(nth << PAGE_SHIFT), lane.used[nth]
            used[table] = used.get(table, 0) + count.gained
            count.gained = count.noted = 0
        lane.noted_count = 0


def _buffers(gva: Buffer, kind: Buffer) -> tuple[Any, Any]:
    vas, kinds = ffi.from_buffer("uint64_t[]", gva), ffi.from_buffer("uint8_t[]", kind)
    if len(kinds) != len(vas):
        raise ValueError(f"{len(vas)} addresses with {len(kinds)} kinds")
    return vas, kinds


def _listed(kept: Words, site_gva: Words, site_kind: Buffer) -> tuple[Any, Any, Any]:
    vas, kinds = _buffers(site_gva, site_kind)
    if len(vas) != SITES:
        raise ValueError(f"{len(vas)} sites, where an index may be of {SITES}")
    return ffi.from_buffer("uint16_t[]", kept), vas, kinds


def _row(key: int) -> Row:
    route, cause, pfec, level = row_of(key)
    return Row(route.value, cause.value, pfec, level)


def _give_zone(made: Any, zone: Zone) -> None:  # noqa: ANN401 - a struct of cffi's
    made.next, made.end = zone.next, zone.end
    free = zone.free[-_FREE:]
    made.free_count, made.more_free = len(free), len(zone.free) > len(free)
    if free:
        made.free[0 : len(free)] = free


def _take_zone(made: Any, zone: Zone) -> None:  # noqa: ANN401 - a struct of cffi's
    """Take over which frames went out."""
    given = min(len(zone.free), _FREE)
    del zone.free[len(zone.free) - given + made.free_count :]
    zone.next = made.next


@ffi.def_extern()  # type: ignore[untyped-decorator]
def hv_exited(handle: Any, gva: int, pfec: int) -> int:  # noqa: ANN401
    """Tell plugins of an exit."""
    lane: Lane = ffi.from_handle(handle)
    try:
        return lane.hearing.exited(gva, pfec)
    except BaseException as error:  # noqa: BLE001 - raised again when C is out of the way
        return lane.failed(error)


@ffi.def_extern()  # type: ignore[untyped-decorator]
def hv_invlpg_exited(handle: Any, gva: int) -> int:  # noqa: ANN401
    """Tell plugins of an INVLPG."""
    lane: Lane = ffi.from_handle(handle)
    try:
        return lane.hearing.invlpg_exited(gva)
    except BaseException as error:  # noqa: BLE001 - raised again when C is out of the way
        return lane.failed(error)


@ffi.def_extern()  # type: ignore[untyped-decorator]
def hv_faulted(  # noqa: PLR0917 - as C has it
    handle: Any,  # noqa: ANN401
    gva: int,
    pfec: int,
    row: int,
    walk_refs: int,
    gpa: int,
) -> int:
    """Tell plugins what became of a fault."""
    lane: Lane = ffi.from_handle(handle)
    try:
        return lane.hearing.faulted(gva, pfec, row, gpa, walk_refs)
    except BaseException as error:  # noqa: BLE001 - raised again when C is out of the way
        return lane.failed(error)


@ffi.def_extern()  # type: ignore[untyped-decorator]
def hv_ask(handle: Any, what: int, value: int, has_value: int) -> int:  # noqa: ANN401
    """Answer C."""
    lane: Lane = ffi.from_handle(handle)
    return lane.answer(what, value, has_value=bool(has_value))
