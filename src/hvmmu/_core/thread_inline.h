/* The compiled engine: what it holds, and its TLB as a whole.
 *
 * It comes after bits.h, kernel.h, tlb.h, walk.h and upper.h.
 */

#include <stdint.h>

#define KINDS 32u   /* a kind is made of W, U and ID: bits 1, 2 and 4 */
#define SIZES 3     /* 4 KiB, 2 MiB, 1 GiB */

static const int SHIFTS[SIZES] = {12, 21, 30};

enum { DATA, INSTRUCTION, SECOND, LEVELS }; /* the first two by whether it is a fetch */

/* Where the sets of the first level are, side by side: an access chooses without a branch. */
typedef struct {
    uint64_t masks[2];
    uint8_t *sets[2];
} sides;

/* The same by kind, and where the first set shows what it does to that kind. */
typedef struct {
    uint64_t masks[KINDS], sizes[KINDS];
    const uint8_t *shown[KINDS];
} shows;

struct hv_engine {
    hv_space space;
    hv_regs regs;
    hv_formats formats;
    int32_t paging;
    uint32_t allowed[KINDS]; /* by access: the kinds granted, without a look at keys */
    level tlb[LEVELS];
    sides first;
    shows shown;
    int32_t usual; /* the levels have the shapes FOUR and TWELVE */
    uint64_t now; /* uses of the TLB so far: a clock */
    uint64_t kept;    /* bits of a leaf that its cached entry has too: D, the key, G under CR4.PGE */
    int32_t is_long4; /* 4-level paging is in force */
    hv_counts counts;
    cached_walk walks[CACHED_WALKS];
};

/* The TLB. */

static uint64_t tag_of(uint64_t va, int size) { return va >> SHIFTS[size] << 2 | (uint64_t)size; }

static inline tlb_set *first_set(const sides *first, const tlb_shape *shape, uint64_t page,
                                 uint32_t fetch)
{
    return (tlb_set *)(first->sets[fetch] + (page & first->masks[fetch]) * shape->size);
}

static void put_first(hv_engine *e, const payload *entry, uint32_t kind)
{
    level *l = &e->tlb[kind / PF_ID];
    e->counts.first_misses[kind / PF_ID]++;
    insert(l, &l->shape, set_of(l, &l->shape, entry->tag), entry, kind, ++e->now);
}

/* Return the entry for va in the first level, made most recent; NULL on a miss. */
static const payload *find(hv_engine *e, uint64_t va, uint32_t kind)
{
    level *first = &e->tlb[kind / PF_ID];
    const payload *entry;
    for (int size = 0; size < SIZES; size++)
        if ((entry = take(first, tag_of(va, size), ++e->now)))
            return entry;
    for (int size = 0; size < SIZES; size++)
        if ((entry = take(&e->tlb[SECOND], tag_of(va, size), ++e->now))) {
            put_first(e, entry, kind);
            return entry;
        }
    return NULL;
}

static inline void drop_page(level *l, const tlb_shape *shape, uint64_t va)
{
    drop(l, shape, tag_of(va, 0));
    for (int size = 1; size < SIZES; size++)
        if (l->held[size])
            drop(l, shape, tag_of(va, size));
}

static void flush_page(hv_engine *e, uint64_t va)
{
    for (int l = 0; l < LEVELS; l++) {
        if (!e->usual)
            drop_page(&e->tlb[l], &e->tlb[l].shape, va);
        else if (l == SECOND)
            drop_page(&e->tlb[l], &TWELVE, va);
        else
            drop_page(&e->tlb[l], &FOUR, va);
    }
}

static inline uint32_t access_in_leaf(uint64_t leaf) { return (uint32_t)leaf & (PF_W | PF_U | PF_ID); }

static inline uint32_t key_in(uint64_t leaf) { return (uint32_t)(leaf >> PTE_PKEY_SHIFT) & 15; }

/* Return the kinds of access that a leaf grants whose path allows this: writes only where D is set. */
static inline uint32_t kinds_of(const hv_engine *e, uint32_t access, uint64_t leaf)
{
    const uint32_t writes = 0xccccccccu; /* kinds with W set */
    return e->allowed[access] & (leaf & PTE_D ? ~0u : ~writes);
}
