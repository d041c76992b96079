/* The compiled engine: the reference engine's semantics, access by access, in C.
 *
 * spec/tlb.py and spec/engine.py say in words what is done here; the tests hold the two
 * against each other. Nothing here knows of guests, shadow tables or vendors.
 */

#include <stdint.h>
#include <stdlib.h>
#include <string.h>

#include "arch.h"
#include "thread.h"
#include "tlb.h"
#include "walk_inline.h"
#include "walk_cache.h"
#include "thread_inline.h"
#include "miss.h"
#include "lookup.h"

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

static int may_run(const hv_engine *e, uint64_t start, uint64_t count, hv_stop *stop)
{
    stop->event = e->paging || start >= count ? HV_END : HV_NOT_PAGING;
    return stop->event == HV_END;
}

/* Run accesses from at on that are of what their sets show, as most are, which changes nothing;
 * return the index of the first that is not. It is a function of its own: the loop's values stay in
 * registers. Fetches and others interleave in no pattern that a branch predictor could learn: the
 * side is chosen without a branch. */
static __attribute__((noinline)) uint64_t run_shown(const shows *s, const uint64_t *gva,
                                                    const uint8_t *kind, uint64_t at,
                                                    uint64_t count)
{
    for (; at < count; at++) {
        uint64_t page = gva[at] >> 12, shown;
        uint32_t k = kind[at] & (KINDS - 1);
        memcpy(&shown, s->shown[k] + (page & s->masks[k]) * s->sizes[k], 8);
        if (shown != key_of(page << 2, k))
            break;
    }
    return at;
}

static uint64_t run_landing(hv_engine *e, const uint64_t *gva, const uint8_t *kind, uint64_t at,
                            uint64_t count, uint64_t *landed, uint64_t exit_filter, hv_stop *stop)
{
    while (at < count && hv_run_one(e, gva[at], kind[at], landed + at, exit_filter, stop))
        at++;
    return at;
}

uint64_t hv_run(hv_engine *e, const uint64_t *gva, const uint8_t *kind, uint64_t start,
                uint64_t count, uint64_t *landed, uint64_t exit_filter, hv_stop *stop)
{
    if (!may_run(e, start, count, stop))
        return start;
    if (landed)
        return run_landing(e, gva, kind, start, count, landed, exit_filter, stop);
    outcome out = {.filter = exit_filter, .stop = stop};
    for (uint64_t at = start;; at++) {
        at = run_shown(&e->shown, gva, kind, at, count);
        if (at == count || !look(e, gva[at], kind[at] & (KINDS - 1), &out))
            return at;
    }
}

int32_t hv_run_one(hv_engine *e, uint64_t va, uint32_t kind, uint64_t *hpa, uint64_t exit_filter,
                   hv_stop *stop)
{
    outcome out = {.filter = exit_filter, .stop = stop};
    if (!may_run(e, 0, 1, stop) || !look(e, va, kind & (KINDS - 1), &out))
        return 0;
    *hpa = out.base | (va & out.mask);
    return 1;
}

/* Say where a supervisor's read lands that hits the most recent entry of its set in the first level,
 * which changes nothing. The entry of a large page counts where no 4 KiB page of it is in the set. */
static inline int read_most_recent(const hv_engine *e, uint64_t va, uint64_t *hpa)
{
    tlb_set *set = first_set(&e->first, &FOUR, va >> 12, DATA);
    tlb_set *large = first_set(&e->first, &FOUR, va >> 21, DATA);
    if (shown_of(set, &FOUR)[0] == key_of(tag_of(va, 0), 0))
        *hpa = base_of(entries_of(set, &FOUR) + set->way) | (va & 0xfff);
    else if (shown_of(large, &FOUR)[0] == key_of(tag_of(va, 1), 0) &&
             !group_of(set->marks, tag_of(va, 0)))
        *hpa = base_of(entries_of(large, &FOUR) + large->way) | (va & ((1ull << SHIFTS[1]) - 1));
    else
        return 0;
    return 1;
}

uint32_t hv_read_at_once(const hv_engine *e, const uint64_t *gva, uint64_t *hpa, uint32_t count)
{
    uint32_t at = 0;
    if (!e->paging || !e->usual)
        return 0;
    while (at < count && read_most_recent(e, gva[at], hpa + at))
        at++;
    return at;
}

/* Use the entry that a set of four ways has for a 4 KiB page; 0 if there is none. */
static inline int use_of_four(tlb_set *set, uint64_t tag, uint32_t kind, uint64_t *now)
{
    uint32_t hits = group_of(set->marks, tag);
    if (!hits) /* that is known before the entry is */
        return 0;
    uint32_t way = lowest(hits);
    const payload *entry = entries_of(set, &FOUR) + way;
    if (entry->tag != tag || !(entry->kinds >> kind & 1))
        return 0;
    touch(set, &FOUR, way, ++*now);
    hide(set, &FOUR);
    return 1;
}

#define STRETCH 64u /* accesses from one look at how many missed to the next */
#define AHEAD 6u    /* accesses that pass while the CPU loads what one of them will want */

/* Have the CPU load what an access will want that misses, and the site of a later one. Were it not
 * always inline, GCC would find that its calls do nothing. */
static inline __attribute__((always_inline)) void load_ahead(hv_engine *e, const uint16_t *kept,
                                                             const uint64_t *site_gva,
                                                             const uint8_t *site_kind)
{
    uint64_t va = site_gva[kept[AHEAD]];
    uint16_t later = kept[2 * AHEAD];
    __builtin_prefetch(site_gva + later);
    __builtin_prefetch(site_kind + later);
    __builtin_prefetch(set_of(&e->tlb[SECOND], &TWELVE, tag_of(va, 0)));
    __builtin_prefetch(likely_entry(&e->space, e->walks, va));
}

/* Run accesses up to end, of which many will miss, or not. */
static inline __attribute__((always_inline)) uint64_t run_stretch(
    hv_engine *e, const uint16_t *kept, const uint64_t *site_gva, const uint8_t *site_kind,
    uint64_t at, uint64_t end, int many_miss, outcome *out)
{
    const sides s = e->first;
    const int usual = e->usual;
    uint64_t now = e->now;
    for (; at < end; at++) {
        uint64_t va = site_gva[kept[at]], page = va >> 12;
        uint32_t k = site_kind[kept[at]] & (KINDS - 1);
        if (many_miss)
            load_ahead(e, kept + at, site_gva, site_kind);
        if (usual && use_of_four(first_set(&s, &FOUR, page, k / PF_ID), page << 2, k, &now))
            continue;
        e->now = now;
        if (!look(e, va, k, out))
            return at;
        now = e->now;
    }
    e->now = now;
    return end;
}

uint64_t hv_run_sites(hv_engine *e, const uint16_t *kept, const uint64_t *site_gva,
                      const uint8_t *site_kind, uint64_t start, uint64_t count,
                      uint64_t exit_filter, hv_stop *stop)
{
    outcome out = {.filter = exit_filter, .stop = stop};
    int many_miss = 0;
    if (!may_run(e, start, count, stop))
        return start;
    for (uint64_t at = start, end;; at = end) {
        uint64_t misses = e->counts.misses;
        end = at + STRETCH < count ? at + STRETCH : count;
        if (many_miss && count - end >= 2 * AHEAD)
            at = run_stretch(e, kept, site_gva, site_kind, at, end, 1, &out);
        else
            at = run_stretch(e, kept, site_gva, site_kind, at, end, 0, &out);
        if (at < end || end == count)
            return at;
        many_miss = e->usual && e->counts.misses - misses > STRETCH / 4;
    }
}

void hv_touch(hv_engine *e, uint64_t va, uint32_t kind)
{
    level *first = &e->tlb[kind / PF_ID & 1];
    take(first, tag_of(va, 0), ++e->now);
}

/* Making and reading an engine. */

/* Registers have changed that say what a set's entries grant. */
static void grant_again(const hv_engine *e, const level *l, tlb_set *set)
{
    payload *entries = entries_of(set, &l->shape);
    for (uint32_t way = 0; way < l->shape.ways; way++)
        entries[way].kinds = kinds_of(e, access_in_leaf(entries[way].leaf), entries[way].leaf);
    if (l->shape.is_first)
        hide(set, &l->shape);
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
    if (formats)
        e->formats = *formats;
    e->is_long4 = formats && formats->depth == 4;
    e->kept = PTE_D | PTE_PKEY | (regs->cr4 & CR4_PGE ? PTE_G : 0);
    forget_walks(e->walks);
    hv_grants_of(regs, e->allowed);
    for (int l = 0; l < LEVELS; l++) {
        level *each = &e->tlb[l];
        for (uint32_t nth = 0; nth < each->filled; nth++)
            grant_again(e, each, nth_set(each, &each->shape, each->filled_sets[nth]));
    }
}

void hv_set_engine_root(hv_engine *e, uint64_t root) { e->regs.cr3 = root; }

static void set_side(hv_engine *e, int fetch)
{
    const level *l = &e->tlb[fetch];
    e->first.masks[fetch] = l->mask;
    e->first.sets[fetch] = l->sets;
    for (uint32_t kind = fetch ? PF_ID : 0; kind < (fetch ? KINDS : PF_ID); kind++) {
        e->shown.masks[kind] = l->mask;
        e->shown.sizes[kind] = l->shape.size;
        e->shown.shown[kind] = l->sets + l->shape.shown + (kind & PF_W ? sizeof(uint64_t) : 0);
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
    forget_walks(e->walks);
    if (!make_level(&e->tlb[INSTRUCTION], instruction.sets, instruction.ways, 1) ||
        !make_level(&e->tlb[DATA], data.sets, data.ways, 1) ||
        !make_level(&e->tlb[SECOND], second.sets, second.ways, 0)) {
        hv_free(e);
        return NULL;
    }
    for (int fetch = 0; fetch < 2; fetch++)
        set_side(e, fetch);
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

uint32_t hv_translations(const hv_engine *e, hv_translation *out, uint32_t room)
{
    uint32_t count = 0;
    for (int n = 0; n < LEVELS; n++) {
        const level *l = &e->tlb[n];
        for (uint32_t nth = 0; nth < l->filled; nth++) {
            tlb_set *set = nth_set(l, &l->shape, l->filled_sets[nth]);
            const payload *entries = entries_of(set, &l->shape);
            for (uint32_t way = 0; way < l->shape.ways; way++) {
                if (set->marks[way] == NO_MARK)
                    continue;
                if (count < room)
                    out[count] = (hv_translation){entries[way].tag, entries[way].leaf};
                count++;
            }
        }
    }
    return count;
}

const hv_counts *hv_counts_of(const hv_engine *e) { return &e->counts; }
