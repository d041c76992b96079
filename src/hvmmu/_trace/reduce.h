/* The exact reduction of a trace, in two filters; reduce.c has the rules, grammar.py the format. */
#pragma once

#include <stdint.h>

#include "grammar.h"

enum { HVT_HASHES = 2 * HVT_PAGE_SLOTS }; /* of the index of page slots; never full */

/* A chunk in the making, and the span in it. */
typedef struct {
    /* The slot table: pairs of page and kind, one in each slot. */
    uint64_t keys[HVT_PAGE_SLOTS]; /* page number << 8 | kind */
    uint32_t used[HVT_PAGE_SLOTS]; /* number of the chunk that used the slot last */
    uint32_t index[HVT_HASHES];    /* slot + 1, by the key's hash and linear probing; 0: free */
    uint32_t filled;               /* slots that hold a pair */
    uint32_t hand;                 /* with no slot free, the first one to try for a new pair */
    uint32_t chunk;                /* number of this chunk, from 1 */
    uint32_t used_here;            /* slots that this chunk uses */
    /* Pairs that are new in this chunk. */
    uint16_t slots[HVT_PAGE_SLOTS];
    uint64_t gva[HVT_PAGE_SLOTS]; /* address in bytes of the first such access */
    uint8_t kind[HVT_PAGE_SLOTS];
    uint32_t listed;
    uint32_t fetches, writes, seconds; /* accesses of the chunk, dropped ones included */
    /* The span. */
    uint16_t counts[2 * HVT_SPAN_WINDOWS]; /* by window: kept accesses, tokens */
    uint16_t window_kept[HVT_SPAN]; /* page slots of the accesses that the window filter keeps */
    uint8_t span_keeps[HVT_SPAN];   /* 1: the span filter keeps that access too */
    uint8_t tokens[2 * HVT_SPAN];
    uint32_t windows, window_keeps, tokens_used;
} hvt_reducer;

/* Begin another chunk. */
void hvt_next_chunk(hvt_reducer *reducer);

/* Add a window of accesses to the span. gva is in bytes; a kind has HVT_STRADDLES set if the access
   is a reference's second page. Return 0 if there is no room for it. */
int hvt_add_window(hvt_reducer *reducer, const uint64_t *gva, const uint8_t *kind, uint32_t count);

/* End the span. span_kept receives the page slots of the accesses that the span filter keeps (room
   for HVT_SPAN), stored the span as a file has it (room for MOST_STORED of grammar.py), *size its
   bytes. Return how many are kept. */
uint32_t hvt_end_span(hvt_reducer *reducer, uint16_t *span_kept, uint8_t *stored, uint32_t *size);
