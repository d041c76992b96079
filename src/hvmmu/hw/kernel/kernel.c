/* The compiled engine: the readable engine's semantics, access by access, in C.
 *
 * hw/walk.py, hw/tlb.py and hw/readable.py say in words what is done here; the tests hold the two
 * against each other. Nothing here knows of guests, shadow tables or vendors.
 */

#include <stddef.h>
#include <stdint.h>
#include <stdlib.h>
#include <string.h>

#include "bits.h"
#include "kernel.h"
#include "walk.h"

#define KINDS 32u   /* a kind is made of W, U and ID: bits 1, 2 and 4 */
#define SIZES 3     /* 4 KiB, 2 MiB, 1 GiB */
#define NO_TAG (~0ull)


static const int SHIFTS[SIZES] = {12, 21, 30};

/* One cached translation. Copies of one fill in two levels share their serial number. */
typedef struct {
    uint64_t base;     /* physical address of the page */
    uint64_t serial;
    uint32_t kinds;    /* bit k: an access of kind k needs no second look */
    uint8_t access, pkey, dirty, global;
} payload;

/* What nearly every access needs to know of a set of the first level: its first way. */
typedef struct {
    uint64_t tag;
    uint32_t kinds;
} front;

/* One TLB level: in each set the most recently used way comes first; a free way has NO_TAG. */
typedef struct {
    uint32_t mask, ways;
    uint64_t *tags;
    payload *entries;
    front *fronts; /* by set; NULL for the second level */
} level;

enum { INSTRUCTION, DATA, SECOND, LEVELS };

struct hv_engine {
    hv_space space;
    hv_regs regs;
    hv_formats formats;
    int32_t paging;
    uint32_t allowed[KINDS]; /* by access: the kinds granted, without a look at keys */
    level tlb[LEVELS];
    int32_t seen[SIZES]; /* page sizes that were ever filled */
    uint64_t serial;
    hv_counts counts;
};

/* Memory: all ones come from beyond its end, and stores there are lost. */

static uint64_t load(const hv_space *space, uint64_t pa, int32_t size)
{
    if (pa > space->size || space->size - pa < (uint64_t)size)
        return size == 8 ? ~0ull : 0xffffffffull;
    if (size == 8) {
        uint64_t value;
        memcpy(&value, space->bytes + pa, 8);
        return value;
    }
    uint32_t value;
    memcpy(&value, space->bytes + pa, 4);
    return value;
}

static void store(const hv_space *space, uint64_t pa, uint64_t value, int32_t size)
{
    if (pa > space->size || space->size - pa < (uint64_t)size)
        return;
    if (size == 8) {
        memcpy(space->bytes + pa, &value, 8);
    } else {
        uint32_t narrow = (uint32_t)value;
        memcpy(space->bytes + pa, &narrow, 4);
    }
}

/* Return 0 if access allows kind, else P and PK as the error code has them: SDM "Access Rights". */
uint32_t hv_permission_fault(const hv_regs *regs, uint32_t access, uint32_t pkey, uint32_t kind)
{
    int user = !!(kind & PF_U), write = !!(kind & PF_W), fetch = !!(kind & PF_ID);
    int user_page = !!(access & PF_U), wp = !!(regs->cr0 & CR0_WP);
    int denied = fetch && !(access & PF_ID);
    if (user) {
        denied |= !user_page || (write && !(access & PF_W));
    } else {
        denied |= write && wp && !(access & PF_W);
        if (user_page && fetch)
            denied |= !!(regs->cr4 & CR4_SMEP);
        else if (user_page)
            denied |= (regs->cr4 & CR4_SMAP) && !regs->rflags_ac;
    }
    if (user_page && !fetch && (regs->cr4 & CR4_PKE) && (regs->efer & EFER_LMA)) {
        uint64_t rights = regs->pkru >> (2 * pkey);
        if ((rights & 1) || ((rights & 2) && write && (user || wp)))
            return PF_P | PF_PK;
    }
    return denied ? PF_P : 0;
}

/* The TLB. */

static uint64_t tag_of(uint64_t va, int size) { return va >> SHIFTS[size] << 2 | (uint64_t)size; }

static size_t set_of(const level *l, uint64_t tag)
{
    return (size_t)((tag >> 2) & l->mask) * l->ways;
}

static int way_of(const level *l, size_t set, uint64_t tag)
{
    const uint64_t *tags = l->tags + set;
    for (uint32_t way = 0; way < l->ways; way++)
        if (tags[way] == tag)
            return (int)way;
    return -1;
}

static void show(level *l, size_t set)
{
    if (l->fronts)
        l->fronts[set / l->ways] = (front){l->tags[set], l->entries[set].kinds};
}

/* Put a way's entry first; those before it move back by one. */
static void rotate(level *l, size_t set, uint32_t way, uint64_t tag, payload entry)
{
    for (size_t at = set + way; at > set; at--) {
        l->tags[at] = l->tags[at - 1];
        l->entries[at] = l->entries[at - 1];
    }
    l->tags[set] = tag;
    l->entries[set] = entry;
    show(l, set);
}

static payload *take(level *l, uint64_t tag)
{
    size_t set = set_of(l, tag);
    int way = way_of(l, set, tag);
    if (way < 0)
        return NULL;
    if (way > 0)
        rotate(l, set, (uint32_t)way, tag, l->entries[set + (size_t)way]);
    return l->entries + set;
}

/* Free ways stay behind those in use, so that the last way is the least recent or free. */
static void drop_way(level *l, size_t set, uint32_t way)
{
    uint32_t behind = l->ways - way - 1;
    memmove(l->tags + set + way, l->tags + set + way + 1, behind * sizeof *l->tags);
    memmove(l->entries + set + way, l->entries + set + way + 1, behind * sizeof *l->entries);
    l->tags[set + l->ways - 1] = NO_TAG;
    show(l, set);
}

static void drop(level *l, uint64_t tag)
{
    size_t set = set_of(l, tag);
    int way = way_of(l, set, tag);
    if (way >= 0)
        drop_way(l, set, (uint32_t)way);
}

/* Put an entry that the level does not hold first, in place of the least recent one. */
static void insert(level *l, uint64_t tag, const payload *entry)
{
    rotate(l, set_of(l, tag), l->ways - 1, tag, *entry);
}

static void put_first(hv_engine *e, uint64_t tag, const payload *entry, int fetch)
{
    insert(&e->tlb[fetch ? INSTRUCTION : DATA], tag, entry);
    if (fetch)
        e->counts.instruction_misses++;
    else
        e->counts.data_misses++;
}

/* Return the entry for va in the first level, made most recent, and its tag; NULL on a miss. */
static payload *find(hv_engine *e, uint64_t va, int fetch, uint64_t *tag)
{
    level *first = &e->tlb[fetch ? INSTRUCTION : DATA];
    payload *entry;
    for (int size = 0; size < SIZES; size++)
        if (e->seen[size] && (entry = take(first, *tag = tag_of(va, size))))
            return entry;
    for (int size = 0; size < SIZES; size++)
        if (e->seen[size] && (entry = take(&e->tlb[SECOND], *tag = tag_of(va, size)))) {
            put_first(e, *tag, entry, fetch);
            return first->entries + set_of(first, *tag);
        }
    return NULL;
}

static void flush_page(hv_engine *e, uint64_t va)
{
    for (int size = 0; size < SIZES; size++)
        if (e->seen[size])
            for (int l = 0; l < LEVELS; l++)
                drop(&e->tlb[l], tag_of(va, size));
}

static size_t entries_in(const level *l) { return ((size_t)l->mask + 1) * l->ways; }

static void empty(level *l)
{
    memset(l->tags, 0xff, entries_in(l) * sizeof *l->tags);
    for (size_t set = 0; set < entries_in(l); set += l->ways)
        show(l, set);
}

static void flush_non_global(level *l)
{
    for (size_t set = 0; set < entries_in(l); set += l->ways)
        for (uint32_t way = l->ways; way-- > 0;)
            if (l->tags[set + way] != NO_TAG && !l->entries[set + way].global)
                drop_way(l, set, way);
}

void hv_flush(hv_engine *e, int32_t scope, uint64_t va)
{
    if (scope == HV_FLUSH_PAGE) {
        flush_page(e, va);
        return;
    }
    for (int l = 0; l < LEVELS; l++) {
        if (scope == HV_FLUSH_ALL)
            empty(&e->tlb[l]);
        else
            flush_non_global(&e->tlb[l]);
    }
}

static uint32_t kinds_of(const hv_engine *e, const payload *entry)
{
    const uint32_t writes = 0xccccccccu; /* kinds with W set */
    return e->allowed[entry->access] & (entry->dirty ? ~0u : ~writes);
}

/* The walk. */

static int is_canonical(const hv_formats *f, uint64_t va)
{
    if (!f->sign_extended)
        return va >> f->va_bits == 0;
    uint64_t top = va >> (f->va_bits - 1);
    return top == 0 || top == (1ull << (65 - f->va_bits)) - 1;
}

static uint64_t root_of(const hv_formats *f, uint64_t cr3)
{
    if (f->is_pae)
        return cr3 & 0xffffffe0ull;
    return cr3 & (f->is_legacy32 ? 0xfffff000ull : PTE_ADDRESS);
}

static uint64_t frame_of(const hv_formats *f, uint64_t entry, int n)
{
    uint64_t base = entry & PTE_ADDRESS & -(1ull << f->shift[n]);
    if (n == 2 && f->pse36)
        base |= (entry & f->pse36) << 19; /* bits 20:13 become 39:32 */
    return base;
}

/* Set A in every entry used, D in the leaf of a write; store only what changes. */
void hv_set_accessed_dirty(const hv_space *space, const hv_formats *f, const hv_walked *w,
                           uint32_t kind)
{
    for (uint32_t i = 0; i < w->refs; i++) {
        if (f->is_pae && i == 0)
            continue; /* a page-directory pointer has neither */
        uint64_t entry = w->path[i].entry | PTE_A;
        if (i == w->refs - 1 && (kind & PF_W))
            entry |= PTE_D;
        if (entry != w->path[i].entry)
            store(space, w->path[i].pa, entry, f->entry_size);
    }
}

void hv_walk(const hv_space *space, const hv_regs *regs, const hv_formats *f, uint64_t va,
             uint32_t kind, hv_walked *out)
{
    memset(out, 0, offsetof(hv_walked, path));
    if (!is_canonical(f, va)) {
        out->general_protection = 1;
        return;
    }
    int shows = ((regs->efer & EFER_NXE) && !f->is_legacy32) || (regs->cr4 & CR4_SMEP);
    uint32_t shown = shows ? kind : kind & ~PF_ID;
    uint64_t table = root_of(f, regs->cr3), entry = 0;
    uint32_t access = PF_W | PF_U | PF_ID;
    int n = f->depth;
    for (;; n--) {
        uint64_t index = va >> f->shift[n] & ((1ull << f->bits[n]) - 1);
        uint64_t where = table + index * (uint64_t)f->entry_size;
        int pointer = f->is_pae && n == 3;
        entry = load(space, where, f->entry_size);
        if ((entry & PTE_P) && !pointer)
            access &= (uint32_t)(entry & (PF_W | PF_U)) | (entry & PTE_NX ? 0 : PF_ID);
        out->path[out->refs++] = (hv_step){where, entry, access};
        out->level = (uint32_t)n;
        out->access = access;
        if (!(entry & PTE_P)) {
            out->pfec = shown;
            return;
        }
        int large = (entry & PTE_PS) && f->large[n];
        if (entry & (large ? f->reserved_large : f->reserved)[n]) {
            out->general_protection = pointer; /* loaded with CR3, so it is the load that faults */
            out->pfec = pointer ? 0 : shown | PF_P | PF_RSVD;
            return;
        }
        if (large || n == 1)
            break;
        table = entry & PTE_ADDRESS;
    }
    uint32_t pkey = (uint32_t)(entry >> PTE_PKEY_SHIFT) & 15;
    uint32_t denied = hv_permission_fault(regs, access, pkey, kind);
    if (denied) {
        out->pfec = shown | denied;
        return;
    }
    out->ok = 1;
    out->pa = frame_of(f, entry, n) | (va & ((1ull << f->shift[n]) - 1));
    out->dirty = (entry & PTE_D) || (kind & PF_W);
    out->global = (entry & PTE_G) && (regs->cr4 & CR4_PGE);
    out->pkey = (uint8_t)pkey;
}

/* What an access does that its set's most recent entry does not grant at once. */

/* Bring the copies of a cached entry up to date, in every level that holds it. */
static void refresh(hv_engine *e, uint64_t tag, uint64_t serial, const payload *fresh)
{
    for (int i = 0; i < LEVELS; i++) {
        level *l = &e->tlb[i];
        size_t set = set_of(l, tag);
        int way = way_of(l, set, tag);
        if (way >= 0 && l->entries[set + (size_t)way].serial == serial) {
            l->entries[set + (size_t)way] = *fresh;
            l->entries[set + (size_t)way].serial = serial;
            show(l, set);
        }
    }
}

static void fill(hv_engine *e, uint64_t tag, payload *fresh, int fetch)
{
    e->seen[tag & 3] = 1;
    fresh->serial = ++e->serial;
    insert(&e->tlb[SECOND], tag, fresh);
    e->counts.misses++;
    put_first(e, tag, fresh, fetch);
}

static void stop_at(hv_stop *stop, const hv_walked *w, uint64_t va, uint32_t kind, uint64_t filter)
{
    stop->gva = va;
    stop->kind = kind;
    stop->pfec = w->pfec;
    stop->level = w->level;
    stop->access = w->refs ? w->access : 0;
    if (w->ok) {
        stop->event = HV_PHYSICAL;
        stop->pa = w->pa;
    } else if (w->general_protection) {
        stop->event = HV_GENERAL_PROTECTION;
    } else {
        stop->event = filter >> (w->pfec & 63) & 1 ? HV_EXIT : HV_DELIVERED;
    }
}

/* Return the page's physical base and size - 1; 0 if the access stops, with the reason in *stop. */
static int look_further(hv_engine *e, uint64_t va, uint32_t kind, uint64_t filter, hv_stop *stop,
                        uint64_t *base, uint64_t *mask)
{
    int fetch = !!(kind & PF_ID);
    uint64_t tag = NO_TAG, serial = 0;
    payload *entry = find(e, va, fetch, &tag);
    if (entry) {
        if ((entry->kinds >> kind & 1) ||
            ((entry->dirty || !(kind & PF_W)) &&
             !hv_permission_fault(&e->regs, entry->access, entry->pkey, kind))) {
            *base = entry->base;
            *mask = (1ull << SHIFTS[tag & 3]) - 1;
            return 1;
        }
        serial = entry->serial;
    }
    hv_walked w;
    hv_walk(&e->space, &e->regs, &e->formats, va, kind, &w);
    if (w.ok)
        hv_set_accessed_dirty(&e->space, &e->formats, &w, kind);
    e->counts.walk_refs += w.refs;
    if (!w.ok || w.pa >= e->space.size) {
        if (entry && !w.ok && !w.general_protection)
            flush_page(e, va);
        stop_at(stop, &w, va, kind, filter);
        return 0;
    }
    int size = (int)w.level - 1;
    *mask = (1ull << SHIFTS[size]) - 1;
    *base = w.pa & ~*mask;
    payload fresh = {.base = *base, .access = (uint8_t)w.access, .pkey = w.pkey,
                     .dirty = w.dirty, .global = w.global};
    fresh.kinds = kinds_of(e, &fresh);
    uint64_t new_tag = tag_of(va, size);
    if (entry && tag == new_tag) {
        refresh(e, tag, serial, &fresh);
        return 1;
    }
    if (entry)
        flush_page(e, va); /* the page has changed its size */
    fill(e, new_tag, &fresh, fetch);
    return 1;
}

uint64_t hv_run(hv_engine *e, const uint64_t *gva, const uint8_t *kind, uint64_t start,
                uint64_t count, uint64_t *landed, uint64_t exit_filter, hv_stop *stop)
{
    /* Fetches and others interleave in no pattern that a branch predictor could learn: no branch. */
    const level *const levels[2] = {&e->tlb[DATA], &e->tlb[INSTRUCTION]};
    const uint64_t masks[2] = {levels[0]->mask, levels[1]->mask};
    const front *const fronts[2] = {levels[0]->fronts, levels[1]->fronts};
    stop->event = HV_END;
    if (!e->paging && start < count) {
        stop->event = HV_NOT_PAGING;
        return start;
    }
    /* Most accesses hit their set's most recent 4 KiB entry: that case alone is written out. */
    for (uint64_t at = start; at < count; at++) {
        uint64_t va = gva[at], page = va >> 12;
        uint32_t k = kind[at] & (KINDS - 1);
        uint32_t fetch = k / PF_ID;
        uint64_t set = page & masks[fetch];
        const front *first = fronts[fetch] + set;
        if ((first->tag == page << 2) & (first->kinds >> k)) {
            const level *l = levels[fetch];
            if (landed)
                landed[at] = l->entries[set * l->ways].base | (va & 0xfff);
            continue;
        }
        uint64_t base, mask;
        if (!look_further(e, va, k, exit_filter, stop, &base, &mask))
            return at;
        if (landed)
            landed[at] = base | (va & mask);
    }
    return count;
}

/* Making and reading an engine. */

void hv_load_regs(hv_engine *e, const hv_regs *regs, const hv_formats *formats)
{
    hv_regs old = e->regs;
    e->regs = *regs;
    old.cr3 = regs->cr3;
    if (!memcmp(&old, regs, sizeof old) && e->paging == (formats != NULL))
        return; /* the root alone has changed */
    e->paging = formats != NULL;
    if (formats)
        e->formats = *formats;
    /* With protection keys on, data accesses to user pages are left to the full check. */
    for (uint32_t access = 0; access < KINDS; access++) {
        e->allowed[access] = 0;
        for (uint32_t kind = 0; kind < KINDS; kind++) {
            int keyed = (regs->cr4 & CR4_PKE) && (access & PF_U) && !(kind & PF_ID);
            if (!keyed && !hv_permission_fault(regs, access, 0, kind))
                e->allowed[access] |= 1u << kind;
        }
    }
    for (int l = 0; l < LEVELS; l++) {
        for (size_t i = 0; i < entries_in(&e->tlb[l]); i++)
            e->tlb[l].entries[i].kinds = kinds_of(e, &e->tlb[l].entries[i]);
        for (size_t set = 0; set < entries_in(&e->tlb[l]); set += e->tlb[l].ways)
            show(&e->tlb[l], set);
    }
}

static int make_level(level *l, hv_geometry geometry, int is_first)
{
    l->mask = geometry.sets - 1;
    l->ways = geometry.ways;
    l->tags = malloc(entries_in(l) * sizeof *l->tags);
    l->entries = calloc(entries_in(l), sizeof *l->entries);
    l->fronts = is_first ? calloc(geometry.sets, sizeof *l->fronts) : NULL;
    if (!l->tags || !l->entries || (is_first && !l->fronts))
        return 0;
    empty(l);
    return 1;
}

hv_engine *hv_new(uint8_t *memory, uint64_t size, hv_geometry instruction, hv_geometry data,
                  hv_geometry second)
{
    hv_engine *e = calloc(1, sizeof *e);
    if (!e)
        return NULL;
    e->space.bytes = memory;
    e->space.size = size;
    e->seen[0] = 1;
    if (!make_level(&e->tlb[INSTRUCTION], instruction, 1) ||
        !make_level(&e->tlb[DATA], data, 1) || !make_level(&e->tlb[SECOND], second, 0)) {
        hv_free(e);
        return NULL;
    }
    return e;
}

void hv_free(hv_engine *e)
{
    if (!e)
        return;
    for (int l = 0; l < LEVELS; l++) {
        free(e->tlb[l].tags);
        free(e->tlb[l].entries);
        free(e->tlb[l].fronts);
    }
    free(e);
}

const hv_counts *hv_counts_of(const hv_engine *e) { return &e->counts; }
