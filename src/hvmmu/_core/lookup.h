/* How an access is looked up. What nearly every access is comes last, and asks those before it.
 *
 * It comes after fill.h.
 */

#include <stdint.h>

static int look_further(hv_engine *e, uint64_t va, uint32_t kind, outcome *out)
{
    const payload *entry = find(e, va, kind);
    /* What kinds leaves open is a matter of keys. */
    int keyed = entry && (e->regs.cr4 & CR4_PKE) && ((entry->leaf & PTE_D) || !(kind & PF_W));
    if (entry && ((entry->kinds >> kind & 1) ||
                  (keyed && !hv_permission_fault(&e->regs, access_in_leaf(entry->leaf),
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
        int went = walk_from_cache(e, va, kind, out, &entry);
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
    tlb_set *set = first_set(&e->first, one, va >> SHIFTS[1], kind / PF_ID);
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
    tlb_set *set = first_set(&e->first, one, va >> 12, kind / PF_ID);
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
