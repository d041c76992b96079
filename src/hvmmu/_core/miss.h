/* Walks for accesses that the TLB does not grant: they fill it, or the access stops.
 *
 * It comes after engine.h.
 */

#include <stdint.h>
#include <string.h>

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
    hv_walked w;
    hv_walk(&e->space, &e->regs, &e->formats, va, kind, &w);
    if (w.ok)
        hv_set_accessed_dirty(&e->space, &e->formats, &w, kind);
    e->counts.walk_refs += w.refs;
    if (!w.ok || w.pa >= e->space.size) {
        stop_at(at_stop, &w, va, kind);
        return 0;
    }
    int size = (int)w.level - 1;
    out->tag = tag_of(va, size);
    out->leaf = (w.pa & -(1ull << SHIFTS[size])) | w.access | (uint64_t)w.pkey << PTE_PKEY_SHIFT |
                (w.dirty ? PTE_D : 0) | (w.global ? PTE_G : 0);
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
