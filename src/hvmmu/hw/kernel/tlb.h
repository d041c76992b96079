/* The TLB of hw/tlb.py: a first level for instructions, one for data, and a second behind both.
 *
 * Ways stay where they are. When each was last used is told by a stamp in the first level, where
 * nearly every access is a use; in the second, where most uses fill the oldest way, by a word a set
 * that lists the ways in order. Instructions and data interleave in no pattern that a branch
 * predictor could learn, and neither does the way that hits: looking up and choosing the least
 * recent way have no branch in them.
 */

#include <stdint.h>
#include <stdlib.h>
#include <string.h>

#if defined(__SSE2__) && !defined(HV_SCALAR)
#include <emmintrin.h>
#endif

#define NO_TAG (~0ull)
#define NO_MARK (~0u) /* no tag ends like that, as there are only three page sizes */
#define GROUP 4u      /* ways are looked at four at a time; those that fill up the last are no ways */
#define WAY_BITS 16
#define MOST_WAYS (1u << WAY_BITS)
#define MOST_ORDERED 16u /* ways that one word can list */
#define LINE 64u         /* bytes of the CPU's caches that come together */

/* One cached translation. Copies of one fill in two levels share their serial number. */
typedef struct {
    uint64_t tag;
    uint64_t leaf;     /* where the page is, D, G and key as in an entry; the path's access below */
    uint64_t serial;
    uint32_t kinds;    /* bit k: an access of kind k needs no second look */
} payload;

static inline uint64_t base_of(const payload *entry) { return entry->leaf & PTE_ADDRESS; }

/* What nearly every access needs to know of a set of the first level: its most recent way. */
typedef struct {
    uint64_t tag;
    uint32_t kinds, slot;
} front;

#define NO_FRONT ((front){NO_TAG, 0, 0})

/* A slot is a way of a set: set * stride + way. */
typedef struct {
    uint32_t mask, ways, stride; /* stride: ways, rounded up to groups */
    uint32_t held[4];  /* entries by page size: of the large ones alone */
    uint32_t *marks;   /* by slot: the tag's low half, which is what is looked for */
    payload *entries;  /* by slot; void where there is no mark, but for NO_TAG in the first level */
    uint64_t *stamps;  /* by slot: when last used, then the way's number; or NULL */
    uint64_t *orders;  /* by set, four bits a way: the most recent is lowest; or NULL */
    front *fronts;     /* by set; NULL for the second level */
    uint64_t *filled;  /* by set, a bit: filled since the level was emptied */
    void *block;       /* what holds them all */
} level;

static inline size_t set_of(const level *l, uint64_t tag) { return tag >> 2 & l->mask; }

/* Return which of four marks is the tag's, as bits. */
static inline uint32_t group_of(const uint32_t *marks, uint64_t tag)
{
#if defined(__SSE2__) && !defined(HV_SCALAR)
    __m128i same = _mm_cmpeq_epi32(_mm_loadu_si128((const __m128i *)marks),
                                   _mm_set1_epi32((int)(uint32_t)tag));
    return (uint32_t)_mm_movemask_ps(_mm_castsi128_ps(same));
#else
    uint32_t mark = (uint32_t)tag;
    return (uint32_t)(marks[0] == mark) | (uint32_t)(marks[1] == mark) << 1 |
           (uint32_t)(marks[2] == mark) << 2 | (uint32_t)(marks[3] == mark) << 3;
#endif
}

/* The same of twelve marks. */
static inline uint32_t dozen_of(const uint32_t *marks, uint64_t tag)
{
#if defined(__SSE2__) && !defined(HV_SCALAR)
    const __m128i *four = (const __m128i *)marks, mark = _mm_set1_epi32((int)(uint32_t)tag);
    __m128i a = _mm_cmpeq_epi32(_mm_loadu_si128(four), mark);
    __m128i b = _mm_cmpeq_epi32(_mm_loadu_si128(four + 1), mark);
    __m128i c = _mm_cmpeq_epi32(_mm_loadu_si128(four + 2), mark);
    __m128i all = _mm_packs_epi16(_mm_packs_epi32(a, b), _mm_packs_epi32(c, _mm_setzero_si128()));
    return (uint32_t)_mm_movemask_epi8(all);
#else
    return group_of(marks, tag) | group_of(marks + 4, tag) << 4 | group_of(marks + 8, tag) << 8;
#endif
}

static inline size_t lowest(uint64_t bits)
{
#if defined(__GNUC__)
    return (size_t)__builtin_ctzll(bits);
#else
    size_t at = 0;
    while (!(bits >> at & 1))
        at++;
    return at;
#endif
}

#define NOWHERE ((size_t)-1)

/* Return the slot that has the tag, of those from at on whose marks are set in hits; or NOWHERE. */
static inline size_t tagged(const level *l, size_t at, uint32_t hits, uint64_t tag)
{
    for (; hits; hits &= hits - 1)
        if (l->entries[at + lowest(hits)].tag == tag)
            return at + lowest(hits);
    return NOWHERE;
}

/* Return the slot where a set has the tag, or NOWHERE. */
static inline size_t slot_of(const level *l, size_t set, uint64_t tag)
{
    size_t first = set * l->stride, slot = NOWHERE;
    if (l->stride == 3 * GROUP) /* the second level of many CPUs */
        return tagged(l, first, dozen_of(l->marks + first, tag), tag);
    for (size_t at = first; slot == NOWHERE && at < first + l->stride; at += GROUP)
        slot = tagged(l, at, group_of(l->marks + at, tag), tag);
    return slot;
}

static inline void show(level *l, size_t set, size_t slot)
{
    if (l->fronts)
        l->fronts[set] = (front){l->entries[slot].tag, l->entries[slot].kinds, (uint32_t)slot};
}

/* The order of a set's ways. Above the last one stand remains, which are found by nobody. */

/* Return how far up the way's four bits are. */
static inline size_t place_of(uint64_t order, size_t way)
{
    const uint64_t each = 0x1111111111111111u;
    uint64_t other = order ^ each * way; /* 0 at the way's place */
    return lowest((other - each) & ~other & each << 3) & ~(size_t)3;
}

static inline uint64_t made_first(uint64_t order, size_t way)
{
    uint64_t below = (1ull << place_of(order, way)) - 1;
    return (order & ~(below << 4 | 15)) | (order & below) << 4 | way;
}

static inline uint64_t made_last(uint64_t order, size_t way, uint32_t ways)
{
    uint64_t below = (1ull << place_of(order, way)) - 1;
    uint64_t above = (order & ~0ull >> (64 - 4 * ways)) >> 4 & ~below;
    return (order & below) | above | (uint64_t)way << 4 * (ways - 1);
}

/* Make a way the most recent one of its set, at this time. */
static inline void touch(level *l, size_t set, size_t slot, uint64_t now)
{
    size_t way = slot - set * l->stride;
    if (l->orders)
        l->orders[set] = made_first(l->orders[set], way);
    else
        l->stamps[slot] = now << WAY_BITS | way;
    show(l, set, slot);
}

static inline uint64_t earlier(uint64_t one, uint64_t other) { return one < other ? one : other; }

/* Return the way with the lowest stamp. */
static inline size_t oldest(const level *l, size_t set)
{
    const uint64_t *stamps = l->stamps + set * l->stride;
    uint64_t a = stamps[0], b = stamps[1], c = stamps[2], d = stamps[3];
    for (uint32_t at = GROUP; at < l->stride; at += GROUP) {
        a = earlier(a, stamps[at]);
        b = earlier(b, stamps[at + 1]);
        c = earlier(c, stamps[at + 2]);
        d = earlier(d, stamps[at + 3]);
    }
    return (size_t)(earlier(earlier(a, b), earlier(c, d)) & (MOST_WAYS - 1));
}

/* Make the least recent way, or a free one, the most recent; return its slot. */
static inline size_t take_oldest(level *l, size_t set, uint64_t now)
{
    size_t way;
    if (l->orders) {
        uint64_t order = l->orders[set];
        way = order >> 4 * (l->ways - 1) & 15;
        l->orders[set] = order << 4 | way;
    } else {
        way = oldest(l, set);
        l->stamps[set * l->stride + way] = now << WAY_BITS | way;
    }
    return set * l->stride + way;
}

/* Return the entry with this tag, made most recent; NULL if there is none. */
static inline payload *take(level *l, uint64_t tag, uint64_t now)
{
    if ((tag & 3) && !l->held[tag & 3])
        return NULL;
    size_t set = set_of(l, tag), slot = slot_of(l, set, tag);
    if (slot == NOWHERE)
        return NULL;
    touch(l, set, slot, now);
    return l->entries + slot;
}

/* Tell whether there are only pages of 4 KiB. */
static inline int is_small(const level *l) { return !(l->held[1] | l->held[2]); }

/* Put an entry that the level does not hold in place of the least recent one. */
static inline void insert(level *l, const payload *entry, uint64_t now)
{
    size_t set = set_of(l, entry->tag), slot = take_oldest(l, set, now);
    if ((entry->tag & 3) || !is_small(l)) {
        l->held[l->marks[slot] & 3]--;
        l->held[entry->tag & 3]++;
    }
    l->filled[set / 64] |= 1ull << set % 64;
    l->marks[slot] = (uint32_t)entry->tag;
    l->entries[slot] = *entry;
    if (l->fronts)
        l->fronts[set] = (front){entry->tag, entry->kinds, (uint32_t)slot};
}

static inline void drop_slot(level *l, size_t set, size_t slot)
{
    size_t way = slot - set * l->stride;
    if (l->fronts && l->fronts[set].tag == l->entries[slot].tag)
        l->fronts[set] = NO_FRONT;
    l->held[l->marks[slot] & 3]--;
    l->marks[slot] = NO_MARK;
    l->entries[slot].tag = NO_TAG;
    if (l->orders)
        l->orders[set] = made_last(l->orders[set], way, l->ways);
    else
        l->stamps[slot] = way;
}

static inline void drop(level *l, uint64_t tag)
{
    if ((tag & 3) && !l->held[tag & 3])
        return;
    size_t set = set_of(l, tag), slot = slot_of(l, set, tag);
    if (slot != NOWHERE)
        drop_slot(l, set, slot);
}

/* An entry's kinds have changed, not when it was used. */
static inline void show_again(level *l, size_t set, size_t slot)
{
    if (l->fronts && l->fronts[set].tag == l->entries[slot].tag)
        show(l, set, slot);
}

static inline size_t sets_in(const level *l) { return (size_t)l->mask + 1; }

static inline size_t slots_in(const level *l) { return sets_in(l) * l->stride; }

static inline size_t words_of(const level *l) { return (sets_in(l) + 63) / 64; }

/* When its ways were used may stay: all of them are free, and any use is later. */
static inline void empty_set(level *l, size_t set)
{
    size_t first = set * l->stride;
    memset(l->marks + first, 0xff, l->stride * sizeof *l->marks);
    if (!l->fronts)
        return;
    for (size_t slot = first; slot < first + l->stride; slot++)
        l->entries[slot].tag = NO_TAG;
    l->fronts[set] = NO_FRONT;
}

/* A hypervisor flushes often: what has been filled since is little. */
static void empty(level *l)
{
    for (size_t word = 0; word < words_of(l); word++) {
        for (uint64_t bits = l->filled[word]; bits; bits &= bits - 1)
            empty_set(l, word * 64 + lowest(bits));
        l->filled[word] = 0;
    }
    memset(l->held, 0, sizeof l->held);
}

static void empty_non_global(level *l)
{
    for (size_t slot = 0; slot < slots_in(l); slot++)
        if (l->marks[slot] != NO_MARK && !(l->entries[slot].leaf & PTE_G))
            drop_slot(l, slot / l->stride, slot);
}

/* Return where so many bytes begin on a line of their own, and count them. */
static void *place(uint8_t *block, size_t *used, size_t bytes)
{
    size_t at = *used;
    *used += (bytes + LINE - 1) / LINE * LINE;
    return block ? block + at : NULL;
}

/* Lay a level out in a block; return how long it is. */
static size_t lay_out(level *l, uint8_t *block, int is_first)
{
    size_t used = 0, sets = sets_in(l), slots = slots_in(l);
    int is_ordered = !is_first && l->ways <= MOST_ORDERED;
    l->marks = place(block, &used, slots * sizeof *l->marks);
    l->entries = place(block, &used, slots * sizeof *l->entries);
    l->filled = place(block, &used, words_of(l) * sizeof *l->filled);
    l->orders = is_ordered ? place(block, &used, sets * sizeof *l->orders) : NULL;
    l->stamps = is_ordered ? NULL : place(block, &used, slots * sizeof *l->stamps);
    l->fronts = is_first ? place(block, &used, sets * sizeof *l->fronts) : NULL;
    return used;
}

/* Return 0 if there is no memory for so many. */
static int make_level(level *l, uint32_t sets, uint32_t ways, int is_first)
{
    if (!ways || ways > MOST_WAYS)
        return 0;
    l->mask = sets - 1;
    l->ways = ways;
    l->stride = (ways + GROUP - 1) / GROUP * GROUP;
    l->block = calloc(1, lay_out(l, NULL, is_first) + LINE);
    if (!l->block)
        return 0;
    uint8_t *block = l->block;
    lay_out(l, block + (LINE - (uintptr_t)block % LINE), is_first);
    for (size_t slot = 0; l->stamps && slot < slots_in(l); slot++) {
        uint32_t way = (uint32_t)(slot % l->stride);
        l->stamps[slot] = way < ways ? way : ~0ull; /* what is no way is never the oldest */
    }
    for (size_t set = 0; set < sets; set++) {
        if (l->orders)
            l->orders[set] = 0xfedcba9876543210u;
        empty_set(l, set);
    }
    return 1;
}

static void free_level(level *l) { free(l->block); }
