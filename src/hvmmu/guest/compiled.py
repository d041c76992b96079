"""Spans of a compact trace in C: what tokens.py does, to the byte.

`hw/kernel/tokens.c` does the work, `tokens.h` is what the two sides share.
"""

from __future__ import annotations

from array import array
from typing import TYPE_CHECKING, Any

from hvmmu.guest.tokens import (
    MESSAGES,
    SPAN_WINDOWS,
    WINDOW,
    Columns,
    DamagedError,
)
from hvmmu.hw.compiled import ffi, lib

if TYPE_CHECKING:
    from hvmmu.guest.spans import Frame, Span
    from hvmmu.guest.tokens import Sites, Window

assert (lib.HV_WINDOW, lib.HV_SPAN_WINDOWS) == (WINDOW, SPAN_WINDOWS)
_SLACK = lib.HV_SLACK
"""Accesses behind a window that the expansion may write over."""


def c_frame(frame: Frame, sites: tuple[Any, Any]) -> tuple[Any, Any]:
    """Return a frame as C has it, of sites that C has too, and what must live as long."""
    made = ffi.new("hv_frame *")
    alive = ffi.from_buffer("uint8_t[]", frame.content), ffi.from_buffer("uint16_t[]", frame.kept)
    made.bytes, made.kept = alive
    made.site_gva, made.site_kind = sites
    made.size, made.count = len(frame.content), len(frame.kept)
    made.windows, made.accesses = frame.windows, frame.accesses
    return made, alive


def c_sites(sites: Sites) -> tuple[Any, Any]:
    """Return sites as C has them."""
    return ffi.from_buffer("uint64_t[]", sites.gva), ffi.from_buffer("uint8_t[]", sites.kind)


def opened(frame: Frame) -> Columns:
    """Return what a span's frame holds, as `python_open` does; raise DamagedError."""
    sites = c_sites(frame.sites)
    made, alive = c_frame(frame, sites)
    span, near = ffi.new("hv_span *"), _zeros("H", frame.windows * WINDOW)
    wrong = lib.hv_open_span(made, span, ffi.from_buffer("uint16_t[]", near))
    del alive, sites
    if wrong:
        raise DamagedError(MESSAGES[wrong])
    ends = frame.windows + 1
    near_ends, token_ends = array("I", span.near_ends[0:ends]), array("I", span.token_ends[0:ends])
    return Columns(
        near[: near_ends[-1]],
        near_ends,
        token_ends,
        frame.content[len(frame.content) - token_ends[-1] :],
    )


def near_of(frame: Frame, nth: int) -> int:
    """Return which of the near accesses the *nth* is that the span's filter keeps."""
    sites = c_sites(frame.sites)
    made, alive = c_frame(frame, sites)
    found: int = lib.hv_near_of(made, nth)
    del alive, sites
    return found


def expanded(span: Span, window: int, first: int, mark: int) -> Window:
    """Return a window as `python_expand` does; *first* counts from the span's start."""
    size = min(span.accesses - window * WINDOW, WINDOW) + _SLACK
    gva, kind, where = _zeros("Q", size), _zeros("B", size), ffi.new("uint32_t *")
    columns, made = span.columns, ffi.new("hv_span *")
    alive = (
        ffi.from_buffer("uint16_t[]", columns.near),
        ffi.from_buffer("uint8_t[]", columns.tokens),
        *c_sites(span.sites),
    )
    made.near, made.tokens, made.site_gva, made.site_kind = alive
    made.near_ends, made.token_ends = list(columns.near_ends), list(columns.token_ends)
    made.windows, made.accesses = span.windows, span.accesses
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
