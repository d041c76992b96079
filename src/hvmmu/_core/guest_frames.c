/* Frames of guest RAM: who holds them, and in which order they go out. */

#include <stdlib.h>
#include <string.h>

#include "guest_parts.h"

static int make_zone(hv_zone *zone, uint64_t first, uint64_t end)
{
    *zone = (hv_zone){.first = first, .end = end, .next = first};
    zone->free = calloc((end - first) / PAGE + 1, sizeof *zone->free);
    return zone->free != NULL;
}

hv_guest *hv_guest_new(const hv_guest_params *params, uint64_t border)
{
    if (border < 2 * PAGE || params->memory < border || params->memory / PAGE > UINT32_MAX)
        return NULL;
    hv_guest *g = calloc(1, sizeof *g);
    if (!g)
        return NULL;
    g->params = *params;
    g->used = calloc(border / PAGE, sizeof *g->used);
    g->unlinked = calloc(border / PAGE, sizeof *g->unlinked);
    g->shares = calloc((params->memory - border) / PAGE + 1, sizeof *g->shares);
    /* Frame 0 stays unused: an entry of zero then names no frame at all. */
    int tables = make_zone(&g->tables, PAGE, border);
    int data = make_zone(&g->data, border, params->memory);
    if (g->used && g->unlinked && g->shares && tables && data)
        return g;
    hv_guest_free(g);
    return NULL;
}

void hv_guest_free(hv_guest *g)
{
    free(g->used);
    free(g->unlinked);
    free(g->shares);
    free(g->tables.free);
    free(g->data.free);
    free(g);
}

/* Return whether there was a frame; *is_fresh: never used since boot, hence zero. */
static int take(hv_zone *zone, uint64_t *frame, int *is_fresh)
{
    *is_fresh = !zone->free_count;
    if (zone->free_count) {
        *frame = zone->free[--zone->free_count] * PAGE;
        return 1;
    }
    if (zone->next >= zone->end)
        return 0;
    *frame = zone->next;
    zone->next += PAGE;
    return 1;
}

static void give(hv_zone *zone, uint64_t frame)
{
    zone->free[zone->free_count++] = (uint32_t)(frame / PAGE);
}

static int32_t clear(hv_guest *g, const hv_guest_cpu *cpu, uint64_t frame, int is_fresh)
{
    return is_fresh ? HV_GUEST_DONE : hv_guest_ran(g, cpu->clear_page(cpu->self, hv_direct(frame)));
}

int32_t hv_take_table(hv_guest *g, const hv_guest_cpu *cpu, uint64_t *frame)
{
    int is_fresh;
    if (!take(&g->tables, frame, &is_fresh))
        return hv_guest_fails(g, HV_GUEST_NO_TABLE_FRAME, 0);
    return clear(g, cpu, *frame, is_fresh);
}

void hv_give_table(hv_guest *g, uint64_t frame) { give(&g->tables, frame); }

int32_t hv_take_data(hv_guest *g, const hv_guest_cpu *cpu, uint64_t *frame)
{
    int is_fresh;
    if (!take(&g->data, frame, &is_fresh))
        return hv_guest_fails(g, HV_GUEST_NO_DATA_FRAME, 0);
    int32_t wrong = clear(g, cpu, *frame, is_fresh);
    if (!wrong)
        g->shares[(*frame - g->data.first) / PAGE] = 1;
    return wrong;
}

int32_t hv_take_copy(hv_guest *g, const hv_guest_cpu *cpu, uint64_t source, uint64_t *frame)
{
    int is_fresh;
    if (!take(&g->data, frame, &is_fresh))
        return hv_guest_fails(g, HV_GUEST_NO_DATA_FRAME, 0);
    int32_t ran = cpu->copy_page(cpu->self, hv_direct(*frame), hv_direct(source));
    if (ran)
        g->shares[(*frame - g->data.first) / PAGE] = 1;
    return hv_guest_ran(g, ran);
}

/* Return where the holders of a data frame are counted, NULL for any other. */
static uint32_t *holders(const hv_guest *g, uint64_t frame)
{
    int is_data = frame >= g->data.first && frame < g->data.next;
    return is_data ? g->shares + (frame - g->data.first) / PAGE : NULL;
}

uint32_t hv_shares(const hv_guest *g, uint64_t frame)
{
    const uint32_t *held = holders(g, frame);
    return held ? *held : 0;
}

int32_t hv_share(hv_guest *g, uint64_t frame)
{
    uint32_t *held = holders(g, frame);
    if (!held || !*held)
        return hv_guest_fails(g, HV_GUEST_NOT_SHARED, frame);
    ++*held;
    return HV_GUEST_DONE;
}

int32_t hv_drop(hv_guest *g, uint64_t frame)
{
    uint32_t *held = holders(g, frame);
    if (!held || !*held)
        return hv_guest_fails(g, HV_GUEST_NOT_SHARED, frame);
    if (!--*held)
        give(&g->data, frame);
    return HV_GUEST_DONE;
}
