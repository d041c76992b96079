/* The exact reduction: which accesses can change a TLB. docs/workloads.md has the argument.
 *
 The window filter looks at HVT_WINDOW accesses at a time. It drops an access if its set's latest
 * page in the window is its own page, and a kind that allows as much has accessed it since it came.
 *
 The span filter looks at the accesses that remain, of up to HVT_SPAN_WINDOWS windows. It keeps
 * those to a page that is none of the HVT_WAYS latest of its set, those that need a permission that
 * was not granted yet, and as many more as it takes to have every set in order whenever one of
 * these comes.
 */

#include <stdint.h>
#include <string.h>

#include "grammar.h"
#include "reduce.h"

/* The slot table. */

static uint32_t hash(uint64_t key)
{
    return (uint32_t)((key * UINT64_C(0x9E3779B97F4A7C15)) >> 47) & (HVT_HASHES - 1);
}

void hvt_next_chunk(hvt_reducer *r)
{
    r->chunk++;
    r->used_here = r->listed = 0;
    r->fetches = r->writes = r->seconds = 0;
}

/* Remove a slot from the index; move up entries behind it that probing would no longer reach. */
static void unindex(hvt_reducer *r, uint32_t slot)
{
    const uint32_t mask = HVT_HASHES - 1;
    uint32_t hole = hash(r->keys[slot]);
    while (r->index[hole] != slot + 1)
        hole = (hole + 1) & mask;
    for (uint32_t at = (hole + 1) & mask; r->index[at]; at = (at + 1) & mask) {
        uint32_t home = hash(r->keys[r->index[at] - 1]);
        if (((at - home) & mask) >= ((at - hole) & mask)) {
            r->index[hole] = r->index[at];
            hole = at;
        }
    }
    r->index[hole] = 0;
}

/* Return a slot for a new pair: a fresh one, else the next one that this chunk does not use. */
static uint32_t take_slot(hvt_reducer *r)
{
    if (r->filled < HVT_PAGE_SLOTS)
        return r->filled++;
    while (r->used[r->hand] == r->chunk)
        r->hand = (r->hand + 1) % HVT_PAGE_SLOTS;
    uint32_t slot = r->hand;
    r->hand = (r->hand + 1) % HVT_PAGE_SLOTS;
    unindex(r, slot);
    return slot;
}

static uint32_t list_pair(hvt_reducer *r, uint64_t key, uint64_t gva, uint8_t kind)
{
    uint32_t slot = take_slot(r), at = hash(key);
    while (r->index[at]) /* from the start: take_slot may have moved entries */
        at = (at + 1) & (HVT_HASHES - 1);
    r->index[at] = slot + 1;
    r->keys[slot] = key;
    r->used[slot] = r->chunk - 1;
    r->slots[r->listed] = (uint16_t)slot;
    r->gva[r->listed] = gva;
    r->kind[r->listed++] = kind;
    return slot;
}

static uint16_t slot_of(hvt_reducer *r, uint64_t gva, uint8_t kind)
{
    uint64_t key = (gva >> HVT_PAGE_SHIFT) << 8 | kind;
    uint32_t at = hash(key), slot;
    while (r->index[at] && r->keys[r->index[at] - 1] != key)
        at = (at + 1) & (HVT_HASHES - 1);
    slot = r->index[at] ? r->index[at] - 1 : list_pair(r, key, gva, kind);
    r->used_here += r->used[slot] != r->chunk;
    r->used[slot] = r->chunk;
    return (uint16_t)slot;
}

/* The window filter. */

int hvt_add_window(hvt_reducer *r, const uint64_t *gva, const uint8_t *kind, uint32_t count)
{
    uint64_t recent[HVT_SLOTS];     /* by set, instructions behind data: its latest page */
    uint8_t written[HVT_SETS] = {0}; /* that page of a data set has been written */
    uint32_t run = 0;               /* dropped fetches that no token stands for yet */
    uint32_t current = HVT_SETS;    /* the set fetched from last; at first none */
    uint32_t keeps = r->window_keeps, used = r->tokens_used;
    uint8_t *out = r->tokens + used;
    if (r->windows == HVT_SPAN_WINDOWS || !count || count > HVT_WINDOW ||
        HVT_PAGE_SLOTS - r->used_here < count)
        return 0;
    memset(recent, 0xFF, sizeof recent);
    for (uint32_t i = 0; i < count; i++) {
        uint64_t page = gva[i] >> HVT_PAGE_SHIFT;
        uint32_t set = page & (HVT_SETS - 1);
        uint8_t k = kind[i];
        if (k & HVT_STRADDLES) {
            if (run)
                *out++ = (uint8_t)(HVT_RUN + run), run = 0;
            *out++ = HVT_SECOND_NEXT;
            r->seconds++;
            k &= (uint8_t)~HVT_STRADDLES;
        }
        if (k & HVT_FETCHES) {
            r->fetches++;
            if (recent[HVT_SETS + set] == page) {
                if (set != current) {
                    if (run)
                        *out++ = (uint8_t)(HVT_RUN + run), run = 0;
                    *out++ = (uint8_t)(HVT_FETCH_TOKEN + set);
                    current = set;
                } else if (++run == HVT_LONGEST) {
                    *out++ = HVT_RUN + HVT_LONGEST, run = 0;
                }
                continue;
            }
            recent[HVT_SETS + set] = page;
            current = set;
        } else {
            uint8_t write = k & HVT_WRITES;
            r->writes += write != 0;
            if (recent[set] == page && (!write || written[set])) {
                *out++ = (uint8_t)(run * HVT_SLOTS + (write ? HVT_DATA_WRITE : 0) + set), run = 0;
                continue;
            }
            written[set] = write || (recent[set] == page && written[set]);
            recent[set] = page;
        }
        r->window_kept[r->window_keeps++] = slot_of(r, gva[i], k);
        *out++ = (uint8_t)(HVT_KEPT + run), run = 0;
    }
    if (run)
        *out++ = (uint8_t)(HVT_RUN + run);
    r->tokens_used = (uint32_t)(out - r->tokens);
    r->counts[2 * r->windows] = (uint16_t)(r->window_keeps - keeps);
    r->counts[2 * r->windows++ + 1] = (uint16_t)(r->tokens_used - used);
    return 1;
}

/* The span filter. */

/* One of the latest pages of a set. Places are counted among what the window filter keeps. */
typedef struct {
    uint64_t number;
    uint32_t last;      /* place of its last access */
    uint32_t last_kept; /* place of its last access that the span filter keeps */
    int written;
} recent_page;

typedef struct {
    recent_page pages[HVT_WAYS]; /* the latest first */
    uint32_t count;
} recent_set;

/* Keep the last accesses of a set's pages, but for the earliest ones that are in order already. */
static void keep_order(recent_set *s, uint8_t *keeps)
{
    uint32_t first = s->count ? s->count - 1 : 0;
    while (first && s->pages[first - 1].last_kept > s->pages[first].last_kept)
        first--;
    for (uint32_t n = 0; n < first; n++) {
        keeps[s->pages[n].last] = 1;
        s->pages[n].last_kept = s->pages[n].last;
    }
}

static void filter(recent_set *sets, uint64_t key, uint32_t at, uint8_t *keeps)
{
    uint64_t number = key >> 8;
    recent_set *s = sets + (key & HVT_FETCHES ? HVT_SETS : 0) + (number & (HVT_SETS - 1));
    uint32_t way = 0;
    int write = !!(key & HVT_WRITES);
    while (way < s->count && s->pages[way].number != number)
        way++;
    recent_page page = {number, at, at, write};
    keeps[at] = way == s->count || write > s->pages[way].written;
    if (way == s->count) {
        keep_order(s, keeps);
    } else if (!keeps[at]) {
        page.last_kept = s->pages[way].last_kept;
        page.written = s->pages[way].written;
    }
    if (way == s->count && s->count < HVT_WAYS)
        s->count++;
    else if (way == s->count)
        way--;
    memmove(s->pages + 1, s->pages, way * sizeof *s->pages);
    s->pages[0] = page;
}

uint32_t hvt_end_span(hvt_reducer *r, uint16_t *span_kept, uint8_t *stored, uint32_t *size)
{
    recent_set sets[HVT_SLOTS] = {0};
    uint32_t keeps = 0, others = 0;
    for (uint32_t n = 0; n < r->window_keeps; n++)
        filter(sets, r->keys[r->window_kept[n]], n, r->span_keeps);
    for (recent_set *s = sets; s < sets + HVT_SLOTS; s++)
        keep_order(s, r->span_keeps);
    uint8_t *out = stored, *mask = stored + 4 * r->windows;
    for (uint32_t n = 0; n < 2 * r->windows; n++) {
        *out++ = (uint8_t)r->counts[n];
        *out++ = (uint8_t)(r->counts[n] >> 8);
    }
    out += (r->window_keeps + 7) / 8;
    memset(mask, 0, (size_t)(out - mask));
    for (uint32_t n = 0; n < r->window_keeps; n++) {
        if (r->span_keeps[n]) {
            span_kept[keeps++] = r->window_kept[n];
            mask[n / 8] |= (uint8_t)(1 << n % 8);
        } else {
            out[2 * others] = (uint8_t)r->window_kept[n];
            out[2 * others++ + 1] = (uint8_t)(r->window_kept[n] >> 8);
        }
    }
    out += 2 * others;
    memcpy(out, r->tokens, r->tokens_used);
    *size = (uint32_t)(out - stored) + r->tokens_used;
    r->windows = r->window_keeps = r->tokens_used = 0;
    return keeps;
}
