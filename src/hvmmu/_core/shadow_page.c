/* Shadow pages in C: the books of _core/py_pages.py and _core/py_rmap.py, and every change to an entry.
 *
 * An entry is named by its number, sptep / 8. It stands in one list at most: that of the leaves that
 * map a guest frame, or that of a page's parents; its node lies beside its page.
 */

#include <stdint.h>
#include <stdlib.h>
#include <string.h>

#include "arch.h"
#include "thread.h"
#include "shadow_page.h"
#include "spte_inline.h"

#define ENTRIES 512u
#define PAGE 4096u
#define LEVEL 7u /* of a role */

struct hv_node {
    uint32_t next, before; /* entries; 0 for none: frame 0 is never a shadow page's */
};

static void write_entry(hv_pages *p, uint64_t sptep, uint64_t spte)
{
    memcpy(p->memory + sptep, &spte, 8);
}

static int is_leaf(const hv_pages *p, uint64_t sptep, uint64_t spte)
{
    return (spte & PTE_PS) || (p->pages[sptep / PAGE].role & LEVEL) == 1;
}

static uint64_t gfn_of(const hv_pages *p, uint64_t spte)
{
    return ((spte & PTE_ADDRESS) - p->base) / PAGE;
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

static uint32_t listed(const hv_pages *p, uint32_t entry, uint64_t *out, uint32_t room)
{
    uint32_t count = 0;
    for (; entry && count < room; entry = node_of(p, entry)->next)
        out[count++] = 8ull * entry;
    return count;
}

uint32_t hv_leaves(const hv_pages *p, uint64_t gfn, uint64_t *out, uint32_t room)
{
    return listed(p, p->leaves[gfn], out, room);
}

uint32_t hv_parents(const hv_pages *p, uint32_t page, uint64_t *out, uint32_t room)
{
    return listed(p, p->pages[page].parents, out, room);
}

/* What there is. */

int32_t hv_is_table(const hv_pages *p, uint64_t gfn) { return is_table(p, gfn); }

int32_t hv_holds_table(const hv_pages *p, uint64_t gfn) { return p->regions[gfn / ENTRIES] > 0; }

uint32_t hv_child(const hv_pages *p, uint64_t sptep)
{
    uint64_t spte = read_entry(p, sptep);
    if (!is_present(p, spte) || is_leaf(p, sptep, spte))
        return 0;
    return (uint32_t)((spte & PTE_ADDRESS) / PAGE);
}

/* Entries. */

void hv_link(hv_pages *p, uint64_t sptep, uint32_t child)
{
    p->changes++;
    enlist(p, &p->pages[child].parents, sptep);
    write_entry(p, sptep, (uint64_t)child * PAGE | PTE_P | PTE_W | PTE_U | PTE_A);
}

void hv_set_leaf(hv_pages *p, uint64_t sptep, uint64_t spte)
{
    enlist(p, p->leaves + gfn_of(p, spte), sptep);
    write_entry(p, sptep, spte);
}

void hv_set_notrap(hv_pages *p, uint64_t sptep) { write_entry(p, sptep, p->notrap); }

/* Take a present entry out of the books. */
static void forget(hv_pages *p, uint64_t sptep, uint64_t spte)
{
    if (is_leaf(p, sptep, spte)) {
        delist(p, p->leaves + gfn_of(p, spte), sptep);
    } else {
        p->changes++;
        delist(p, &p->pages[(spte & PTE_ADDRESS) / PAGE].parents, sptep);
    }
}

int32_t hv_zap_entry(hv_pages *p, uint64_t sptep)
{
    uint64_t spte = read_entry(p, sptep);
    int was_present = is_present(p, spte);
    if (was_present)
        forget(p, sptep, spte);
    write_entry(p, sptep, p->trap);
    return was_present;
}

/* Pages. */

static uint32_t take_frame(hv_pages *p)
{
    if (p->free_count) {
        uint32_t frame = p->free[--p->free_count];
        memset(p->memory + (uint64_t)frame * PAGE, 0, PAGE);
        return frame;
    }
    return p->next_frame == p->end_frame ? 0 : p->next_frame++;
}

/* Write-protect a guest table that is shadowed for the first time; return whether a flush is owed. */
static int write_protect(hv_pages *p, uint64_t gfn)
{
    int flush = 0;
    uint32_t next, entry = p->leaves[gfn / ENTRIES * ENTRIES];
    for (; entry; entry = next) {
        next = node_of(p, entry)->next;
        if ((p->pages[entry / ENTRIES].role & LEVEL) == 2)
            flush |= hv_zap_entry(p, 8ull * entry);
    }
    for (entry = p->leaves[gfn]; entry; entry = node_of(p, entry)->next) {
        uint64_t spte = read_entry(p, 8ull * entry);
        if ((spte & PTE_W) && (p->pages[entry / ENTRIES].role & LEVEL) == 1) {
            write_entry(p, 8ull * entry, spte & ~PTE_W);
            flush = 1;
        }
    }
    return flush;
}

/* Mark every entry as unbuilt: the guest's own not-present ones apart, where they may be. */
static void fill(hv_pages *p, uint64_t gfn, uint32_t frame, uint32_t role)
{
    if (!p->trap && !p->notrap)
        return; /* the frame came zeroed */
    int apart = !(role & HV_ROLE_DIRECT) && (role & HV_ROLE_QUIET);
    for (uint32_t at = 0; at < ENTRIES; at++) {
        uint64_t gpte = PTE_P;
        if (apart)
            memcpy(&gpte, p->ram + gfn * PAGE + 8 * at, 8);
        write_entry(p, (uint64_t)frame * PAGE + 8 * at, gpte & PTE_P ? p->trap : p->notrap);
    }
}

static void append(hv_pages *p, uint32_t frame)
{
    hv_page *page = p->pages + frame;
    page->older = p->newest;
    if (p->newest)
        p->pages[p->newest].newer = frame;
    else
        p->oldest = frame;
    p->newest = frame;
    uint32_t *link = p->by_gfn + page->gfn;
    while (*link)
        link = &p->pages[*link].next;
    *link = frame;
    p->count++;
}

uint32_t hv_page_get(hv_pages *p, uint64_t gfn, uint32_t role, int32_t *flush)
{
    *flush = 0;
    for (uint32_t page = p->by_gfn[gfn]; page; page = p->pages[page].next)
        if (p->pages[page].role == role)
            return page;
    struct hv_node *nodes = calloc(ENTRIES, sizeof *nodes);
    uint32_t frame = nodes ? take_frame(p) : 0;
    if (!frame) {
        free(nodes);
        return 0;
    }
    int is_first = !(role & HV_ROLE_DIRECT) && !is_table(p, gfn);
    p->pages[frame] = (hv_page){.gfn = gfn, .serial = ++p->serial, .role = role, .nodes = nodes};
    append(p, frame);
    p->changes++;
    if (is_first) {
        p->regions[gfn / ENTRIES]++;
        *flush = write_protect(p, gfn);
    }
    fill(p, gfn, frame, role);
    return frame;
}

static void remove_page(hv_pages *p, uint32_t frame)
{
    hv_page *page = p->pages + frame;
    *(page->older ? &p->pages[page->older].newer : &p->oldest) = page->newer;
    *(page->newer ? &p->pages[page->newer].older : &p->newest) = page->older;
    uint32_t *link = p->by_gfn + page->gfn;
    while (*link != frame)
        link = &p->pages[*link].next;
    *link = page->next;
    p->count--;
}

void hv_zap_page(hv_pages *p, uint32_t frame)
{
    hv_page *page = p->pages + frame;
    for (uint64_t at = 0; at < ENTRIES; at++) {
        uint64_t sptep = (uint64_t)frame * PAGE + 8 * at, spte = read_entry(p, sptep);
        if (is_present(p, spte))
            forget(p, sptep, spte);
    }
    while (page->parents)
        hv_zap_entry(p, 8ull * page->parents);
    remove_page(p, frame);
    p->changes++;
    if (!(page->role & HV_ROLE_DIRECT) && !is_table(p, page->gfn))
        p->regions[page->gfn / ENTRIES]--;
    free(page->nodes);
    page->nodes = NULL;
    page->serial = 0;
    p->free[p->free_count++] = frame;
    p->zapped++;
}

/* Making and freeing them all. */

void hv_pages_free(hv_pages *p)
{
    if (!p)
        return;
    for (uint32_t page = p->oldest; page; page = p->pages[page].newer)
        free(p->pages[page].nodes);
    free(p->free);
    free(p->pages);
    free(p->by_gfn);
    free(p->leaves);
    free(p->regions);
    free(p);
}

hv_pages *hv_pages_new(uint8_t *memory, uint64_t base, uint64_t ram_size, uint32_t end_frame,
                       uint64_t trap, uint64_t notrap)
{
    hv_pages *p = calloc(1, sizeof *p);
    if (!p)
        return NULL;
    size_t frames = ram_size / PAGE;
    p->memory = memory;
    p->ram = memory + base;
    p->base = base;
    p->ram_size = ram_size;
    p->trap = trap;
    p->notrap = notrap;
    p->next_frame = 1;
    p->end_frame = end_frame;
    p->free = calloc(end_frame, sizeof *p->free);
    p->pages = calloc(end_frame, sizeof *p->pages);
    p->by_gfn = calloc(frames, sizeof *p->by_gfn);
    p->leaves = calloc(frames, sizeof *p->leaves);
    p->regions = calloc(frames / ENTRIES + 1, sizeof *p->regions);
    if (p->free && p->pages && p->by_gfn && p->leaves && p->regions)
        return p;
    hv_pages_free(p);
    return NULL;
}
