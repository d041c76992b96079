"""The compiled engine: the readable one's semantics in C, entered once for a whole batch.

`kernel/kernel.c` and `walk.c` do the work, `kernel.h` is what the two sides share.
"""

from collections.abc import Iterator
from importlib import import_module
from typing import Any, ClassVar

import attrs

from hvmmu.arch import pfec as pf
from hvmmu.arch import pte
from hvmmu.arch.paging import LEGACY32, PAE, Formats, formats, mode_of
from hvmmu.arch.regs import Regs
from hvmmu.engine import EngineCaps, Event, HwThread, TlbCounts
from hvmmu.errors import EngineUnavailableError, InvariantError
from hvmmu.memory import Memory
from hvmmu.spec.tlb import SHIFTS, TlbEntry
from hvmmu.tlb import SCOPES, Geometry, Scope, TlbGeometry
from hvmmu.types import Buffer

ffi: Any
lib: Any
try:
    _kernel = import_module("hvmmu._core._lib")
    ffi, lib = _kernel.ffi, _kernel.lib
    _WHY_NOT = ""
except ImportError as error:
    _WHY_NOT = f"it was not built when hvmmu was installed ({error.name} is not there)"

_EVENTS = (None, *Event)
_NOT_PAGING = len(_EVENTS)


class CompiledEngine:
    """The engine for whole programs."""

    name = "compiled"
    summary = "the readable one's semantics in C: for whole programs"
    caps = EngineCaps(fast_lane=True)
    why_not: ClassVar[str] = _WHY_NOT
    """Why it is not to be had here; empty if it is."""

    def __init__(self, memory: Memory, geometry: TlbGeometry | None = None) -> None:
        if self.why_not:
            todo = "install a C compiler and then hvmmu again, or use the engine reference"
            raise EngineUnavailableError(f"engine compiled: {self.why_not}; {todo}")
        self._memory = memory
        chosen = geometry or TlbGeometry()
        self.caps = attrs.evolve(self.caps, lru_sets=chosen.lru_sets, lru_ways=chosen.lru_ways)
        levels = [_geometry(each) for each in (chosen.instruction, chosen.data, chosen.second)]
        self._bytes = ffi.from_buffer("uint8_t[]", memory.bytes.obj)
        made = lib.hv_new(self._bytes, memory.size, *levels)
        if made == ffi.NULL:
            raise MemoryError("no memory for the compiled engine's TLB")
        self._engine = ffi.gc(made, lib.hv_free)
        self.stop = ffi.new("hv_stop *")
        self._counts = lib.hv_counts_of(made)
        self._refs = 0
        memory.before_close(self._release)

    def _release(self) -> None:
        ffi.release(self._engine)
        ffi.release(self._bytes)
        self._engine = None

    def load_regs(self, core: HwThread, regs: Regs) -> None:
        """Put *regs* in force; flushes nothing."""
        mode = mode_of(regs)
        known = ffi.NULL if mode is None else c_formats(formats(mode, regs, core.cpu))
        lib.hv_load_regs(self._engine, ffi.new("hv_regs *", attrs.asdict(regs)), known)
        core.regs = regs

    def write_pte(self, hpa: int, value: int) -> None:
        """Store a 64-bit entry; flushes nothing."""
        self._memory.u64[hpa >> 3] = value

    def flush(self, scope: Scope, gva: int = 0) -> None:
        """Drop cached translations."""
        lib.hv_flush(self._engine, SCOPES.index(scope), gva)

    def counts(self) -> TlbCounts:
        """Return the TLB's counters since the start."""
        made = self._counts
        data, instruction = made.first_misses
        return TlbCounts(instruction, data, made.misses)

    def run(
        self,
        core: HwThread,
        gva: Buffer,
        kind: Buffer,
        start: int,
        translated: Buffer | None = None,
    ) -> int:
        """Run accesses from *start* on; return the index of the one that stopped, or len(gva)."""
        vas, kinds = ffi.from_buffer("uint64_t[]", gva), ffi.from_buffer("uint8_t[]", kind)
        out = ffi.NULL
        if translated is not None:
            out = ffi.from_buffer("uint64_t[]", translated, require_writable=True)
        if len(kinds) != len(vas) or (translated is not None and len(out) != len(vas)):
            raise ValueError(f"{len(vas)} addresses with {len(kinds)} kinds")
        stop = self.stop
        at: int = lib.hv_run(self._engine, vas, kinds, start, len(vas), out, core.exit_filter, stop)
        self.ended(core)
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
        """The engine as C knows it."""
        return self._engine

    @property
    def memory(self) -> Any:  # noqa: ANN401 - a pointer of cffi's
        """Host-physical 0, until the memory is closed."""
        return self._bytes

    def ended(self, core: HwThread) -> None:
        """Tell *core* what has been run, and where it stopped if it did."""
        core.walk_refs += self._counts.walk_refs - self._refs
        self._refs = self._counts.walk_refs
        if self.stop.event == _NOT_PAGING:
            raise InvariantError("an access was run before paging was on")
        core.event = _EVENTS[self.stop.event]
        if core.event is not None:
            self.stopped(core)

    def stopped(self, core: HwThread) -> None:
        """Tell *core* of the last stop."""
        stop = self.stop
        core.gva, core.kind, core.pfec = stop.gva, stop.kind, stop.pfec
        core.level, core.access = stop.level, stop.access
        if core.event is Event.PHYSICAL:
            core.pa = stop.pa
        elif core.event is Event.DELIVERED:
            core.cr2 = stop.gva


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
