/* The guest's page tables: walked, built and pruned through the direct map. Entries in use are counted
 * by table, as a kernel counts them in the frame's own record: an empty table is found without a scan.
 */

#include "guest_parts.h"

static uint16_t *used_of(const hv_guest *g, uint64_t table)
{
    return table < g->tables.end ? g->used + table / PAGE : NULL;
}

int32_t hv_adopt_root(hv_guest *g, uint64_t root)
{
    uint16_t *used = used_of(g, root);
    if (!used)
        return hv_guest_fails(g, HV_GUEST_NO_TABLE, root);
    *used = 1;
    return HV_GUEST_DONE;
}

int32_t hv_new_root(hv_guest *g, const hv_guest_cpu *cpu, uint64_t like, uint64_t *root)
{
    uint64_t kernel = hv_slot(0, GUEST_KERNEL_BASE, GUEST_ROOT_LEVEL), entry;
    int32_t wrong = hv_take_table(g, cpu, root);
    if (wrong)
        return wrong;
    wrong = hv_read_entry(g, cpu, like + kernel, &entry);
    if (wrong)
        return wrong;
    wrong = hv_guest_ran(g, cpu->store(cpu->self, hv_direct(*root + kernel), entry));
    return wrong ? wrong : hv_adopt_root(g, *root);
}

int32_t hv_free_root(hv_guest *g, uint64_t root)
{
    uint16_t *used = used_of(g, root);
    if (!used || *used != 1)
        return hv_guest_fails(g, HV_GUEST_NO_TABLE, root);
    *used = 0;
    hv_give_table(g, root);
    return HV_GUEST_DONE;
}

int32_t hv_write_entry(hv_guest *g, const hv_guest_cpu *cpu, uint64_t at, uint64_t old, uint64_t new)
{
    uint16_t *used = used_of(g, at);
    int32_t wrong = hv_guest_ran(g, cpu->store(cpu->self, hv_direct(at), new));
    if (wrong)
        return wrong;
    if (!used || !*used)
        return hv_guest_fails(g, HV_GUEST_NO_TABLE, at & -PAGE);
    *used = (uint16_t)(*used + !!new - !!old);
    return HV_GUEST_DONE;
}

/* Make a table and link it at a slot that is empty. */
static int32_t link_new(hv_guest *g, const hv_guest_cpu *cpu, uint64_t at, uint64_t *table)
{
    int32_t wrong = hv_take_table(g, cpu, table);
    if (wrong)
        return wrong;
    *used_of(g, *table) = 1;
    /* Every permission is left to the leaf. */
    uint64_t link = *table | PTE_P | PTE_W | PTE_U;
    return hv_write_entry(g, cpu, at, 0, link | (g->params.set_accessed_dirty ? PTE_A : 0));
}

int32_t hv_descend(hv_guest *g, const hv_guest_cpu *cpu, uint64_t gva, uint64_t table,
                   int32_t level, uint64_t *at)
{
    for (; level > 1; level--) {
        uint64_t where = hv_slot(table, gva, level), entry;
        int32_t wrong = hv_read_entry(g, cpu, where, &entry);
        if (wrong)
            return wrong;
        table = entry & PTE_ADDRESS;
        if (!entry)
            wrong = link_new(g, cpu, where, &table);
        if (wrong)
            return wrong;
    }
    *at = hv_slot(table, gva, 1);
    return HV_GUEST_DONE;
}

int32_t hv_leaf_slot(hv_guest *g, const hv_guest_cpu *cpu, uint64_t root, uint64_t gva, uint64_t *at)
{
    return hv_descend(g, cpu, gva, root, GUEST_ROOT_LEVEL, at);
}

void hv_begin_leaves(hv_leaf_walk *w, uint64_t root, uint64_t start, uint64_t end)
{
    *w = (hv_leaf_walk){.gva = start, .end = end, .level = GUEST_ROOT_LEVEL};
    w->tables[GUEST_ROOT_LEVEL] = root;
}

/* Go on behind the entry for w->gva in the table of w->level, in the lowest table that has more. */
static void advance(hv_leaf_walk *w)
{
    uint64_t span = 1ull << hv_slot_shift(w->level);
    w->gva = (w->gva & -span) + span;
    while (w->level < (int32_t)GUEST_ROOT_LEVEL && !(w->gva & ((1ull << hv_slot_shift(w->level + 1)) - 1)))
        w->level++;
}

int32_t hv_next_leaf(hv_guest *g, const hv_guest_cpu *cpu, hv_leaf_walk *w)
{
    w->entry = 0;
    while (!w->entry && w->gva < w->end) {
        uint64_t at = hv_slot(w->tables[w->level], w->gva, w->level), entry;
        int32_t wrong = hv_read_entry(g, cpu, at, &entry);
        if (wrong)
            return wrong;
        if (entry && w->level > 1) {
            w->tables[--w->level] = entry & PTE_ADDRESS;
            continue;
        }
        w->at = at;
        w->entry = entry;
        w->page = w->gva;
        advance(w);
    }
    return HV_GUEST_DONE;
}

/* Unlink the table at a slot if it is empty. */
static int32_t unlink_empty(hv_guest *g, const hv_guest_cpu *cpu, uint64_t at, uint64_t entry)
{
    uint16_t *used = used_of(g, entry & PTE_ADDRESS);
    if (!used || *used != 1)
        return HV_GUEST_DONE;
    int32_t wrong = hv_write_entry(g, cpu, at, entry, 0);
    if (wrong)
        return wrong;
    *used = 0;
    g->unlinked[g->unlinked_count++] = (uint32_t)((entry & PTE_ADDRESS) / PAGE);
    return HV_GUEST_DONE;
}

/* Prune below the entries of a table that meet the range, the lowest tables first. */
static int32_t prune(hv_guest *g, const hv_guest_cpu *cpu, uint64_t table, int32_t level,
                     uint64_t start, uint64_t end)
{
    uint64_t span = 1ull << hv_slot_shift(level);
    for (uint64_t low = start & -span; low < end; low += span) {
        uint64_t at = hv_slot(table, low, level), entry;
        int32_t wrong = hv_read_entry(g, cpu, at, &entry);
        if (!wrong && entry && level > 2)
            wrong = prune(g, cpu, entry & PTE_ADDRESS, level - 1, low > start ? low : start,
                          low + span < end ? low + span : end);
        if (!wrong && entry)
            wrong = unlink_empty(g, cpu, at, entry);
        if (wrong)
            return wrong;
    }
    return HV_GUEST_DONE;
}

int32_t hv_prune(hv_guest *g, const hv_guest_cpu *cpu, uint64_t root, uint64_t start, uint64_t end)
{
    return prune(g, cpu, root, GUEST_ROOT_LEVEL, start, end);
}

void hv_free_unlinked(hv_guest *g)
{
    for (uint64_t nth = 0; nth < g->unlinked_count; nth++)
        hv_give_table(g, g->unlinked[nth] * PAGE);
    g->unlinked_count = 0;
}
