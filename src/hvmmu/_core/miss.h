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

/* Cache a translation that no level holds. */
static void fill(hv_engine *e, payload *fresh, uint32_t kind)
{
    level *l = &e->tlb[SECOND];
    fresh->serial = ++e->counts.misses;
    insert(l, &l->shape, set_of(l, &l->shape, fresh->tag), fresh, kind, ++e->now);
    put_first(e, fresh, kind);
}

/* Make what a TLB may keep of a walk to a page of 4 KiB << 9 * size, at base. */
static inline void make_entry(const hv_engine *e, uint64_t va, int size, uint64_t base,
                              uint64_t marked, uint32_t access, payload *out)
{
    out->tag = tag_of(va, size);
    out->leaf = base | (marked & e->kept) | access;
    out->kinds = kinds_of(e, access, marked);
}

/* Each of the walks below returns 1 with what a TLB may keep; or 0 if the access stops, with the reason
 * in its hv_stop. */

static int end_miss(hv_engine *e, const hv_walked *w, uint64_t va, uint32_t kind,
                    const outcome *at_stop, payload *out)
{
    e->counts.walk_refs += w->refs;
    if (w->ok && !w->marked)
        hv_set_accessed_dirty(&e->space, &e->formats, w, kind);
    if (!w->ok || w->pa >= e->space.size) {
        stop_at(at_stop, w, va, kind);
        return 0;
    }
    int size = (int)w->level - 1;
    uint64_t dirty = (kind & PF_W) * (PTE_D / PF_W);
    make_entry(e, va, size, w->pa & -(1ull << SHIFTS[size]), w->path[w->refs - 1].entry | dirty,
               w->access, out);
    return 1;
}

static __attribute__((noinline)) int walk_in_any_mode(hv_engine *e, uint64_t va, uint32_t kind,
                                                      const outcome *at_stop, payload *out)
{
    hv_walked w;
    hv_walk(&e->space, &e->regs, &e->formats, va, kind, &w);
    return end_miss(e, &w, va, kind, at_stop, out);
}

static __attribute__((noinline)) int walk_from_root(hv_engine *e, uint64_t va, uint32_t kind,
                                                    const outcome *at_stop, payload *out)
{
    hv_walked w;
    if (!e->is_long4)
        return walk_in_any_mode(e, va, kind, at_stop, out);
    hv_walk_long4(&e->space, &e->regs, &e->formats, e->allowed, va, kind, &w);
    if (!(e->regs.cr4 & CR4_PKE)) /* a cached walk looks at no keys */
        keep_walk(cached_walk_of(e->walks, va), &e->space, va, e->regs.cr3, &w);
    return end_miss(e, &w, va, kind, at_stop, out);
}

/* Nearly every walk is one of four levels to a page of 4 KiB, whose upper half is cached, A being set in
 * all entries but the last. Return as the others do; or -1, with no effect, where it is another. */
static ALWAYS_INLINE int walk_from_cache(hv_engine *e, uint64_t va, uint32_t kind,
                                         const outcome *at_stop, payload *out)
{
    const cached_walk *c = cached_walk_of(e->walks, va);
    const hv_space flat = {e->space.bytes, e->space.size, NULL};
    const hv_formats *f = &e->formats;
    hv_step path[2];
    uint32_t pfec = 0;
    if (!is_current(c, va, e->regs.cr3))
        return -1;
    const last_entry last = walk64_descend(&flat, f, va, 2, c->table, c->bits, path);
    const uint64_t marked = marked_leaf(last, kind), base = marked & PTE_ADDRESS;
    if (last.level > 1 || !(path[0].entry & PTE_A) || base >= e->space.size)
        return -1;
    const int end = end_of_walk(&e->regs, f, e->allowed, 0, kind, last, &pfec);
    e->counts.walk_refs += 4;
    if (end != WALK_OK)
        return stop_by(at_stop, va, kind, pfec, 1, access_in(last.bits));
    if (marked != last.entry)
        memcpy(e->space.bytes + path[1].pa, &marked, 8);
    make_entry(e, va, 0, base, marked, access_in(last.bits), out);
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
    int went = walk_from_cache(e, va, kind, out, &fresh);
    if (went < 0)
        went = walk_from_root(e, va, kind, out, &fresh);
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
