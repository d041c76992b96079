/* The TLB of hw/tlb.py: a first level for instructions, one for data, and a second behind both.
 *
 * Ways stay where they are; a stamp tells when each was last used. Instructions and data interleave
 * in no pattern that a branch predictor could learn, and neither does the way that hits: looking up
 * and choosing the least recent way have no branch in them.
 */

#include <stdint.h>
#include <stdlib.h>
#include <string.h>

#if defined(__SSE2__) && !defined(HV_SCALAR)
#include <emmintrin.h>
#endif

#define NO_TAG (~0ull)
#define GROUP 4u      /* ways are looked at four at a time; those that fill up the last are no ways */
#define WAY_BITS 16
#define MOST_WAYS (1u << WAY_BITS)
#define RECENT 64u    /* fills that are remembered, for a flush to undo */

/* One cached translation. Copies of one fill in two levels share their serial number. */
typedef struct {
    uint64_t base;     /* physical address of the page */
    uint64_t serial;
    uint32_t kinds;    /* bit k: an access of kind k needs no second look */
    uint8_t access, pkey, dirty, global;
} payload;

/* What nearly every access needs to know of a set of the first level: its most recent way. */
typedef struct {
    uint64_t tag;
    uint32_t kinds, slot;
} front;

#define NO_FRONT ((front){NO_TAG, 0, 0})

typedef struct {
    uint32_t mask, ways, stride; /* stride: ways, rounded up to groups */
    uint32_t held[4]; /* entries by page size; free ways have none, and count as the last */
    uint64_t *tags;   /* NO_TAG in a free way */
    uint32_t *marks;  /* the tags' low halves: what is looked for */
    uint64_t *stamps; /* when last used, then the way's number; a free way was used at no time */
    payload *entries;
    front *fronts;    /* by set; NULL for the second level */
    uint64_t fills;   /* since the level was emptied */
    uint32_t recent[RECENT]; /* the slots of the last ones */
} level;

static inline size_t set_of(const level *l, uint64_t tag)
{
    return (size_t)((tag >> 2) & l->mask) * l->stride;
}

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

static inline size_t lowest(uint32_t bits)
{
#if defined(__GNUC__)
    return (size_t)__builtin_ctz(bits);
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
        if (l->tags[at + lowest(hits)] == tag)
            return at + lowest(hits);
    return NOWHERE;
}

/* Return where a set has the tag, or NOWHERE. */
static inline size_t slot_of(const level *l, size_t set, uint64_t tag)
{
    if (l->stride == 3 * GROUP) { /* the second level of many CPUs */
        const uint32_t *marks = l->marks + set;
        uint32_t hits = group_of(marks, tag) | group_of(marks + 4, tag) << 4 |
                        group_of(marks + 8, tag) << 8;
        return tagged(l, set, hits, tag);
    }
    size_t slot = NOWHERE;
    for (size_t at = set; slot == NOWHERE && at < set + l->stride; at += GROUP)
        slot = tagged(l, at, group_of(l->marks + at, tag), tag);
    return slot;
}

static inline void show(level *l, size_t slot)
{
    uint64_t tag = l->tags[slot];
    if (l->fronts)
        l->fronts[tag >> 2 & l->mask] = (front){tag, l->entries[slot].kinds, (uint32_t)slot};
}

/* Make a way the most recent one of its set, at this time. */
static inline void touch(level *l, size_t set, size_t slot, uint64_t now)
{
    l->stamps[slot] = now << WAY_BITS | (slot - set);
    show(l, slot);
}

static inline uint64_t earlier(uint64_t one, uint64_t other) { return one < other ? one : other; }

/* Return the least recent way, or a free one. */
static inline size_t oldest(const level *l, size_t set)
{
    const uint64_t *stamps = l->stamps + set;
    uint64_t a = stamps[0], b = stamps[1], c = stamps[2], d = stamps[3];
    for (uint32_t at = GROUP; at < l->stride; at += GROUP) {
        a = earlier(a, stamps[at]);
        b = earlier(b, stamps[at + 1]);
        c = earlier(c, stamps[at + 2]);
        d = earlier(d, stamps[at + 3]);
    }
    return set + (size_t)(earlier(earlier(a, b), earlier(c, d)) & (MOST_WAYS - 1));
}

/* Return the entry with this tag, made most recent; NULL if there is none. */
static inline payload *take(level *l, uint64_t tag, uint64_t now)
{
    if (!l->held[tag & 3])
        return NULL;
    size_t set = set_of(l, tag), slot = slot_of(l, set, tag);
    if (slot == NOWHERE)
        return NULL;
    touch(l, set, slot, now);
    return l->entries + slot;
}

/* Tell whether there are only pages of 4 KiB. */
static inline int is_small(const level *l) { return !(l->held[1] | l->held[2]); }

/* Tell whether the level has, or might have, a large page that va lies in. */
static inline int holds_large(const level *l, uint64_t va)
{
    uint64_t tag = va >> 21 << 2 | 1;
    return l->held[2] || (l->held[1] && slot_of(l, set_of(l, tag), tag) != NOWHERE);
}

/* Put an entry that the level does not hold in place of the least recent one. */
static inline payload *insert(level *l, uint64_t tag, const payload *entry, uint64_t now)
{
    size_t set = set_of(l, tag), slot = oldest(l, set);
    l->recent[l->fills++ % RECENT] = (uint32_t)slot;
    l->held[l->tags[slot] & 3]--;
    l->held[tag & 3]++;
    l->tags[slot] = tag;
    l->marks[slot] = (uint32_t)tag;
    l->entries[slot] = *entry;
    touch(l, set, slot, now);
    return l->entries + slot;
}

static inline void drop_slot(level *l, size_t set, size_t slot)
{
    uint64_t tag = l->tags[slot];
    front *shown = l->fronts ? l->fronts + (tag >> 2 & l->mask) : NULL;
    if (shown && shown->tag == tag)
        *shown = NO_FRONT;
    l->held[tag & 3]--;
    l->held[NO_TAG & 3]++;
    l->tags[slot] = NO_TAG;
    l->marks[slot] = (uint32_t)NO_TAG;
    l->stamps[slot] = slot - set;
}

static inline void drop(level *l, uint64_t tag)
{
    if (!l->held[tag & 3])
        return;
    size_t set = set_of(l, tag), slot = slot_of(l, set, tag);
    if (slot != NOWHERE)
        drop_slot(l, set, slot);
}

/* An entry's kinds have changed, not when it was used. */
static inline void show_again(level *l, size_t slot)
{
    if (l->fronts && l->fronts[l->tags[slot] >> 2 & l->mask].tag == l->tags[slot])
        show(l, slot);
}

static inline size_t slots_in(const level *l) { return ((size_t)l->mask + 1) * l->stride; }

static void empty_set(level *l, size_t nth)
{
    size_t set = nth * l->stride;
    for (uint32_t way = 0; way < l->stride; way++) {
        l->tags[set + way] = NO_TAG;
        l->marks[set + way] = (uint32_t)NO_TAG;
        l->stamps[set + way] = way < l->ways ? way : ~0ull; /* what is no way is never the oldest */
    }
}

/* A hypervisor flushes often: what has been filled since is little, and nothing else is there. */
static void empty(level *l)
{
    const uint64_t fills = l->fills;
    uint64_t *tags = l->tags, *stamps = l->stamps;
    uint32_t *marks = l->marks;
    if (fills > RECENT)
        for (size_t nth = 0; nth <= l->mask; nth++)
            empty_set(l, nth);
    for (uint64_t at = 0; at < fills && fills <= RECENT; at++) {
        uint32_t slot = l->recent[at];
        tags[slot] = NO_TAG;
        marks[slot] = (uint32_t)NO_TAG;
        stamps[slot] &= MOST_WAYS - 1; /* the way's number */
    }
    for (size_t nth = 0; l->fronts && fills && nth <= l->mask; nth++)
        l->fronts[nth] = NO_FRONT;
    l->fills = 0;
    memset(l->held, 0, sizeof l->held);
}

static void empty_non_global(level *l)
{
    for (size_t slot = 0; slot < slots_in(l); slot++)
        if (l->tags[slot] != NO_TAG && !l->entries[slot].global)
            drop_slot(l, slot - slot % l->stride, slot);
}

/* Return 0 if there is no memory for so many. */
static int make_level(level *l, uint32_t sets, uint32_t ways, int is_first)
{
    if (!ways || ways > MOST_WAYS)
        return 0;
    l->mask = sets - 1;
    l->ways = ways;
    l->stride = (ways + GROUP - 1) / GROUP * GROUP;
    l->tags = malloc(slots_in(l) * sizeof *l->tags);
    l->marks = malloc(slots_in(l) * sizeof *l->marks);
    l->stamps = malloc(slots_in(l) * sizeof *l->stamps);
    l->entries = calloc(slots_in(l), sizeof *l->entries);
    l->fronts = is_first ? calloc(sets, sizeof *l->fronts) : NULL;
    if (!l->tags || !l->marks || !l->stamps || !l->entries || (is_first && !l->fronts))
        return 0;
    l->fills = RECENT + 1; /* nothing is initialised */
    empty(l);
    return 1;
}

static void free_level(level *l)
{
    free(l->tags);
    free(l->marks);
    free(l->stamps);
    free(l->entries);
    free(l->fronts);
}
