/* How an access is looked up and walked for, with the engine that it happens in.
 *
 * It comes after bits.h, kernel.h, tlb.h, walk.h, trail.h and upper.h. What nearly every access is
 * comes last, and asks those before it.
 */

#include <stdint.h>
#include <string.h>

#define KINDS 32u   /* a kind is made of W, U and ID: bits 1, 2 and 4 */
#define SIZES 3     /* 4 KiB, 2 MiB, 1 GiB */

static const int SHIFTS[SIZES] = {12, 21, 30};

enum { DATA, INSTRUCTION, SECOND, LEVELS }; /* the first two by whether it is a fetch */

/* Where the sets of the first level are, side by side: an access chooses without a branch. */
typedef struct {
    uint64_t masks[2], sizes[2];
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
    uint64_t global; /* G, if entries may have it */
    int32_t plain;  /* four levels of 8-byte entries: the walk that nearly every walk is */
    uint64_t plain_link, plain_entry; /* of its last two, the bits that may not be other than usual */
    hv_counts counts;
    uint32_t told; /* of a plain walk's kind: what an error code has of it */
    hv_trail trails[HV_TRAILS];
    hv_upper uppers[HV_UPPERS];
};

/* The TLB. */

static uint64_t tag_of(uint64_t va, int size) { return va >> SHIFTS[size] << 2 | (uint64_t)size; }

static inline tlb_set *first_set(const sides *first, uint64_t page, uint32_t fetch)
{
    return (tlb_set *)(first->sets[fetch] + (page & first->masks[fetch]) * first->sizes[fetch]);
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

static inline uint32_t access_in(uint64_t leaf) { return (uint32_t)leaf & (PF_W | PF_U | PF_ID); }

static inline uint32_t key_in(uint64_t leaf) { return (uint32_t)(leaf >> PTE_PKEY_SHIFT) & 15; }

static inline uint32_t kinds_of(const hv_engine *e, uint64_t leaf)
{
    const uint32_t writes = 0xccccccccu; /* kinds with W set */
    return e->allowed[access_in(leaf)] & (leaf & PTE_D ? ~0u : ~writes);
}

/* What an access does that its set's most recent entry does not grant at once. */

/* Bring the copies of a cached entry up to date, in every level that holds it. */
static void refresh(hv_engine *e, uint64_t tag, uint64_t serial, const payload *fresh)
{
    for (int i = 0; i < LEVELS; i++) {
        level *l = &e->tlb[i];
        tlb_set *set = set_of(l, &l->shape, tag);
        uint32_t way = way_of(set, &l->shape, tag);
        payload *entry = entries_of(set, &l->shape) + way;
        if (way != NOWHERE && entry->serial == serial) {
            *entry = *fresh;
            entry->serial = serial;
            if (l->shape.is_first)
                hide(set, &l->shape);
        }
    }
}

/* What comes of an access: the page that it lands in, or else why it stops. */
typedef struct {
    uint64_t base, mask; /* where the page is, and its size - 1 */
    uint64_t filter;     /* by error code, a bit: such a page fault exits */
    hv_stop *stop;
} outcome;

static inline void land(outcome *out, uint64_t base, uint64_t mask)
{
    out->base = base;
    out->mask = mask;
}

static inline int stop_by(const outcome *out, uint64_t va, uint32_t kind, uint32_t pfec,
                          uint32_t level, uint32_t access)
{
    hv_stop *stop = out->stop;
    stop->gva = va;
    stop->kind = kind;
    stop->pfec = pfec;
    stop->level = level;
    stop->access = access;
    stop->event = out->filter >> (pfec & 63) & 1 ? HV_EXIT : HV_DELIVERED;
    return 0;
}

static void stop_at(const outcome *out, const hv_walked *w, uint64_t va, uint32_t kind)
{
    stop_by(out, va, kind, w->pfec, w->level, w->refs ? w->access : 0);
    if (w->ok) {
        out->stop->event = HV_PHYSICAL;
        out->stop->pa = w->pa;
    } else if (w->general_protection) {
        out->stop->event = HV_GENERAL_PROTECTION;
    }
}

static void fill(hv_engine *e, payload *fresh, uint32_t kind)
{
    level *l = &e->tlb[SECOND];
    fresh->serial = ++e->counts.misses;
    insert(l, &l->shape, set_of(l, &l->shape, fresh->tag), fresh, kind, ++e->now);
    put_first(e, fresh, kind);
}

/* What nearly every walk is: four levels of 8-byte entries to where one of a 4 KiB page is, A set in
 * those before. Return 1 if it translates, and 0 if it stops, with the reason in its hv_stop; -1, with no
 * effect, where anything is otherwise. */
static inline int walk_plainly(hv_engine *e, uint64_t va, uint32_t kind, const outcome *at_stop,
                               payload *out)
{
    hv_upper *upper = hv_upper_of(e->uppers, va);
    if (!hv_leads_on(upper, va, e->regs.cr3) &&
        (!e->plain || !hv_find_upper(&e->space, &e->formats, va, e->regs.cr3, upper)))
        return -1;
    uint64_t link, entry, table = upper->table;
    memcpy(&link, e->space.bytes + table + (va >> 18 & 0xff8), 8);
    table = link & PTE_ADDRESS;
    if (((link ^ (PTE_P | PTE_A)) & e->plain_link) || table >= e->space.size)
        return -1; /* both are multiples of a page */
    uint8_t *at = e->space.bytes + table + (va >> 9 & 0xff8);
    memcpy(&entry, at, 8);
    uint64_t page = entry & PTE_ADDRESS, grants = upper->grants;
    if (!(entry & PTE_P)) {
        grants &= hv_grants(link, link);
        e->counts.walk_refs += 4;
        return stop_by(at_stop, va, kind, kind & e->told, 1, (uint32_t)grants);
    }
    if ((entry & e->plain_entry) || page >= e->space.size)
        return -1;
    uint64_t marked = entry | PTE_A | (kind & PF_W) * (PTE_D / PF_W);
    grants &= hv_grants(link & entry, link | entry);
    out->tag = tag_of(va, 0);
    out->leaf = page | (marked & (PTE_D | e->global | PTE_PKEY)) | grants;
    out->kinds = kinds_of(e, out->leaf);
    if (!(out->kinds >> kind & 1)) {
        if (e->regs.cr4 & CR4_PKE)
            return -1;
        e->counts.walk_refs += 4;
        return stop_by(at_stop, va, kind, (kind & e->told) | PF_P, 1, (uint32_t)grants);
    }
    e->counts.walk_refs += 4;
    if (marked != entry)
        memcpy(at, &marked, 8);
    return 1;
}

/* Any other walk. */
static int walk_at_length(hv_engine *e, uint64_t va, uint32_t kind, const outcome *at_stop,
                          payload *out)
{
    hv_trail *trail = hv_last_trail(e->trails, va);
    const hv_walked *w = &trail->walked;
    hv_walk_again(&e->space, &e->regs, &e->formats, va, kind, trail);
    if (w->ok)
        hv_mark_again(&e->space, &e->formats, trail, kind);
    e->counts.walk_refs += w->refs;
    if (!w->ok || w->pa >= e->space.size) {
        stop_at(at_stop, w, va, kind);
        return 0;
    }
    int size = (int)w->level - 1;
    out->tag = tag_of(va, size);
    out->leaf = (w->pa & -(1ull << SHIFTS[size])) | w->access | (uint64_t)w->pkey << PTE_PKEY_SHIFT |
                (w->dirty ? PTE_D : 0) | (w->global ? PTE_G : 0);
    out->kinds = kinds_of(e, out->leaf);
    return 1;
}

static inline void land_in(outcome *out, const payload *entry)
{
    land(out, base_of(entry), (1ull << SHIFTS[entry->tag & 3]) - 1);
}

/* Walk for an access that the TLB's entry, if there is one, does not grant; return 0 if the access
 * stops, with the reason in its hv_stop. */
static int walk_for(hv_engine *e, uint64_t va, uint32_t kind, outcome *out, const payload *entry)
{
    payload fresh;
    int went = walk_plainly(e, va, kind, out, &fresh);
    if (went < 0)
        went = walk_at_length(e, va, kind, out, &fresh);
    if (!went) {
        if (entry && (out->stop->event == HV_EXIT || out->stop->event == HV_DELIVERED))
            flush_page(e, va);
        return 0;
    }
    land_in(out, &fresh);
    if (entry && entry->tag == fresh.tag) {
        refresh(e, entry->tag, entry->serial, &fresh);
        return 1;
    }
    if (entry)
        flush_page(e, va); /* the page has changed its size */
    fill(e, &fresh, kind);
    return 1;
}

static int look_further(hv_engine *e, uint64_t va, uint32_t kind, outcome *out)
{
    const payload *entry = find(e, va, kind);
    /* What kinds leaves open is a matter of keys. */
    int keyed = entry && (e->regs.cr4 & CR4_PKE) && ((entry->leaf & PTE_D) || !(kind & PF_W));
    if (entry && ((entry->kinds >> kind & 1) ||
                  (keyed && !hv_permission_fault(&e->regs, access_in(entry->leaf),
                                                 key_in(entry->leaf), kind)))) {
        land_in(out, entry);
        return 1;
    }
    return walk_for(e, va, kind, out, entry);
}

static int has_larger(const level *l, uint64_t va)
{
    for (int size = 1; size < SIZES; size++) {
        uint64_t tag = tag_of(va, size);
        if (l->held[size] && way_of(set_of(l, &l->shape, tag), &l->shape, tag) != NOWHERE)
            return 1;
    }
    return 0;
}

/* The same in a few instructions, but that any page of 1 GiB will do. */
static inline int may_have_larger(const level *l, const tlb_shape *shape, uint64_t va)
{
    uint64_t tag = tag_of(va, 1);
    return l->held[2] || (l->held[1] && way_of(set_of(l, shape, tag), shape, tag) != NOWHERE);
}

/* An access to a page that the first level has no entry of; one of 4 KiB would be in this set. */
static inline __attribute__((always_inline)) int look_behind(hv_engine *e, const tlb_shape *one,
                                                             const tlb_shape *two, tlb_set *set,
                                                             uint64_t va, uint32_t kind,
                                                             outcome *out)
{
    uint64_t tag = tag_of(va, 0);
    level *first = &e->tlb[kind / PF_ID], *second = &e->tlb[SECOND];
    tlb_set *behind = set_of(second, two, tag);
    uint32_t way = way_of(behind, two, tag);
    payload entry;
    if (way != NOWHERE) {
        entry = entries_of(behind, two)[way];
        if (!(entry.kinds >> kind & 1))
            return look_further(e, va, kind, out);
        touch(behind, two, way, e->now + 1);
    } else {
        if (!is_small(second) && may_have_larger(second, two, va))
            return look_further(e, va, kind, out);
        int went = walk_plainly(e, va, kind, out, &entry);
        if (went <= 0)
            return went ? walk_for(e, va, kind, out, NULL) : 0;
        entry.serial = ++e->counts.misses;
        entry.tag = tag;
        insert(second, two, behind, &entry, kind, e->now + 1);
    }
    e->counts.first_misses[kind / PF_ID]++;
    entry.tag = tag;
    insert(first, one, set, &entry, kind, ++e->now);
    land(out, base_of(&entry), 0xfff);
    return 1;
}

/* Both are compiled once for the shapes that are usual. */

static __attribute__((noinline)) int look_behind_usual(hv_engine *e, tlb_set *set, uint64_t va,
                                                       uint32_t kind, outcome *out)
{
    return look_behind(e, &FOUR, &TWELVE, set, va, kind, out);
}

static __attribute__((noinline)) int look_behind_other(hv_engine *e, tlb_set *set, uint64_t va,
                                                       uint32_t kind, outcome *out)
{
    const level *l = e->tlb;
    return look_behind(e, &l[kind / PF_ID].shape, &l[SECOND].shape, set, va, kind, out);
}

/* The same where the first level has larger pages: this one too, but it is not shown, or not. */
static __attribute__((noinline)) int find_larger(hv_engine *e, tlb_set *behind, uint64_t va,
                                                 uint32_t kind, outcome *out)
{
    uint64_t tag = tag_of(va, 1);
    const level *first = &e->tlb[kind / PF_ID];
    tlb_set *set = set_of(first, &first->shape, tag);
    const payload *entries = entries_of(set, &first->shape);
    uint32_t way = way_of(set, &first->shape, tag);
    if (way == NOWHERE && !has_larger(first, va))
        return (e->usual ? look_behind_usual : look_behind_other)(e, behind, va, kind, out);
    if (way == NOWHERE || !(entries[way].kinds >> kind & 1))
        return look_further(e, va, kind, out);
    touch(set, &first->shape, way, ++e->now);
    show(set, &first->shape, way, tag, entries[way].kinds, kind);
    land(out, base_of(entries + way), (1ull << SHIFTS[1]) - 1);
    return 1;
}

/* The same where this one may be shown. */
static __attribute__((noinline)) int look_larger(hv_engine *e, tlb_set *behind, uint64_t va,
                                                 uint32_t kind, outcome *out)
{
    const tlb_shape *one = &e->tlb[kind / PF_ID].shape;
    tlb_set *set = first_set(&e->first, va >> SHIFTS[1], kind / PF_ID);
    if (shown_of(set, one)[kind / PF_W & 1] != key_of(tag_of(va, 1), kind))
        return find_larger(e, behind, va, kind, out);
    land(out, base_of(entries_of(set, one) + set->way), (1ull << SHIFTS[1]) - 1);
    return 1;
}

/* Any access; most hit a 4 KiB entry of the first level. */
static inline __attribute__((always_inline)) int look_in(hv_engine *e, const tlb_shape *one,
                                                         uint64_t va, uint32_t kind, outcome *out)
{
    uint64_t tag = tag_of(va, 0);
    tlb_set *set = first_set(&e->first, va >> 12, kind / PF_ID);
    uint32_t way = way_of(set, one, tag);
    const level *first = &e->tlb[kind / PF_ID];
    if (way == NOWHERE && !is_small(first) && may_have_larger(first, one, va))
        return look_larger(e, set, va, kind, out);
    if (way == NOWHERE)
        return (one == &FOUR ? look_behind_usual : look_behind_other)(e, set, va, kind, out);
    const payload *entry = entries_of(set, one) + way;
    int granted = entry->kinds >> kind & 1;
    if (!granted && (e->regs.cr4 & CR4_PKE))
        return look_further(e, va, kind, out);
    touch(set, one, way, ++e->now);
    if (!granted) {
        hide(set, one);
        return walk_for(e, va, kind, out, entry);
    }
    show(set, one, way, tag, entry->kinds, kind);
    land(out, base_of(entry), 0xfff);
    return 1;
}

static __attribute__((noinline)) int look_usual(hv_engine *e, uint64_t va, uint32_t kind,
                                                outcome *out)
{
    return look_in(e, &FOUR, va, kind, out);
}

static __attribute__((noinline)) int look_other(hv_engine *e, uint64_t va, uint32_t kind,
                                                outcome *out)
{
    return look_in(e, &e->tlb[kind / PF_ID].shape, va, kind, out);
}

static inline int look(hv_engine *e, uint64_t va, uint32_t kind, outcome *out)
{
    return (e->usual ? look_usual : look_other)(e, va, kind, out);
}
