"""The compiled engine: one hardware thread in C, entered once for a whole batch."""

from collections.abc import Iterator
from typing import Any

import attrs

from hvmmu._core.binding import ffi, lib
from hvmmu.arch import pfec as pf
from hvmmu.arch import pte
from hvmmu.arch.paging import LEGACY32, PAE, Formats, formats, mode_of
from hvmmu.arch.regs import CpuFeatures, Regs
from hvmmu.engine import EngineCaps, Event, HwThread, TlbCounts
from hvmmu.errors import InvariantError
from hvmmu.memory import Memory
from hvmmu.spec.tlb import SHIFTS, TlbEntry
from hvmmu.tlb import SCOPES, Geometry, Scope, TlbGeometry
from hvmmu.types import Buffer

_EVENTS = (None, *Event)
_NOT_PAGING = len(_EVENTS)


class CompiledEngine:
    """The engine for whole programs."""

    name = "compiled"
    summary = "C implementation (default)"

    def __init__(
        self, memory: Memory, cpu: CpuFeatures, geometry: TlbGeometry | None = None
    ) -> None:
        self._memory = memory
        chosen = geometry or TlbGeometry()
        self.caps = EngineCaps(fast_path=True, lru_sets=chosen.lru_sets, lru_ways=chosen.lru_ways)
        self.thread = HwThread(cpu)
        levels = [_geometry(each) for each in (chosen.instruction, chosen.data, chosen.second)]
        self._bytes = ffi.from_buffer("uint8_t[]", memory.bytes.obj)
        made = lib.hv_new(self._bytes, memory.size, *levels)
        if made == ffi.NULL:
            raise MemoryError("no memory for the compiled engine's TLB")
        self._engine = ffi.gc(made, lib.hv_free)
        self.stop = ffi.new("hv_stop *")
        """Why the last run stopped, for C."""
        self._counts = lib.hv_counts_of(made)
        memory.before_close(self._release)

    def _release(self) -> None:
        ffi.release(self._engine)
        ffi.release(self._bytes)
        self._engine = None

    def load_regs(self, regs: Regs) -> None:
        """Put *regs* in force; flushes nothing."""
        mode = mode_of(regs)
        known = ffi.NULL if mode is None else c_formats(formats(mode, regs, self.thread.cpu))
        lib.hv_load_regs(self._engine, ffi.new("hv_regs *", attrs.asdict(regs)), known)
        self.thread.regs = regs

    def write_pte(self, hpa: int, value: int) -> None:
        """Store a 64-bit entry; flushes nothing."""
        self._memory.u64[hpa >> 3] = value

    def flush(self, scope: Scope, gva: int = 0) -> None:
        """Drop cached translations."""
        lib.hv_flush(self._engine, SCOPES.index(scope), gva)

    def counts(self) -> TlbCounts:
        """Return the TLB's counters since the start."""
        data, instruction = self._counts.first_misses
        return TlbCounts(instruction, data, self._counts.misses)

    def run(self, gva: Buffer, kind: Buffer, start: int, translated: Buffer | None = None) -> int:
        """Run accesses from *start* on; return the index of the one that stopped, or len(gva)."""
        vas, kinds = ffi.from_buffer("uint64_t[]", gva), ffi.from_buffer("uint8_t[]", kind)
        out = ffi.NULL
        if translated is not None:
            out = ffi.from_buffer("uint64_t[]", translated, require_writable=True)
        if len(kinds) != len(vas) or (translated is not None and len(out) != len(vas)):
            raise ValueError(f"{len(vas)} addresses with {len(kinds)} kinds")
        exits, stop = self.thread.exit_filter, self.stop
        at: int = lib.hv_run(self._engine, vas, kinds, start, len(vas), out, exits, stop)
        self._take_stop()
        return at

    def promote(self, gva: Buffer, kind: Buffer) -> None:
        """Make pages the most recent ones of their sets, where they are cached."""
        vas, kinds = ffi.from_buffer("uint64_t[]", gva), ffi.from_buffer("uint8_t[]", kind)
        for va, k in zip(vas, kinds, strict=True):
            lib.hv_touch(self._engine, va, k)

    @property
    def tlb(self) -> "TlbView":
        """The translations that the TLB holds."""
        return TlbView(self._engine)

    @property
    def handle(self) -> Any:  # noqa: ANN401 - a pointer of cffi's
        """The thread as C has it."""
        return self._engine

    @property
    def memory(self) -> Any:  # noqa: ANN401 - a pointer of cffi's
        """Host-physical 0, until the memory is closed."""
        return self._bytes

    def _take_stop(self) -> None:
        """Copy why C stopped, and what it counted, to the thread."""
        thread, stop = self.thread, self.stop
        thread.walk_refs = self._counts.walk_refs
        if stop.event == _NOT_PAGING:
            raise InvariantError("an access was run before paging was on")
        thread.event = _EVENTS[stop.event]
        if thread.event is None:
            return
        thread.gva, thread.kind, thread.pfec = stop.gva, stop.kind, stop.pfec
        thread.level, thread.access = stop.level, stop.access
        if thread.event is Event.NO_MEMORY:
            thread.pa = stop.pa
        elif thread.event is Event.PAGE_FAULT:
            thread.cr2 = stop.gva


class TlbView:
    """A TLB in C, read-only."""

    def __init__(self, engine: Any) -> None:  # noqa: ANN401 - a pointer of cffi's
        self._engine = engine

    def entries(self) -> Iterator[TlbEntry]:
        """Yield every translation, those in two levels twice."""
        count = lib.hv_translations(self._engine, ffi.NULL, 0)
        found = ffi.new("hv_translation[]", count)
        lib.hv_translations(self._engine, found, count)
        for made in found:
            leaf = made.leaf
            yield TlbEntry(
                made.tag,
                leaf & pte.ADDRESS,
                mask=(1 << SHIFTS[made.tag & 3]) - 1,
                access=leaf & pf.KIND,
                pkey=leaf >> pte.PKEY_SHIFT & 15,
                dirty=bool(leaf & pte.D),
                is_global=bool(leaf & pte.G),
            )


def _geometry(level: Geometry) -> dict[str, int]:
    return {"sets": level.sets, "ways": level.ways}


def c_formats(known: Formats) -> Any:  # noqa: ANN401 - a struct of cffi's
    """Return the table of a mode as C has it: by level, from 0, which is none."""
    mode = known.mode
    made = ffi.new("hv_formats *")
    made.depth, made.entry_size = len(mode.levels), mode.entry_size
    made.va_bits, made.sign_extended = mode.va_bits, mode.sign_extended
    made.is_pae, made.is_legacy32 = mode is PAE, mode is LEGACY32
    made.pse36 = known.pse36
    for level in mode.levels:
        n = level.level
        made.large[n] = known.large[n]
        made.reserved[n], made.reserved_large[n] = known.reserved[n], known.reserved_large[n]
    return made
