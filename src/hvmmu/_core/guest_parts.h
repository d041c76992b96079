/* What the parts of the guest's kernel share. */
#pragma once

#include <stddef.h>

#include "guest.h"
#include "guest_callbacks.h"

#define PAGE 4096ull /* bytes */

/* Note what is wrong, and with which address; return it. */
static inline int32_t hv_guest_fails(hv_guest *g, int32_t wrong, uint64_t value)
{
    g->wrong = wrong;
    g->value = value;
    return wrong;
}

/* Return what an instruction came to. */
static inline int32_t hv_guest_ran(hv_guest *g, int32_t ran)
{
    return ran ? HV_GUEST_DONE : hv_guest_fails(g, HV_GUEST_RAISED, 0);
}

/* Return where the kernel sees a guest-physical address. */
static inline uint64_t hv_direct(uint64_t gpa) { return GUEST_KERNEL_BASE + gpa; }

static inline uint64_t hv_slot_shift(int32_t level)
{
    return GUEST_ENTRY_SHIFT + GUEST_INDEX_BITS * (uint64_t)level;
}

/* Return the guest-physical address of the entry for gva in a table of this level. */
static inline uint64_t hv_slot(uint64_t table, uint64_t gva, int32_t level)
{
    uint64_t index = gva >> hv_slot_shift(level) & ((1ull << GUEST_INDEX_BITS) - 1);
    return table + (index << GUEST_ENTRY_SHIFT);
}

static inline int32_t hv_read_entry(hv_guest *g, const hv_guest_cpu *cpu, uint64_t at,
                                    uint64_t *entry)
{
    return hv_guest_ran(g, cpu->load(cpu->self, hv_direct(at), entry));
}

/* Go down from a table of this level, those that are missing made; *at takes the slot of the leaf. */
int32_t hv_descend(hv_guest *g, const hv_guest_cpu *cpu, uint64_t gva, uint64_t table,
                   int32_t level, uint64_t *at);

/* Return a page's frame in the cache, 0 if it was not read in. */
uint64_t hv_cached(const hv_page_cache *c, uint64_t gva);

/* Make room for one page more; return 0 if there is no memory. */
int hv_page_cache_grow(hv_page_cache *c);

/* Add a page, for which there must be room. */
void hv_page_cache_add(hv_page_cache *c, uint64_t gva, uint64_t frame);
