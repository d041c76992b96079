/* The books of shadow pages, and every change to an entry.
 *
 * Three things hold at all times: the reverse map names exactly the leaves, a page's parents are exactly
 * the entries that link to it, and no leaf lets a write through to a guest frame that is shadowed as a
 * page table.
 *
 * An entry is named by its number, sptep / 8. It stands in one list at most: that of the leaves that map
 * a guest frame, or that of a page's parents; its node lies beside its page.
 */

#include <stdint.h>
#include <stdlib.h>
#include <string.h>

#include "arch.h"
#include "events_inline.h"
#include "shadow_page.h"
#include "spte_inline.h"

struct hv_node {
    uint32_t next, before; /* entries; 0 for none: frame 0 is never a shadow page's */
};

static void write_entry(hv_pages *p, uint64_t sptep, uint64_t spte)
{
    if (p->write)
        p->write(p->writer, sptep, spte);
    else
        memcpy(p->memory + sptep, &spte, 8);
}

static int is_leaf(const hv_pages *p, uint64_t sptep, uint64_t spte)
{
    return (spte & PTE_PS) || level_of(p, (uint32_t)(sptep / PAGE)) == 1;
}

static uint32_t *leaves_of(const hv_pages *p, uint64_t spte)
{
    return p->leaves + index_of(p, spte & PTE_ADDRESS);
}

/* Lists of entries. */

static struct hv_node *node_of(const hv_pages *p, uint32_t entry)
{
    return p->pages[entry / ENTRIES].nodes + entry % ENTRIES;
}

static void enlist(const hv_pages *p, uint32_t *first, uint64_t sptep)
{
    uint32_t entry = (uint32_t)(sptep / 8);
    *node_of(p, entry) = (struct hv_node){*first, 0};
    if (*first)
        node_of(p, *first)->before = entry;
    *first = entry;
}

static void delist(const hv_pages *p, uint32_t *first, uint64_t sptep)
{
    struct hv_node *node = node_of(p, (uint32_t)(sptep / 8));
    if (node->next)
        node_of(p, node->next)->before = node->before;
    if (node->before)
        node_of(p, node->before)->next = node->next;
    else
        *first = node->next;
}

uint64_t hv_parents(const hv_pages *p, uint32_t page, uint64_t *sptep, uint64_t room)
{
    uint64_t count = 0;
    for (uint32_t entry = p->pages[page].parents; entry; entry = node_of(p, entry)->next)
        if (count++ < room)
            sptep[count - 1] = 8ull * entry;
    return count;
}

uint64_t hv_leaves(const hv_pages *p, uint64_t *sptep, uint64_t *hpa, uint64_t room)
{
    uint64_t count = 0;
    for (uint64_t at = 0; at < p->frames; at++)
        for (uint32_t entry = p->leaves[at]; entry; entry = node_of(p, entry)->next)
            if (count++ < room) {
                sptep[count - 1] = 8ull * entry;
                hpa[count - 1] = (p->first_frame + at) * PAGE;
            }
    return count;
}

/* Questions. */

uint32_t hv_next_shadow(const hv_pages *p, uint64_t gfn, uint32_t page)
{
    page = page ? p->pages[page].next : p->shadows[index_of_gfn(p, gfn)];
    while (page && (p->pages[page].gfn != gfn || (p->pages[page].role & HV_ROLE_DIRECT)))
        page = p->pages[page].next;
    return page;
}

int32_t hv_is_table(const hv_pages *p, uint64_t gfn) { return hv_next_shadow(p, gfn, 0) != 0; }

int32_t hv_holds_table(const hv_pages *p, uint64_t gfn)
{
    uint64_t index = index_of_gfn(p, gfn);
    return index < p->frames && p->regions[index / ENTRIES] > 0;
}

uint32_t hv_child(const hv_pages *p, uint64_t sptep)
{
    uint64_t spte = read_entry(p, sptep);
    return is_present(p, spte) && !is_leaf(p, sptep, spte) ? page_of(spte) : 0;
}

/* Entries. */

static void set_entry(hv_pages *p, uint64_t sptep, uint64_t spte)
{
    HV_EMIT(p->events, HV_EVENT_SPTE, .hpa = sptep, .value = spte,
            .level = level_of(p, (uint32_t)(sptep / PAGE)), .number = 1);
    write_entry(p, sptep, spte);
}

void hv_link(hv_pages *p, uint64_t sptep, uint32_t child)
{
    enlist(p, &p->pages[child].parents, sptep);
    /* a link allows everything: the path's permissions are in the child's role */
    set_entry(p, sptep, child * PAGE | PTE_P | PTE_W | PTE_U | PTE_A);
}

void hv_set_leaf(hv_pages *p, uint64_t sptep, uint64_t spte)
{
    enlist(p, leaves_of(p, spte), sptep);
    set_entry(p, sptep, spte);
}

void hv_set_notrap(hv_pages *p, uint64_t sptep) { set_entry(p, sptep, p->notrap); }

/* Take a present entry out of the books. */
static void forget(hv_pages *p, uint64_t sptep, uint64_t spte)
{
    if (is_leaf(p, sptep, spte))
        delist(p, leaves_of(p, spte), sptep);
    else
        delist(p, &p->pages[page_of(spte)].parents, sptep);
}

int32_t hv_zap_entry(hv_pages *p, uint64_t sptep)
{
    uint64_t spte = read_entry(p, sptep);
    int was_present = is_present(p, spte);
    if (was_present) {
        forget(p, sptep, spte);
        p->flushes++;
        HV_EMIT(p->events, HV_EVENT_ZAP, .hpa = sptep, .value = spte,
                .level = level_of(p, (uint32_t)(sptep / PAGE)), .number = 1);
    }
    if (spte != p->trap)
        write_entry(p, sptep, p->trap);
    return was_present;
}

/* Pages. */

/* Return a frame for a shadow page, zeroed and with nodes; a failure is negative. */
static int32_t take_frame(hv_pages *p)
{
    uint32_t frame = p->free_count ? p->free[p->free_count - 1] : p->next_frame;
    hv_page *page = p->pages + frame;
    if (frame == p->end_frame)
        return HV_NO_FRAMES;
    if (!page->nodes)
        page->nodes = malloc(ENTRIES * sizeof *page->nodes);
    if (!page->nodes)
        return HV_NO_HOST_MEMORY;
    if (p->free_count) {
        p->free_count--;
        memset(p->memory + frame * PAGE, 0, PAGE);
    } else {
        p->next_frame++;
    }
    return (int32_t)frame;
}

/* Write-protect a guest table that is shadowed for the first time. */
static void write_protect(hv_pages *p, uint64_t index)
{
    uint32_t next, entry = p->leaves[index / ENTRIES * ENTRIES];
    for (; entry; entry = next) {
        next = node_of(p, entry)->next;
        if (level_of(p, entry / ENTRIES) == 2)
            hv_zap_entry(p, 8ull * entry);
    }
    for (entry = p->leaves[index]; entry; entry = node_of(p, entry)->next) {
        uint64_t spte = read_entry(p, 8ull * entry);
        if ((spte & PTE_W) && level_of(p, entry / ENTRIES) == 1) {
            set_entry(p, 8ull * entry, spte & ~PTE_W);
            p->flushes++;
        }
    }
}

/* Mark every entry as unbuilt: the guest's own not-present ones apart, where they may be. Hardware does not
 * use the frame yet, so it is written in one go. */
static void fill(hv_pages *p, uint64_t gfn, uint32_t frame, uint32_t role)
{
    if (!p->trap && !p->notrap)
        return; /* the frame came zeroed */
    uint64_t hpa = hpa_of(p, gfn * PAGE);
    int apart = !(role & HV_ROLE_DIRECT) && (role & HV_ROLE_BYPASSABLE) && hpa != NOWHERE;
    for (uint32_t at = 0; at < ENTRIES; at++) {
        uint64_t gpte = PTE_P;
        if (apart)
            memcpy(&gpte, p->memory + hpa + 8 * at, 8);
        memcpy(p->memory + frame * PAGE + 8 * at, gpte & PTE_P ? &p->trap : &p->notrap, 8);
    }
}

static void append(hv_pages *p, uint64_t index, uint32_t frame)
{
    hv_page *page = p->pages + frame;
    page->older = p->newest;
    if (p->newest)
        p->pages[p->newest].newer = frame;
    else
        p->oldest = frame;
    p->newest = frame;
    uint32_t *link = p->shadows + index;
    while (*link)
        link = &p->pages[*link].next;
    *link = frame;
    p->count++;
}

int32_t hv_page_get(hv_pages *p, uint64_t gfn, uint32_t role)
{
    uint64_t index = index_of_gfn(p, gfn);
    for (uint32_t page = p->shadows[index]; page; page = p->pages[page].next)
        if (p->pages[page].role == role && p->pages[page].gfn == gfn)
            return (int32_t)page;
    int32_t taken = take_frame(p);
    if (taken < 0)
        return taken;
    uint32_t frame = (uint32_t)taken;
    hv_page *page = p->pages + frame;
    int is_first = !(role & HV_ROLE_DIRECT) && !hv_is_table(p, gfn);
    *page = (hv_page){.gfn = gfn, .serial = ++p->serial, .role = role, .nodes = page->nodes};
    append(p, index, frame);
    if (is_first && index < p->frames) {
        p->regions[index / ENTRIES]++;
        write_protect(p, index);
    }
    fill(p, gfn, frame, role);
    HV_EMIT(p->events, HV_EVENT_SHADOW_PAGE, .hpa = frame * PAGE, .gpa = gfn * PAGE, .value = role,
            .level = level_of(p, frame), .number = ENTRIES);
    return taken;
}

static void remove_page(hv_pages *p, uint64_t index, uint32_t frame)
{
    hv_page *page = p->pages + frame;
    *(page->older ? &p->pages[page->older].newer : &p->oldest) = page->newer;
    *(page->newer ? &p->pages[page->newer].older : &p->newest) = page->older;
    uint32_t *link = p->shadows + index;
    while (*link != frame)
        link = &p->pages[*link].next;
    *link = page->next;
    p->count--;
}

void hv_zap_page(hv_pages *p, uint32_t frame)
{
    hv_page *page = p->pages + frame;
    uint64_t index = index_of_gfn(p, page->gfn);
    for (uint64_t at = 0; at < ENTRIES; at++) {
        uint64_t sptep = frame * PAGE + 8 * at, spte = read_entry(p, sptep);
        if (is_present(p, spte))
            forget(p, sptep, spte);
    }
    while (page->parents)
        hv_zap_entry(p, 8ull * page->parents);
    remove_page(p, index, frame);
    if (!(page->role & HV_ROLE_DIRECT) && index < p->frames && !hv_is_table(p, page->gfn))
        p->regions[index / ENTRIES]--;
    HV_EMIT(p->events, HV_EVENT_ZAP, .hpa = frame * PAGE, .gpa = page->gfn * PAGE, .value = page->role,
            .level = level_of(p, frame), .number = ENTRIES);
    page->serial = 0;
    p->free[p->free_count++] = frame;
    p->zapped++;
    p->flushes++;
}

/* Making and freeing them all. */

void hv_pages_free(hv_pages *p)
{
    if (!p)
        return;
    for (uint32_t frame = 0; p->pages && frame < p->next_frame; frame++)
        free(p->pages[frame].nodes);
    free(p->slots);
    free(p->free);
    free(p->pages);
    free(p->shadows);
    free(p->leaves);
    free(p->regions);
    free(p);
}

/* Find the host frames behind guest memory, from a multiple of 2 MiB on. */
static void span_slots(hv_pages *p)
{
    uint64_t first = NOWHERE, end = 0;
    for (const hv_memslot *s = p->slots; s < p->slots + p->slot_count; s++) {
        first = s->hpa < first ? s->hpa : first;
        end = s->hpa + s->size > end ? s->hpa + s->size : end;
    }
    p->first_frame = first / (ENTRIES * PAGE) * ENTRIES;
    p->frames = (end + PAGE - 1) / PAGE - p->first_frame;
}

hv_pages *hv_pages_new(uint8_t *memory, uint64_t memory_size, const hv_memslot *slots,
                       uint32_t slot_count, uint32_t end_frame)
{
    hv_pages *p = calloc(1, sizeof *p);
    if (!p)
        return NULL;
    p->memory = memory;
    p->memory_size = memory_size;
    p->next_frame = 1;
    p->end_frame = end_frame;
    p->slot_count = slot_count;
    p->slots = malloc(slot_count * sizeof *p->slots);
    if (p->slots) {
        memcpy(p->slots, slots, slot_count * sizeof *p->slots);
        span_slots(p);
        p->free = calloc(end_frame, sizeof *p->free);
        p->pages = calloc(end_frame, sizeof *p->pages);
        p->shadows = calloc(p->frames + 1, sizeof *p->shadows);
        p->leaves = calloc(p->frames + 1, sizeof *p->leaves);
        p->regions = calloc(p->frames / ENTRIES + 1, sizeof *p->regions);
    }
    if (p->free && p->pages && p->shadows && p->leaves && p->regions)
        return p;
    hv_pages_free(p);
    return NULL;
}
