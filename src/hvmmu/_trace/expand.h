/* Spans of a reduced trace, and their accesses put back; _trace/grammar.py describes the format. */
#pragma once

#include <stdint.h>

#include "grammar.h"

enum { HVT_SLACK = HVT_LONGEST }; /* elements behind a window that its expansion may write over */

/* A span as stored, with the columns of its chunk that it needs. */
typedef struct {
    const uint8_t *bytes;
    uint32_t size; /* bytes */
    uint32_t windows, accesses;
    uint32_t count;            /* accesses that the span filter keeps */
    const uint16_t *span_kept; /* their page slots */
    const uint64_t *slot_gva;  /* by page slot: address in bytes */
    const uint8_t *slot_kind;  /* by page slot: kind; 0: nothing is listed there */
} hvt_packed_span;

/* A span with the accesses that the window filter keeps, and the tokens of all others. */
typedef struct {
    const uint16_t *window_kept; /* page slots */
    uint32_t kept_ends[HVT_SPAN_WINDOWS + 1];  /* window w has kept_ends[w]..kept_ends[w + 1] */
    uint32_t token_ends[HVT_SPAN_WINDOWS + 1]; /* and tokens token_ends[w]..token_ends[w + 1] */
    const uint8_t *tokens;
    uint32_t windows, accesses;
    const uint64_t *slot_gva;
    const uint8_t *slot_kind;
} hvt_span;

/* Unpack a span; window_kept has room for HVT_SPAN. Return 0, or the number of a message in
   _trace/grammar.py. */
int32_t hvt_unpack(const hvt_packed_span *packed, hvt_span *span, uint16_t *window_kept);

/* Return which of window_kept is the nth access that the span filter keeps. */
uint32_t hvt_window_kept_of(const hvt_packed_span *packed, uint32_t nth);

/* Put a window's accesses back. gva (bytes) and kind have room for HVT_SLACK more than it has.
   *where becomes the place of access at of window_kept. mark is set in the kind of a second page.
   Return 0, or the number of a message. */
int32_t hvt_expand(const hvt_span *span, uint32_t window, uint32_t at, uint8_t mark, uint64_t *gva,
                   uint8_t *kind, uint32_t *where);

/* Return the window that has access at of window_kept, and the accesses of a window. */
uint32_t hvt_window_of(const hvt_span *span, uint32_t at);
uint32_t hvt_window_size(const hvt_span *span, uint32_t window);

/* Find the last HVT_WAYS pages of each set before access at of window_kept. Touched in the order
   returned, they bring an LRU TLB's sets into the order of the whole trace. gva and kind have room
   for HVT_SLOTS * HVT_WAYS; return how many there are. */
uint32_t hvt_lru_fixup(const hvt_span *span, uint32_t at, uint64_t *gva, uint8_t *kind);
