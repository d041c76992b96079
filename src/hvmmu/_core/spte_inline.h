/* What is asked of shadow entries at every fault: of pages.c, but inline. */

#include <stdint.h>
#include <string.h>

#define ROOT_LEVEL 4u

static inline uint32_t shift_of(uint32_t level) { return 3 + 9 * level; }

static inline uint64_t sptep_of(uint32_t page, uint64_t gva, uint32_t level)
{
    return page * 4096ull + 8 * (gva >> shift_of(level) & 511);
}

static inline uint64_t read_entry(const hv_pages *p, uint64_t sptep)
{
    uint64_t spte;
    memcpy(&spte, p->memory + sptep, 8);
    return spte;
}

static inline int is_present(const hv_pages *p, uint64_t spte)
{
    return spte != p->trap && spte != p->notrap;
}

/* Say whether gfn is shadowed as a page table. */
static inline int is_table(const hv_pages *p, uint64_t gfn)
{
    for (uint32_t page = p->by_gfn[gfn]; page; page = p->pages[page].next)
        if (!(p->pages[page].role & HV_ROLE_DIRECT))
            return 1;
    return 0;
}
