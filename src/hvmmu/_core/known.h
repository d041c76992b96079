/* Stores into tables that are shadowed, of which there are many: each entry that a guest changes.
 *
 * That a page of the guest's is such a table, and the store therefore to be emulated, is told by the
 * guest's entries on the way there, by the shadow's leaf, and by the shadow pages and links between.
 * The former two are read again; changes of the latter are counted.
 */

#include <stdint.h>
#include <string.h>

#define KNOWN 64u /* tables, by the page that a store is to */
#define NOT_AD (~(PTE_A | PTE_D))

static inline hv_known *known_of(hv_mmu *m, uint64_t gva)
{
    return m->known + (gva >> 12 & (KNOWN - 1));
}

/* For when registers change other than CR3. */
static inline void forget_known(hv_mmu *m)
{
    for (uint32_t at = 0; at < KNOWN; at++)
        m->known[at].page = ~0ull;
}

/* Return whether all is as it was at the last such store; then *out says what becomes of this one. */
static inline int is_known(hv_mmu *m, uint64_t gva, uint32_t pfec, hv_handled *out)
{
    const hv_known *k = known_of(m, gva);
    hv_pages *pages = m->pages;
    if (k->page != gva >> 12 || k->pfec != pfec || k->changes != pages->changes ||
        k->cr3 != m->regs.cr3 || k->root != m->root)
        return 0;
    uint64_t changed = (read_entry(pages, k->sptep) & NOT_AD) ^ k->spte, entry;
    for (uint32_t i = 0; i < k->refs; i++) {
        memcpy(&entry, pages->ram + k->at[i], 8);
        changed |= entry ^ k->entry[i];
    }
    if (changed)
        return 0;
    for (uint32_t i = 0; i < k->passed; i++)
        pages->pages[k->on_way[i]].write_flooding = 0;
    *out = (hv_handled){.route = EMULATE, .cause = TABLE_WRITE, .pfec = pfec, .level = k->level,
                        .walk_refs = k->refs, .gpa = k->gpa | (gva & 0xfff)};
    return 1;
}

/* Keep what a store was found by that changed neither table but for what it stores. */
static inline void know(hv_mmu *m, uint64_t gva, uint32_t pfec, const hv_walked *found)
{
    hv_known *k = known_of(m, gva);
    *k = (hv_known){.page = gva >> 12, .pfec = pfec, .changes = m->pages->changes,
                    .cr3 = m->regs.cr3, .root = m->root, .level = found->level, .refs = found->refs,
                    .gpa = found->pa & ~0xfffull};
    for (uint32_t i = 0; i < found->refs; i++) {
        k->at[i] = found->path[i].pa;
        k->entry[i] = found->path[i].entry;
    }
    uint32_t page = m->root;
    for (uint32_t level = ROOT_LEVEL; page; level--) {
        k->on_way[k->passed++] = page;
        k->sptep = sptep_of(page, gva, level);
        page = hv_child(m->pages, k->sptep);
    }
    k->spte = read_entry(m->pages, k->sptep) & NOT_AD;
}
