/* A cache of the upper half of walks in 4-level paging, by region of 1 GiB. A kept walk is used only while
 * its two entries are as they were, which two loads find that do not wait for each other: unlike the CPU's
 * paging-structure caches it is never stale. SDM "Caching Translation Information".
 */

#pragma once

#include "walk_inline.h"

#define CACHED_WALKS 16

typedef struct {
    uint64_t region;      /* bits 63:30 of the address; ~0: nothing is kept */
    uint64_t cr3;
    const uint8_t *at[2]; /* where the entries of levels 4 and 3 are */
    uint64_t entry[2];
    path_bits bits;       /* of both */
    uint64_t table;       /* physical address of the table of level 2 */
} cached_walk;

static inline cached_walk *cached_walk_of(cached_walk *cache, uint64_t va)
{
    return cache + ((va >> 30 ^ va >> 39) & (CACHED_WALKS - 1));
}

/* For when registers change other than CR3. */
static inline void forget_walks(cached_walk *cache)
{
    for (int at = 0; at < CACHED_WALKS; at++)
        cache[at] = (cached_walk){.region = ~0ull};
}

/* Say whether a walk to va begins like this one. */
static inline int is_current(const cached_walk *c, uint64_t va, uint64_t cr3)
{
    uint64_t now[2];
    if (c->region != va >> 30 || c->cr3 != cr3)
        return 0;
    memcpy(&now[0], c->at[0], 8);
    memcpy(&now[1], c->at[1], 8);
    return !((now[0] ^ c->entry[0]) | (now[1] ^ c->entry[1]));
}

/* Keep the upper half of a walk, if two tables were passed and A was set in both entries. */
static inline void keep_walk(cached_walk *c, const hv_space *space, uint64_t va, uint64_t cr3,
                             const hv_walked *w)
{
    const hv_step *path = w->path;
    if (w->refs < 3 || !(path[0].entry & path[1].entry & PTE_A))
        return;
    const uint64_t table = path[1].entry & PTE_ADDRESS;
    if (table >= space->size)
        return;
    *c = (cached_walk){
        .region = va >> 30,
        .cr3 = cr3,
        .at = {space->bytes + path[0].pa, space->bytes + path[1].pa},
        .entry = {path[0].entry, path[1].entry},
        .bits = {path[0].entry & path[1].entry, path[0].entry | path[1].entry},
        .table = table,
    };
}

/* Return where a walk would find its entry of level 1 by what is kept, unchecked; NULL if nothing is. */
static inline const uint8_t *likely_entry(const hv_space *space, cached_walk *cache, uint64_t va)
{
    const cached_walk *c = cached_walk_of(cache, va);
    uint64_t link;
    if (c->region != va >> 30)
        return NULL;
    memcpy(&link, space->bytes + c->table + (va >> 18 & 0xff8), 8);
    link &= PTE_ADDRESS;
    return link < space->size ? space->bytes + link + (va >> 9 & 0xff8) : NULL;
}
