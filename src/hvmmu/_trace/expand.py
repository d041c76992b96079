"""Spans of a compact trace in C: what tokens.py does, to the byte.

`_core/expand.c` does the work, `tokens.h` is what the two sides share.
"""

from __future__ import annotations

from array import array
from typing import TYPE_CHECKING, Any

from hvmmu._core.engine import ffi, lib
from hvmmu._trace.tokens import (
    MESSAGES,
    SPAN_WINDOWS,
    WINDOW,
    Columns,
    DamagedError,
)

if TYPE_CHECKING:
    from hvmmu._trace.tokens import Sites, Window
    from hvmmu.steps import Words

assert (lib.HV_WINDOW, lib.HV_SPAN_WINDOWS) == (WINDOW, SPAN_WINDOWS)
_SLACK = lib.HV_SLACK
"""Accesses behind a window that the expansion may write over."""


def c_frame(frame: bytes, kept: Words, accesses: int, sites: tuple[Any, Any]) -> tuple[Any, Any]:
    """Return a frame as C has it, of sites that C has too, and what must live as long."""
    made = ffi.new("hv_frame *")
    alive = ffi.from_buffer("uint8_t[]", frame), ffi.from_buffer("uint16_t[]", kept)
    made.bytes, made.kept = alive
    made.site_gva, made.site_kind = sites
    made.size, made.count = len(frame), len(kept)
    made.windows, made.accesses = -(-accesses // WINDOW), accesses
    return made, alive


def c_sites(sites: Sites) -> tuple[Any, Any]:
    """Return sites as C has them."""
    return ffi.from_buffer("uint64_t[]", sites.gva), ffi.from_buffer("uint8_t[]", sites.kind)


def opened(frame: bytes, windows: int, kept: Words, sites: Sites) -> Columns:
    """Return what a span's frame holds, as `python_open` does; raise DamagedError."""
    known = c_sites(sites)
    made, alive = c_frame(frame, kept, windows * WINDOW, known)
    span, near = ffi.new("hv_span *"), _zeros("H", windows * WINDOW)
    wrong = lib.hv_open_span(made, span, ffi.from_buffer("uint16_t[]", near))
    del alive, known
    if wrong:
        raise DamagedError(MESSAGES[wrong])
    ends = windows + 1
    near_ends, token_ends = array("I", span.near_ends[0:ends]), array("I", span.token_ends[0:ends])
    return Columns(
        near[: near_ends[-1]],
        near_ends,
        token_ends,
        frame[len(frame) - token_ends[-1] :],
    )


def near_of(frame: bytes, windows: int, nth: int) -> int:
    """Return which of the near accesses the *nth* is that the span's filter keeps."""
    made, alive = c_frame(frame, array("H"), windows * WINDOW, (ffi.NULL, ffi.NULL))
    found: int = lib.hv_near_of(made, nth)
    del alive
    return found


def expanded(
    columns: Columns, sites: Sites, accesses: int, window: int, *, first: int, mark: int
) -> Window:
    """Return a window as `python_expand` does; *first* counts from the span's start."""
    size = min(accesses - window * WINDOW, WINDOW) + _SLACK
    gva, kind, where = _zeros("Q", size), _zeros("B", size), ffi.new("uint32_t *")
    made = ffi.new("hv_span *")
    alive = (
        ffi.from_buffer("uint16_t[]", columns.near),
        ffi.from_buffer("uint8_t[]", columns.tokens),
        *c_sites(sites),
    )
    made.near, made.tokens, made.site_gva, made.site_kind = alive
    made.near_ends, made.token_ends = list(columns.near_ends), list(columns.token_ends)
    made.windows, made.accesses = len(columns.near_ends) - 1, accesses
    vas, kinds = ffi.from_buffer("uint64_t[]", gva), ffi.from_buffer("uint8_t[]", kind)
    wrong = lib.hv_expand(made, window, first, mark, vas, kinds, where)
    if wrong:
        raise DamagedError(MESSAGES[wrong])
    del alive, vas, kinds
    del gva[-_SLACK:], kind[-_SLACK:]
    return gva, kind, where[0]


def _zeros(code: str, count: int) -> array[int]:
    made = array(code)
    made.frombytes(bytes(count * made.itemsize))
    return made
