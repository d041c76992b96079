/* The page cache of one file: a list of pages in the order in which they were read in, and a hash table
 * over it.
 */

#include <stdlib.h>

#include "guest_parts.h"

enum { FIRST_ROOM = 16 };

hv_page_cache *hv_page_cache_new(void) { return calloc(1, sizeof(hv_page_cache)); }

void hv_page_cache_free(hv_page_cache *c)
{
    free(c->pages);
    free(c->places);
    free(c);
}

/* Return the place of a page in the hash table, or the free one that it would have. */
static uint32_t *place(const hv_page_cache *c, uint64_t gva)
{
    uint64_t mask = 2 * c->room - 1;
    /* Fibonacci hashing: neighbouring pages are spread. */
    uint64_t at = (gva / PAGE * 0x9e3779b97f4a7c15ull >> 32) & mask;
    while (c->places[at] && c->pages[c->places[at] - 1].gva != gva)
        at = (at + 1) & mask;
    return c->places + at;
}

uint64_t hv_cached(const hv_page_cache *c, uint64_t gva)
{
    uint32_t nth = c->room ? *place(c, gva) : 0;
    return nth ? c->pages[nth - 1].frame : 0;
}

int hv_page_cache_grow(hv_page_cache *c)
{
    if (c->count < c->room)
        return 1;
    uint64_t room = c->room ? 2 * c->room : FIRST_ROOM;
    hv_cached_page *pages = realloc(c->pages, room * sizeof *pages);
    if (pages)
        c->pages = pages;
    uint32_t *places = calloc(2 * room, sizeof *places);
    if (!pages || !places) {
        free(places);
        return 0;
    }
    free(c->places);
    c->places = places;
    c->room = room;
    for (uint64_t nth = 0; nth < c->count; nth++)
        *place(c, pages[nth].gva) = (uint32_t)nth + 1;
    return 1;
}

void hv_page_cache_add(hv_page_cache *c, uint64_t gva, uint64_t frame)
{
    uint32_t *at = place(c, gva);
    c->pages[c->count++] = (hv_cached_page){gva, frame};
    *at = (uint32_t)c->count;
}
