"""The walk in two dimensions in C, with the results of `spec/walk_2d.py`.

`kernel/nested.c` does the work. It wants host-physical memory itself, not a view of it.
"""

from typing import Any

import attrs

from hvmmu._core.engine import CompiledEngine, c_formats, ffi, lib
from hvmmu.arch.paging import Formats
from hvmmu.arch.regs import Regs
from hvmmu.arch.tdp import Cause, TdpFormats, Use
from hvmmu.errors import EngineUnavailableError, InvariantError
from hvmmu.memory import Memory
from hvmmu.spec.walk import Outcome, Step, Walk
from hvmmu.spec.walk_2d import NestedWalk, TdpFault
from hvmmu.types import Buffer

_ACCESSES = 32
"""An access has the bits of a kind: it is below this."""


class CompiledNestedWalker:
    """Walks in two dimensions over one memory, as `hvmmu.spec.walk_2d.NestedWalker` does."""

    def __init__(self, memory: Memory) -> None:
        if CompiledEngine.why_not:
            raise EngineUnavailableError(f"compiled walk: {CompiledEngine.why_not}")
        self._bytes = ffi.from_buffer("uint8_t[]", memory.bytes.obj)
        self._size = memory.size
        self._loaded: tuple[Any, ...] | None = None
        self._levels: tuple[int, ...] = ()
        self._out = ffi.new("hv_nested *")
        self._refs = ffi.new("uint64_t[2]")
        memory.before_close(self._release)

    def _release(self) -> None:
        ffi.release(self._bytes)
        self._loaded = None

    def load(self, regs: Regs, known: Formats, tdp: TdpFormats, root: int) -> None:
        """Put the guest's *regs*, their formats and the second dimension in force.

        *root* is the host-physical address of the second dimension's highest table.
        """
        guest = ffi.new("hv_regs *", attrs.asdict(regs)), c_formats(known)
        self._loaded = self._bytes, self._size, *guest, c_tdp(tdp), root
        self._levels = tuple(level.level for level in known.mode.levels)

    def _in_force(self) -> tuple[Any, ...]:
        if self._loaded is None:
            raise InvariantError("a walk in two dimensions before any registers were loaded")
        return self._loaded

    def walk(self, gva: int, kind: int) -> NestedWalk:
        """Translate *gva* for an access of *kind*; something must have been loaded."""
        lib.hv_nested_walk(*self._in_force(), gva, kind, self._out)
        return self._result(gva)

    def run(
        self, gva: Buffer, kind: Buffer, start: int = 0, translated: Buffer | None = None
    ) -> tuple[int, NestedWalk]:
        """Walk for accesses from *start* on, with no TLB; return where that stopped, and the walk.

        *gva* holds 64-bit addresses (format Q), *kind* one byte each (format B), *translated* takes
        the host-physical addresses (format Q). The index is that of the first access without a
        translation, or ``len(gva)``; the walk is the last one, of which there must be one.
        """
        vas, kinds = ffi.from_buffer("uint64_t[]", gva), ffi.from_buffer("uint8_t[]", kind)
        out = ffi.NULL
        if translated is not None:
            out = ffi.from_buffer("uint64_t[]", translated, require_writable=True)
        count = len(vas)
        if len(kinds) != count or (translated is not None and len(out) != count) or start >= count:
            raise ValueError(f"{count} addresses with {len(kinds)} kinds, from {start} on")
        arrays = vas, kinds, start, count, out
        at: int = lib.hv_nested_walks(*self._in_force(), *arrays, self._refs, self._out)
        return at, self._result(vas[min(at, count - 1)])

    @property
    def refs(self) -> tuple[int, int]:
        """Entries that :meth:`run` has read so far: the guest's, the host's."""
        return self._refs[0], self._refs[1]

    def _result(self, gva: int) -> NestedWalk:
        out = self._out
        fault = None
        if out.faulted:
            cause, use = Cause(out.cause), Use(out.use)
            fault = TdpFault(cause, use, out.gpa, gva, out.code, out.level)
        result = NestedWalk(self._guest(), fault, out.host_refs)
        if result.is_ok:
            result.hpa, result.access, result.level = out.hpa, out.access, out.level
            result.readable, result.dirty = bool(out.readable), bool(out.dirty)
        return result

    def _guest(self) -> Walk:
        """Return the guest's dimension."""
        made = self._out.guest
        steps = [made.path[i] for i in range(made.refs)]
        path = [
            Step(level, step.pa, step.entry, step.access)
            for level, step in zip(self._levels, steps, strict=False)
        ]
        if made.ok:
            flags = bool(made.dirty), bool(getattr(made, "global"))
            return Walk(Outcome.OK, 0, path, made.pa, made.access, *flags, made.pkey)
        if made.general_protection:
            return Walk(Outcome.GENERAL_PROTECTION, 0, path)
        return Walk(Outcome.PAGE_FAULT, made.pfec, path)


def c_tdp(tdp: TdpFormats) -> Any:  # noqa: ANN401 - a struct of cffi's
    """Return the second dimension's formats as C has them."""
    made = ffi.new("hv_tdp *")
    made.depth, made.gpa_bits = len(tdp.mode.levels), tdp.mode.va_bits
    for level in tdp.mode.levels:
        n = level.level
        made.large[n] = tdp.large[n]
        made.reserved[n], made.reserved_large[n] = tdp.reserved[n], tdp.reserved_large[n]
    for name in ("present", "inverted", "without_read", "accessed", "dirty", "memory_types"):
        setattr(made, name, getattr(tdp, name))
    made.reserved_tells = tdp.reserved_tells
    made.needs = [(need.bits, need.code, need.dirties) for need in tdp.needs]
    made.codes = tdp.codes
    for i, (bit, told) in enumerate(tdp.shown):
        made.shown[i], made.told[i] = bit, told
    for access in range(_ACCESSES):
        turned = 0
        for bit, code in tdp.guest_shown:
            turned ^= code if access & bit else 0
        made.turned[access] = turned
    return made
