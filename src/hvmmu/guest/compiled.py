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
    Sites,
)
from hvmmu.hw.compiled import ffi, lib

if TYPE_CHECKING:
    from hvmmu.guest.spans import Span
    from hvmmu.guest.steps import Words
    from hvmmu.guest.tokens import Window

assert (lib.HV_WINDOW, lib.HV_SPAN_WINDOWS) == (WINDOW, SPAN_WINDOWS)
_SLACK = lib.HV_SLACK
"""Accesses behind a window that the expansion may write over."""


def opened(frame: bytes, windows: int, kept: Words, sites: Sites) -> Columns:
    """Return what a span's frame holds, as `python_open` does; raise DamagedError."""
    near_ends, token_ends = _zeros("I", windows + 1), _zeros("I", windows + 1)
    near, tokens = _zeros("H", windows * WINDOW), ffi.new("uint32_t *")
    ends = ffi.from_buffer("uint32_t[]", near_ends), ffi.from_buffer("uint32_t[]", token_ends)
    wrong = lib.hv_open_span(
        ffi.from_buffer("uint8_t[]", frame),
        len(frame),
        windows,
        ffi.from_buffer("uint16_t[]", kept),
        len(kept),
        ffi.from_buffer("uint8_t[]", sites.kind),
        *ends,
        ffi.from_buffer("uint16_t[]", near),
        tokens,
    )
    if wrong:
        raise DamagedError(MESSAGES[wrong])
    return Columns(near[: near_ends[-1]], near_ends, token_ends, frame[tokens[0] :])


def near_of(frame: bytes, windows: int, nth: int) -> int:
    """Return which of the near accesses the *nth* is that the span's filter keeps."""
    found: int = lib.hv_near_of(ffi.from_buffer("uint8_t[]", frame), windows, nth)
    return found


def c_span(span: Span) -> tuple[Any, Any]:
    """Return a span as C has it, and what must live as long."""
    made, columns = ffi.new("hv_span *"), span.columns
    alive = (
        ffi.from_buffer("uint16_t[]", columns.near),
        ffi.from_buffer("uint32_t[]", columns.near_ends),
        ffi.from_buffer("uint32_t[]", columns.token_ends),
        ffi.from_buffer("uint8_t[]", columns.tokens),
        ffi.from_buffer("uint64_t[]", span.sites.gva),
        ffi.from_buffer("uint8_t[]", span.sites.kind),
    )
    made.near, made.near_ends, made.token_ends, made.tokens, made.site_gva, made.site_kind = alive
    made.windows, made.accesses = span.windows, span.accesses
    return made, alive


def expanded(span: Span, window: int, first: int, mark: int) -> Window:
    """Return a window as `python_expand` does; *first* counts from the span's start."""
    size = min(span.accesses - window * WINDOW, WINDOW) + _SLACK
    gva, kind, where = _zeros("Q", size), _zeros("B", size), ffi.new("uint32_t *")
    made, alive = c_span(span)
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
