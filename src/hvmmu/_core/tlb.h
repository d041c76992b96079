/* The TLB of spec/tlb.py: a first level for instructions, one for data, and a second behind both.
 *
 * What belongs to a set lies together, and ways stay where they are. When each was last used is
 * told by stamps in the first level, where nearly every access is a use; in the second, where most
 * uses fill the oldest way, by a word that lists the ways in order. Instructions and data interleave
 * in no pattern that a branch predictor could learn, and neither does the way that hits: looking up
 * and choosing the least recent way have no branch in them. It comes after bits.h.
 */

#include <stdint.h>
#include <stdlib.h>
#include <string.h>

#if defined(__SSE2__) && !defined(HV_SCALAR)
#include <emmintrin.h>
#endif

#define NO_TAG (~0ull)
#define NO_KEY (~0ull)
#define NO_MARK (~0u) /* no tag ends like that, as there are only three page sizes */
#define GROUP 4u      /* ways are looked at four at a time; what fills up the last four is no way */
#define WAY_BITS 16
#define MOST_WAYS (1u << WAY_BITS)
#define MOST_ORDERED 16u /* ways that one word can list */
#define LINE 64u         /* bytes that the CPU's caches load together */

/* One cached translation. Copies of one fill in two levels share their serial number. */
typedef struct {
    uint64_t tag;
    uint64_t leaf;     /* where the page is, D, G and key as in an entry; the path's access below */
    uint64_t serial;
    uint32_t kinds;    /* bit k: an access of kind k needs no second look */
} payload;

/* A set. Its stamps follow the marks, then comes what it shows, and then its entries; sets of the
 * second level show nothing, and have no stamps as a rule. */
typedef struct {
    uint64_t order;     /* second level: four bits a way, the most recent one lowest */
    uint32_t filled;    /* something was, since the level was emptied */
    uint32_t way;       /* first level: the one that is shown */
    uint32_t marks[];   /* by way: the tag's low half, which is what is looked for */
} tlb_set;

/* How the sets of a level are made. Those that are usual are known when this is compiled. */
typedef struct {
    uint32_t ways, stride; /* stride: ways, rounded up to groups */
    uint32_t is_first, is_ordered;
    uint32_t shown, entries; /* bytes from the set to these */
    uint32_t size;           /* and to the next set */
} tlb_shape;

static const tlb_shape FOUR = {4, 4, 1, 0, 64, 96, 256}, TWELVE = {12, 12, 0, 1, 0, 64, 448};

typedef struct {
    uint8_t *sets;
    uint64_t mask;
    tlb_shape shape;
    uint32_t held[4];   /* entries by page size; right of the larger ones alone */
    uint32_t filled;    /* this many of: */
    uint32_t *filled_sets;
    void *block;        /* what holds the sets */
} level;

static inline uint64_t base_of(const payload *entry) { return entry->leaf & PTE_ADDRESS; }

/* Functions that take a shape beside a level or a set are given FOUR or TWELVE where speed matters,
 * or else the level's own. */

static inline tlb_set *nth_set(const level *l, const tlb_shape *shape, uint64_t nth)
{
    return (tlb_set *)(l->sets + nth * shape->size);
}

static inline tlb_set *set_of(const level *l, const tlb_shape *shape, uint64_t tag)
{
    return nth_set(l, shape, tag >> 2 & l->mask);
}

static inline payload *entries_of(tlb_set *set, const tlb_shape *shape)
{
    return (payload *)((uint8_t *)set + shape->entries);
}

/* What a set of the first level shows is what nearly every access needs to know of it: the keys of
 * its most recent entry, if it grants that kind; a read's first, then a write's. */
static inline uint64_t *shown_of(tlb_set *set, const tlb_shape *shape)
{
    return (uint64_t *)((uint8_t *)set + shape->shown);
}

static inline uint64_t *stamps_of(tlb_set *set, const tlb_shape *shape)
{
    return (uint64_t *)(set->marks + shape->stride);
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

/* Put a mark. Four are stored at once, as they will be loaded: where a store is of less than a load
 * soon after it, the CPU waits until the store has left for its cache. */
static inline void put_mark(tlb_set *set, const tlb_shape *shape, uint32_t way, uint32_t mark)
{
#if defined(__SSE2__) && !defined(HV_SCALAR)
    if (shape->stride == GROUP) {
        __m128i *marks = (__m128i *)set->marks;
        __m128i at = _mm_cmpeq_epi32(_mm_set1_epi32((int)way), _mm_setr_epi32(0, 1, 2, 3));
        __m128i put = _mm_and_si128(at, _mm_set1_epi32((int)mark));
        __m128i others = _mm_andnot_si128(at, _mm_loadu_si128(marks));
        _mm_storeu_si128(marks, _mm_or_si128(put, others));
        return;
    }
#endif
    (void)shape;
    set->marks[way] = mark;
}

static inline uint32_t lowest(uint64_t bits)
{
#if defined(__GNUC__)
    return (uint32_t)__builtin_ctzll(bits);
#else
    uint32_t at = 0;
    while (!(bits >> at & 1))
        at++;
    return at;
#endif
}

#define NOWHERE (~0u)

/* Return the way that has the tag, of those from at on whose marks are set in hits; or NOWHERE. */
static inline uint32_t tagged(const payload *entries, uint32_t at, uint32_t hits, uint64_t tag)
{
    for (; hits; hits &= hits - 1)
        if (entries[at + lowest(hits)].tag == tag)
            return at + lowest(hits);
    return NOWHERE;
}

/* Return the way where a set has the tag, or NOWHERE. */
static inline uint32_t way_of(tlb_set *set, const tlb_shape *shape, uint64_t tag)
{
    const payload *entries = entries_of(set, shape);
    uint32_t way = NOWHERE;
    if (shape->stride == GROUP)
        return tagged(entries, 0, group_of(set->marks, tag), tag);
    if (shape->stride == 3 * GROUP)
        return tagged(entries, 0, dozen_of(set->marks, tag), tag);
    for (uint32_t at = 0; way == NOWHERE && at < shape->stride; at += GROUP)
        way = tagged(entries, at, group_of(set->marks + at, tag), tag);
    return way;
}

/* The order of a set's ways. Above the last one stand remains, which nobody looks at. */

/* Return how far up the way's four bits are. */
static inline uint32_t place_of(uint64_t order, uint32_t way)
{
    const uint64_t each = 0x1111111111111111u;
    uint64_t other = order ^ each * way; /* 0 at the way's place */
    return lowest((other - each) & ~other & each << 3) & ~3u;
}

static inline uint64_t made_first(uint64_t order, uint32_t way)
{
    uint64_t below = (1ull << place_of(order, way)) - 1;
    return (order & ~(below << 4 | 15)) | (order & below) << 4 | way;
}

static inline uint64_t made_last(uint64_t order, uint32_t way, uint32_t ways)
{
    uint64_t below = (1ull << place_of(order, way)) - 1;
    uint64_t above = (order & ~0ull >> (64 - 4 * ways)) >> 4 & ~below;
    return (order & below) | above | (uint64_t)way << 4 * (ways - 1);
}

static inline uint64_t key_of(uint64_t tag, uint32_t kind)
{
    return tag << 62 | tag >> 2 << 5 | kind;
}

/* Show the most recent way, for this kind of access and its like that reads or writes. */
static inline void show(tlb_set *set, const tlb_shape *shape, uint32_t way, uint64_t tag,
                        uint32_t kinds, uint32_t kind)
{
    uint32_t reads = kind & ~PF_W;
    uint64_t key = key_of(tag, reads), granted = kinds >> reads;
    uint64_t *shown = shown_of(set, shape);
    shown[0] = key | ((granted & 1) - 1); /* or NO_KEY */
    shown[1] = key | PF_W | ((granted >> PF_W & 1) - 1);
    set->way = way;
}

/* Show nothing, which is right at any time. */
static inline void hide(tlb_set *set, const tlb_shape *shape)
{
    uint64_t *shown = shown_of(set, shape);
    shown[0] = shown[1] = NO_KEY;
}

/* Make a way the most recent one of its set, at this time. In the first level, the caller shows it
 * or hides what was shown. */
static inline void touch(tlb_set *set, const tlb_shape *shape, uint32_t way, uint64_t now)
{
    if (shape->is_ordered)
        set->order = made_first(set->order, way);
    else
        stamps_of(set, shape)[way] = now << WAY_BITS | way;
}

static inline uint64_t earlier(uint64_t one, uint64_t other) { return one < other ? one : other; }

/* Return the way with the lowest stamp. */
static inline uint32_t oldest(const uint64_t *stamps, const tlb_shape *shape)
{
    uint64_t a = stamps[0], b = stamps[1], c = stamps[2], d = stamps[3];
    for (uint32_t at = GROUP; at < shape->stride; at += GROUP) {
        a = earlier(a, stamps[at]);
        b = earlier(b, stamps[at + 1]);
        c = earlier(c, stamps[at + 2]);
        d = earlier(d, stamps[at + 3]);
    }
    return (uint32_t)(earlier(earlier(a, b), earlier(c, d)) & (MOST_WAYS - 1));
}

/* Make the least recent way, or a free one, the most recent; return it. */
static inline uint32_t take_oldest(tlb_set *set, const tlb_shape *shape, uint64_t now)
{
    if (shape->is_ordered) {
        uint32_t last = (uint32_t)(set->order >> 4 * (shape->ways - 1)) & 15;
        set->order = set->order << 4 | last;
        return last;
    }
    uint32_t way = oldest(stamps_of(set, shape), shape);
    stamps_of(set, shape)[way] = now << WAY_BITS | way;
    return way;
}

/* Tell whether there are only pages of 4 KiB. */
static inline int is_small(const level *l) { return !(l->held[1] | l->held[2]); }

/* Return the entry with this tag, made most recent; NULL if there is none. */
static inline payload *take(level *l, uint64_t tag, uint64_t now)
{
    if ((tag & 3) && !l->held[tag & 3])
        return NULL;
    tlb_set *set = set_of(l, &l->shape, tag);
    uint32_t way = way_of(set, &l->shape, tag);
    if (way == NOWHERE)
        return NULL;
    touch(set, &l->shape, way, now);
    if (l->shape.is_first)
        hide(set, &l->shape);
    return entries_of(set, &l->shape) + way;
}

static __attribute__((noinline)) void note_filled(level *l, tlb_set *set)
{
    set->filled = 1;
    l->filled_sets[l->filled++] = (uint32_t)(((uint8_t *)set - l->sets) / l->shape.size);
}

/* Put an entry that the set does not hold in place of its least recent one, and show it. */
static inline void insert(level *l, const tlb_shape *shape, tlb_set *set, const payload *entry,
                          uint32_t kind, uint64_t now)
{
    uint32_t way = take_oldest(set, shape, now);
    if (!set->filled)
        note_filled(l, set);
    if ((set->marks[way] + 1) & 2) /* of a larger page */
        l->held[set->marks[way] & 3]--;
    if (entry->tag & 3)
        l->held[entry->tag & 3]++;
    put_mark(set, shape, way, (uint32_t)entry->tag);
    entries_of(set, shape)[way] = *entry;
    if (shape->is_first)
        show(set, shape, way, entry->tag, entry->kinds, kind);
}

static inline void drop_way(level *l, const tlb_shape *shape, tlb_set *set, uint32_t way)
{
    payload *entry = entries_of(set, shape) + way;
    if (shape->is_first)
        hide(set, shape);
    if (shape->is_ordered)
        set->order = made_last(set->order, way, shape->ways);
    else
        stamps_of(set, shape)[way] = way;
    l->held[set->marks[way] & 3]--;
    put_mark(set, shape, way, NO_MARK);
    entry->tag = NO_TAG;
}

static inline void drop(level *l, const tlb_shape *shape, uint64_t tag)
{
    tlb_set *set = set_of(l, shape, tag);
    uint32_t way = set->filled ? way_of(set, shape, tag) : NOWHERE;
    if (way != NOWHERE)
        drop_way(l, shape, set, way);
}

/* The order of the ways may stay: all of them are free, and any use is later. Entries need no tag
 * where there is no mark, but for the first level, whose marks not everybody asks. */
static inline void empty_set(tlb_set *set, const tlb_shape *shape)
{
    memset(set->marks, 0xff, shape->stride * sizeof *set->marks);
    set->filled = 0;
    if (!shape->is_first)
        return;
    hide(set, shape);
    for (uint32_t way = 0; way < shape->stride; way++)
        entries_of(set, shape)[way].tag = NO_TAG;
}

/* A hypervisor flushes often: what has been filled since is little. */
static inline void empty(level *l, const tlb_shape *shape)
{
    while (l->filled)
        empty_set(nth_set(l, shape, l->filled_sets[--l->filled]), shape);
    memset(l->held, 0, sizeof l->held);
}

static void empty_non_global(level *l)
{
    for (uint32_t at = 0; at < l->filled; at++) {
        tlb_set *set = nth_set(l, &l->shape, l->filled_sets[at]);
        const payload *entries = entries_of(set, &l->shape);
        for (uint32_t way = 0; way < l->shape.ways; way++)
            if (set->marks[way] != NO_MARK && !(entries[way].leaf & PTE_G))
                drop_way(l, &l->shape, set, way);
    }
}

static inline uint32_t rounded(uint32_t bytes, uint32_t unit)
{
    return (bytes + unit - 1) / unit * unit;
}

static tlb_shape shape_of(uint32_t ways, int is_first)
{
    tlb_shape made = {.ways = ways, .stride = rounded(ways, GROUP), .is_first = !!is_first};
    made.is_ordered = !is_first && ways <= MOST_ORDERED;
    uint32_t each = (uint32_t)(sizeof(uint32_t) + (made.is_ordered ? 0 : sizeof(uint64_t)));
    uint32_t used = (uint32_t)sizeof(tlb_set) + each * made.stride;
    made.shown = is_first ? used : 0;
    made.entries = rounded(used + (is_first ? 2 * (uint32_t)sizeof(uint64_t) : 0), LINE / 2);
    made.size = rounded(made.entries + (uint32_t)sizeof(payload) * made.stride, LINE);
    return made;
}

static void begin_set(tlb_set *set, const tlb_shape *shape)
{
    empty_set(set, shape);
    if (shape->is_ordered)
        set->order = 0xfedcba9876543210u;
    for (uint32_t way = 0; !shape->is_ordered && way < shape->stride; way++)
        stamps_of(set, shape)[way] = way < shape->ways ? way : ~0ull; /* else never the oldest */
}

/* Return 0 if there is no memory for so many. */
static int make_level(level *l, uint32_t sets, uint32_t ways, int is_first)
{
    if (!ways || ways > MOST_WAYS)
        return 0;
    l->shape = shape_of(ways, is_first);
    l->mask = sets - 1;
    l->block = calloc(1, (size_t)sets * l->shape.size + LINE);
    l->filled_sets = malloc(sets * sizeof *l->filled_sets);
    if (!l->block || !l->filled_sets)
        return 0;
    l->sets = (uint8_t *)l->block + (LINE - (uintptr_t)l->block % LINE);
    for (uint64_t nth = 0; nth < sets; nth++)
        begin_set(nth_set(l, &l->shape, nth), &l->shape);
    return 1;
}

static void free_level(level *l)
{
    free(l->block);
    free(l->filled_sets);
}
