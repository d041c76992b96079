/* What every fault asks of the books in shadow_page.h, inline. */

#pragma once

#include <stdint.h>
#include <string.h>

#include "shadow_page.h"

#define PAGE 4096ull
#define ENTRIES 512u  /* of a table; frames in a page of 2 MiB too */
#define ROOT_LEVEL 4u
#define NOWHERE (~0ull)

static inline uint32_t shift_of(uint32_t level) { return 3 + 9 * level; }

static inline uint32_t level_of(const hv_pages *p, uint32_t page)
{
    return p->pages[page].role & HV_ROLE_LEVEL;
}

/* Entries. */

static inline uint64_t sptep_of(uint32_t page, uint64_t gva, uint32_t level)
{
    return page * PAGE + 8 * (gva >> shift_of(level) & (ENTRIES - 1));
}

static inline uint64_t read_entry(const hv_pages *p, uint64_t sptep)
{
    uint64_t spte;
    memcpy(&spte, p->memory + sptep, 8);
    return spte;
}

/* Presence is the value's, not P's: trap may have P set. */
static inline int is_present(const hv_pages *p, uint64_t spte)
{
    return spte != p->trap && spte != p->notrap;
}

static inline uint32_t page_of(uint64_t link) { return (uint32_t)((link & PTE_ADDRESS) / PAGE); }

/* Guest memory. */

static inline const hv_memslot *slot_of(const hv_pages *p, uint64_t gpa)
{
    for (const hv_memslot *s = p->slots, *end = s + p->slot_count; s < end; s++)
        if (gpa - s->gpa < s->size)
            return s;
    return NULL;
}

/* Return where gpa lies in host memory, NOWHERE in a hole. */
static inline uint64_t hpa_of(const hv_pages *p, uint64_t gpa)
{
    const hv_memslot *s = slot_of(p, gpa);
    return s ? gpa - s->gpa + s->hpa : NOWHERE;
}

static inline uint64_t index_of(const hv_pages *p, uint64_t hpa)
{
    return hpa / PAGE - p->first_frame;
}

static inline uint64_t index_of_gfn(const hv_pages *p, uint64_t gfn)
{
    uint64_t hpa = hpa_of(p, gfn * PAGE);
    return hpa == NOWHERE ? p->frames : index_of(p, hpa);
}

/* Say whether the guest frame at hpa is shadowed as a page table, so that writes to it must exit. */
static inline int is_table(const hv_pages *p, uint64_t hpa)
{
    for (uint32_t page = p->shadows[index_of(p, hpa)]; page; page = p->pages[page].next)
        if (!(p->pages[page].role & HV_ROLE_DIRECT))
            return 1;
    return 0;
}
