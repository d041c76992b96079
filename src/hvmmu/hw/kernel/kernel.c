/* The compiled engine: the readable engine's semantics, access by access, in C.
 *
 * hw/tlb.py and hw/readable.py say in words what is done here; the tests hold the two
 * against each other. Nothing here knows of guests, shadow tables or vendors.
 */

#include <stdint.h>
#include <stdlib.h>
#include <string.h>

#include "bits.h"
#include "kernel.h"
#include "tlb.h"
#include "walk.h"
#include "trail.h"
#include "upper.h"

#define KINDS 32u   /* a kind is made of W, U and ID: bits 1, 2 and 4 */
#define SIZES 3     /* 4 KiB, 2 MiB, 1 GiB */

static const int SHIFTS[SIZES] = {12, 21, 30};

enum { DATA, INSTRUCTION, SECOND, LEVELS }; /* the first two by whether it is a fetch */

/* Where the sets of the first level are, side by side: an access chooses without a branch. */
typedef struct {
    uint64_t masks[2], sizes[2];
    uint8_t *sets[2];
} sides;

struct hv_engine {
    hv_space space;
    hv_regs regs;
    hv_formats formats;
    int32_t paging;
    uint32_t allowed[KINDS]; /* by access: the kinds granted, without a look at keys */
    level tlb[LEVELS];
    sides first;
    int32_t usual; /* the levels have the shapes FOUR and TWELVE */
    uint64_t now; /* uses of the TLB so far: a clock */
    uint64_t global; /* G, if entries may have it */
    int32_t plain;  /* four levels of 8-byte entries: the walk that nearly every walk is */
    uint64_t plain_link, plain_entry; /* of its last two, the bits that may not be other than usual */
    hv_counts counts;
    uint32_t shown; /* of a plain walk's kind: what an error code has of it */
    hv_trail trails[HV_TRAILS];
    hv_upper uppers[HV_UPPERS];
};

/* The TLB. */

static uint64_t tag_of(uint64_t va, int size) { return va >> SHIFTS[size] << 2 | (uint64_t)size; }

static inline tlb_set *first_set(const sides *first, uint64_t page, uint32_t fetch)
{
    return (tlb_set *)(first->sets[fetch] + (page & first->masks[fetch]) * first->sizes[fetch]);
}

static inline void count_first(hv_engine *e, uint32_t fetch)
{
    e->counts.instruction_misses += fetch;
    e->counts.data_misses += !fetch;
}

static void put_first(hv_engine *e, const payload *entry, uint32_t fetch)
{
    count_first(e, fetch);
    level *l = &e->tlb[fetch];
    insert(l, &l->shape, set_of(l, &l->shape, entry->tag), entry, ++e->now);
}

/* Return the entry for va in the first level, made most recent; NULL on a miss. */
static const payload *find(hv_engine *e, uint64_t va, uint32_t fetch)
{
    level *first = &e->tlb[fetch];
    const payload *entry;
    for (int size = 0; size < SIZES; size++)
        if ((entry = take(first, tag_of(va, size), ++e->now)))
            return entry;
    for (int size = 0; size < SIZES; size++)
        if ((entry = take(&e->tlb[SECOND], tag_of(va, size), ++e->now))) {
            put_first(e, entry, fetch);
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

void hv_flush(hv_engine *e, int32_t scope, uint64_t va)
{
    if (scope == HV_FLUSH_PAGE) {
        flush_page(e, va);
    } else if (scope == HV_FLUSH_ALL && e->usual) {
        empty(&e->tlb[DATA], &FOUR);
        empty(&e->tlb[INSTRUCTION], &FOUR);
        empty(&e->tlb[SECOND], &TWELVE);
    } else {
        for (int l = 0; l < LEVELS; l++) {
            if (scope == HV_FLUSH_ALL)
                empty(&e->tlb[l], &e->tlb[l].shape);
            else
                empty_non_global(&e->tlb[l]);
        }
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
            show_again(l, set, way);
        }
    }
}

static inline int stop_by(hv_stop *stop, uint64_t va, uint32_t kind, uint32_t pfec, uint32_t level,
                          uint32_t access, uint64_t filter)
{
    stop->gva = va;
    stop->kind = kind;
    stop->pfec = pfec;
    stop->level = level;
    stop->access = access;
    stop->event = filter >> (pfec & 63) & 1 ? HV_EXIT : HV_DELIVERED;
    return 0;
}

static void stop_at(hv_stop *stop, const hv_walked *w, uint64_t va, uint32_t kind, uint64_t filter)
{
    stop_by(stop, va, kind, w->pfec, w->level, w->refs ? w->access : 0, filter);
    if (w->ok) {
        stop->event = HV_PHYSICAL;
        stop->pa = w->pa;
    } else if (w->general_protection) {
        stop->event = HV_GENERAL_PROTECTION;
    }
}

/* What was found for an access: the physical base of its page, and the page's size - 1. */
typedef struct {
    uint64_t base, mask;
} found;

static void fill(hv_engine *e, payload *fresh, uint32_t fetch)
{
    level *l = &e->tlb[SECOND];
    fresh->serial = ++e->counts.misses;
    insert(l, &l->shape, set_of(l, &l->shape, fresh->tag), fresh, ++e->now);
    put_first(e, fresh, fetch);
}

/* What nearly every walk is: four levels of 8-byte entries to where one of a 4 KiB page is, A set in
 * those before. Return 1 if it translates, and 0 if it stops, with the reason in *stop; -1, with no
 * effect, where anything is otherwise. */
static inline int walk_plainly(hv_engine *e, uint64_t va, uint32_t kind, uint64_t filter,
                               hv_stop *stop, payload *out)
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
    uint64_t page = entry & PTE_ADDRESS, grants = upper->grants & hv_grants(link);
    if (!(entry & PTE_P)) {
        e->counts.walk_refs += 4;
        return stop_by(stop, va, kind, kind & e->shown, 1, (uint32_t)grants, filter);
    }
    if ((entry & e->plain_entry) || page >= e->space.size)
        return -1;
    uint64_t marked = entry | PTE_A | (kind & PF_W ? PTE_D : 0);
    grants &= hv_grants(entry);
    out->tag = tag_of(va, 0);
    out->leaf = page | (marked & (PTE_D | e->global | PTE_PKEY)) | grants;
    out->kinds = kinds_of(e, out->leaf);
    if (!(out->kinds >> kind & 1)) {
        if (e->regs.cr4 & CR4_PKE)
            return -1;
        e->counts.walk_refs += 4;
        return stop_by(stop, va, kind, (kind & e->shown) | PF_P, 1, (uint32_t)grants, filter);
    }
    e->counts.walk_refs += 4;
    if (marked != entry)
        memcpy(at, &marked, 8);
    return 1;
}

/* Any other walk. */
static int walk_at_length(hv_engine *e, uint64_t va, uint32_t kind, uint64_t filter, hv_stop *stop,
                          payload *out)
{
    hv_trail *trail = hv_last_trail(e->trails, va);
    const hv_walked *w = &trail->walked;
    hv_walk_again(&e->space, &e->regs, &e->formats, va, kind, trail);
    if (w->ok)
        hv_mark_again(&e->space, &e->formats, trail, kind);
    e->counts.walk_refs += w->refs;
    if (!w->ok || w->pa >= e->space.size) {
        stop_at(stop, w, va, kind, filter);
        return 0;
    }
    int size = (int)w->level - 1;
    out->tag = tag_of(va, size);
    out->leaf = (w->pa & -(1ull << SHIFTS[size])) | w->access | (uint64_t)w->pkey << PTE_PKEY_SHIFT |
                (w->dirty ? PTE_D : 0) | (w->global ? PTE_G : 0);
    out->kinds = kinds_of(e, out->leaf);
    return 1;
}

static inline found found_in(const payload *entry)
{
    return (found){base_of(entry), (1ull << SHIFTS[entry->tag & 3]) - 1};
}

/* Walk for an access that the TLB's entry, if there is one, does not grant; return 0 if the access
 * stops, with the reason in *stop. */
static int walk_for(hv_engine *e, uint64_t va, uint32_t kind, uint64_t filter, hv_stop *stop,
                    found *out, const payload *entry)
{
    payload fresh;
    int went = walk_plainly(e, va, kind, filter, stop, &fresh);
    if (went < 0)
        went = walk_at_length(e, va, kind, filter, stop, &fresh);
    if (!went) {
        if (entry && (stop->event == HV_EXIT || stop->event == HV_DELIVERED))
            flush_page(e, va);
        return 0;
    }
    *out = found_in(&fresh);
    if (entry && entry->tag == fresh.tag) {
        refresh(e, entry->tag, entry->serial, &fresh);
        return 1;
    }
    if (entry)
        flush_page(e, va); /* the page has changed its size */
    fill(e, &fresh, kind / PF_ID);
    return 1;
}

static int look_further(hv_engine *e, uint64_t va, uint32_t kind, uint64_t filter, hv_stop *stop,
                        found *out)
{
    const payload *entry = find(e, va, kind / PF_ID);
    /* What kinds leaves open is a matter of keys. */
    int keyed = entry && (e->regs.cr4 & CR4_PKE) && ((entry->leaf & PTE_D) || !(kind & PF_W));
    if (entry && ((entry->kinds >> kind & 1) ||
                  (keyed && !hv_permission_fault(&e->regs, access_in(entry->leaf),
                                                 key_in(entry->leaf), kind)))) {
        *out = found_in(entry);
        return 1;
    }
    return walk_for(e, va, kind, filter, stop, out, entry);
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

#define MISSED 2

/* An access that the first level has no 4 KiB entry for, but it has larger ones of something. */
static __attribute__((noinline)) int look_larger(hv_engine *e, uint64_t va, uint32_t kind,
                                                 uint64_t filter, hv_stop *stop, found *out)
{
    const level *first = &e->tlb[kind / PF_ID];
    tlb_set *set = first_set(&e->first, va >> 21, kind / PF_ID);
    if (set->tag == tag_of(va, 1) && (set->kinds >> kind & 1)) {
        *out = (found){base_of(entries_of(set, &first->shape) + set->way), (1ull << SHIFTS[1]) - 1};
        return 1;
    }
    return has_larger(first, va) ? look_further(e, va, kind, filter, stop, out) : MISSED;
}

/* Any access; most are to 4 KiB pages, and are allowed. */
static inline __attribute__((always_inline)) int look_in(hv_engine *e, const tlb_shape *one,
                                                         const tlb_shape *two, uint64_t va,
                                                         uint32_t kind, uint64_t filter,
                                                         hv_stop *stop, found *out)
{
    uint32_t fetch = kind / PF_ID;
    uint64_t page = va >> 12, tag = page << 2;
    level *first = &e->tlb[fetch], *second = &e->tlb[SECOND];
    tlb_set *set = first_set(&e->first, page, fetch);
    uint32_t way = way_of(set, one, tag);
    if (way != NOWHERE) {
        const payload *entry = entries_of(set, one) + way;
        int granted = entry->kinds >> kind & 1;
        if (!granted && (e->regs.cr4 & CR4_PKE))
            return look_further(e, va, kind, filter, stop, out);
        touch(set, one, way, ++e->now);
        if (!granted)
            return walk_for(e, va, kind, filter, stop, out, entry);
        *out = (found){base_of(entry), 0xfff};
        return 1;
    }
    if (!is_small(first) && may_have_larger(first, one, va)) {
        int became = look_larger(e, va, kind, filter, stop, out);
        if (became != MISSED)
            return became;
    }
    tlb_set *behind = set_of(second, two, tag);
    way = way_of(behind, two, tag);
    payload entry;
    if (way != NOWHERE) {
        entry = entries_of(behind, two)[way];
        if (!(entry.kinds >> kind & 1))
            return look_further(e, va, kind, filter, stop, out);
        touch(behind, two, way, ++e->now);
    } else {
        if (!is_small(second) && may_have_larger(second, two, va))
            return look_further(e, va, kind, filter, stop, out);
        int went = walk_plainly(e, va, kind, filter, stop, &entry);
        if (went <= 0)
            return went ? walk_for(e, va, kind, filter, stop, out, NULL) : 0;
        entry.serial = ++e->counts.misses;
        insert(second, two, behind, &entry, ++e->now);
    }
    count_first(e, fetch);
    insert(first, one, set, &entry, ++e->now);
    *out = (found){base_of(&entry), 0xfff};
    return 1;
}

static __attribute__((noinline)) int look_usual(hv_engine *e, uint64_t va, uint32_t kind,
                                                uint64_t filter, hv_stop *stop, found *out)
{
    return look_in(e, &FOUR, &TWELVE, va, kind, filter, stop, out);
}

static __attribute__((noinline)) int look_other(hv_engine *e, uint64_t va, uint32_t kind,
                                                uint64_t filter, hv_stop *stop, found *out)
{
    const level *l = e->tlb;
    return look_in(e, &l[kind / PF_ID].shape, &l[SECOND].shape, va, kind, filter, stop, out);
}

static inline int look(hv_engine *e, uint64_t va, uint32_t kind, uint64_t filter, hv_stop *stop,
                       found *out)
{
    return (e->usual ? look_usual : look_other)(e, va, kind, filter, stop, out);
}

static int may_run(const hv_engine *e, uint64_t start, uint64_t count, hv_stop *stop)
{
    stop->event = e->paging || start >= count ? HV_END : HV_NOT_PAGING;
    return stop->event == HV_END;
}

/* Run accesses from at on that hit their set's most recent 4 KiB entry, as most do; return the index
 * of the first that does not. Such a hit changes nothing. Fetches and others interleave in no
 * pattern that a branch predictor could learn: the side is chosen without a branch. */
static inline __attribute__((always_inline)) uint64_t run_fronts(const hv_engine *e,
                                                                 const uint64_t *gva,
                                                                 const uint8_t *kind, uint64_t at,
                                                                 uint64_t count, uint64_t *landed)
{
    for (; at < count; at++) {
        uint64_t va = gva[at], page = va >> 12;
        uint32_t k = kind[at] & (KINDS - 1), fetch = k / PF_ID;
        tlb_set *set = first_set(&e->first, page, fetch);
        if (set->tag != page << 2 || !(set->kinds >> k & 1))
            break;
        if (landed) {
            const payload *entry = entries_of(set, &e->tlb[fetch].shape) + set->way;
            landed[at] = base_of(entry) | (va & 0xfff);
        }
    }
    return at;
}

/* Both are functions of their own: the loop's values stay in registers. */

static __attribute__((noinline)) uint64_t run_fronts_only(const hv_engine *e, const uint64_t *gva,
                                                          const uint8_t *kind, uint64_t at,
                                                          uint64_t count)
{
    return run_fronts(e, gva, kind, at, count, NULL);
}

static __attribute__((noinline)) uint64_t land_fronts(const hv_engine *e, const uint64_t *gva,
                                                      const uint8_t *kind, uint64_t at,
                                                      uint64_t count, uint64_t *landed)
{
    return run_fronts(e, gva, kind, at, count, landed);
}

uint64_t hv_run(hv_engine *e, const uint64_t *gva, const uint8_t *kind, uint64_t start,
                uint64_t count, uint64_t *landed, uint64_t exit_filter, hv_stop *stop)
{
    if (!may_run(e, start, count, stop))
        return start;
    for (uint64_t at = start;; at++) {
        at = landed ? land_fronts(e, gva, kind, at, count, landed)
                    : run_fronts_only(e, gva, kind, at, count);
        found page;
        if (at == count || !look(e, gva[at], kind[at] & (KINDS - 1), exit_filter, stop, &page))
            return at;
        if (landed)
            landed[at] = page.base | (gva[at] & page.mask);
    }
}

static __attribute__((noinline)) int32_t run_one_slowly(hv_engine *e, uint64_t va, uint32_t kind,
                                                        uint64_t *hpa, uint64_t exit_filter,
                                                        hv_stop *stop)
{
    found page;
    if (!may_run(e, 0, 1, stop) || !look(e, va, kind, exit_filter, stop, &page))
        return 0;
    *hpa = page.base | (va & page.mask);
    return 1;
}

/* Say where an access lands that hits the most recent entry of its set in the first level: such a
 * hit changes nothing. A large page is what a kernel's direct map comes to, where no 4 KiB page of
 * it is apart. */
static inline int hit_first(const hv_engine *e, uint64_t va, uint32_t kind, uint64_t *hpa)
{
    uint32_t fetch = kind / PF_ID;
    tlb_set *set = first_set(&e->first, va >> 12, fetch);
    tlb_set *large = first_set(&e->first, va >> 21, fetch);
    if (set->tag == tag_of(va, 0) && (set->kinds >> kind & 1))
        *hpa = base_of(entries_of(set, &FOUR) + set->way) | (va & 0xfff);
    else if (large->tag == tag_of(va, 1) && (large->kinds >> kind & 1) &&
             !group_of(set->marks, tag_of(va, 0)))
        *hpa = base_of(entries_of(large, &FOUR) + large->way) | (va & ((1ull << SHIFTS[1]) - 1));
    else
        return 0;
    return 1;
}

int32_t hv_run_one(hv_engine *e, uint64_t va, uint32_t kind, uint64_t *hpa, uint64_t exit_filter,
                   hv_stop *stop)
{
    if (!e->paging || !e->usual || !hit_first(e, va, kind, hpa))
        return run_one_slowly(e, va, kind, hpa, exit_filter, stop);
    stop->event = HV_END;
    return 1;
}

uint32_t hv_read_at_once(const hv_engine *e, const uint64_t *gva, uint64_t *hpa, uint32_t count)
{
    uint32_t at = 0;
    if (!e->paging || !e->usual)
        return 0;
    while (at < count && hit_first(e, gva[at], 0, hpa + at))
        at++;
    return at;
}

/* Use the entry that a set of four ways has for a 4 KiB page, and show it; 0 if there is none. */
static inline int use_of_four(tlb_set *set, uint64_t tag, uint32_t kind, uint64_t *now)
{
    uint32_t way = lowest(group_of(set->marks, tag) | 1u << (GROUP - 1));
    const payload *entry = entries_of(set, &FOUR) + way;
    if (entry->tag != tag || !(entry->kinds >> kind & 1))
        return 0;
    touch(set, &FOUR, way, ++*now);
    return 1;
}

uint64_t hv_run_sites(hv_engine *e, const uint16_t *kept, const uint64_t *site_gva,
                      const uint8_t *site_kind, uint64_t start, uint64_t count,
                      uint64_t exit_filter, hv_stop *stop)
{
    const sides s = e->first;
    const int usual = e->usual;
    uint64_t now = e->now;
    if (!may_run(e, start, count, stop))
        return start;
    for (uint64_t at = start; at < count; at++) {
        uint64_t va = site_gva[kept[at]], page = va >> 12;
        uint32_t k = site_kind[kept[at]] & (KINDS - 1);
        if (usual && use_of_four(first_set(&s, page, k / PF_ID), page << 2, k, &now))
            continue;
        found ignored;
        e->now = now;
        if (!look(e, va, k, exit_filter, stop, &ignored))
            return at;
        now = e->now;
    }
    e->now = now;
    return count;
}

/* Making and reading an engine. */

/* Registers have changed that say what a set's entries grant. */
static void grant_again(const hv_engine *e, const level *l, tlb_set *set)
{
    payload *entries = entries_of(set, &l->shape);
    for (uint32_t way = 0; way < l->shape.ways; way++) {
        entries[way].kinds = kinds_of(e, entries[way].leaf);
        if (set->marks[way] != NO_MARK)
            show_again(l, set, way);
    }
}

static int is_shaped(const level *l, const tlb_shape *shape)
{
    return !memcmp(&l->shape, shape, sizeof *shape);
}

void hv_load_regs(hv_engine *e, const hv_regs *regs, const hv_formats *formats)
{
    hv_regs old = e->regs;
    e->regs = *regs;
    old.cr3 = regs->cr3;
    if (!memcmp(&old, regs, sizeof old) && e->paging == (formats != NULL))
        return; /* the root alone has changed */
    e->paging = formats != NULL;
    hv_forget_trails(e->trails);
    if (formats)
        e->formats = *formats;
    e->global = regs->cr4 & CR4_PGE ? PTE_G : 0;
    hv_forget_uppers(e->uppers);
    e->plain = formats && formats->depth == 4 && formats->entry_size == 8;
    e->plain_link = e->formats.reserved[2] | PTE_PS | PTE_P | PTE_A;
    e->plain_entry = e->formats.reserved[1];
    e->shown = (regs->efer & EFER_NXE) || (regs->cr4 & CR4_SMEP) ? ~0u : ~PF_ID;
    /* With protection keys on, data accesses to user pages are left to the full check. */
    for (uint32_t access = 0; access < KINDS; access++) {
        e->allowed[access] = 0;
        for (uint32_t kind = 0; kind < KINDS; kind++) {
            int keyed = (regs->cr4 & CR4_PKE) && (access & PF_U) && !(kind & PF_ID);
            if (!keyed && !hv_permission_fault(regs, access, 0, kind))
                e->allowed[access] |= 1u << kind;
        }
    }
    for (int l = 0; l < LEVELS; l++) {
        level *each = &e->tlb[l];
        for (uint32_t nth = 0; nth < each->filled; nth++)
            grant_again(e, each, nth_set(each, &each->shape, each->filled_sets[nth]));
    }
}

hv_engine *hv_new(uint8_t *memory, uint64_t size, hv_geometry instruction, hv_geometry data,
                  hv_geometry second)
{
    hv_engine *e = calloc(1, sizeof *e);
    if (!e)
        return NULL;
    e->space.bytes = memory;
    e->space.size = size;
    hv_forget_trails(e->trails);
    hv_forget_uppers(e->uppers);
    if (!make_level(&e->tlb[INSTRUCTION], instruction.sets, instruction.ways, 1) ||
        !make_level(&e->tlb[DATA], data.sets, data.ways, 1) ||
        !make_level(&e->tlb[SECOND], second.sets, second.ways, 0)) {
        hv_free(e);
        return NULL;
    }
    for (int fetch = 0; fetch < 2; fetch++) {
        const level *l = &e->tlb[fetch];
        e->first.masks[fetch] = l->mask;
        e->first.sizes[fetch] = l->shape.size;
        e->first.sets[fetch] = l->sets;
    }
    e->usual = is_shaped(&e->tlb[DATA], &FOUR) && is_shaped(&e->tlb[INSTRUCTION], &FOUR) &&
               is_shaped(&e->tlb[SECOND], &TWELVE);
    return e;
}

void hv_free(hv_engine *e)
{
    if (!e)
        return;
    for (int l = 0; l < LEVELS; l++)
        free_level(&e->tlb[l]);
    free(e);
}

const hv_counts *hv_counts_of(const hv_engine *e) { return &e->counts; }
