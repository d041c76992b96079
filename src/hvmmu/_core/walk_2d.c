/* The walk in two dimensions: spec/walk_2d.py is the reference.
 *
 * The guest's dimension is hv_walk itself, over a space whose loads and stores come back here. SDM "EPT
 * Translation Mechanism", APM "Nested Paging".
 */

#include <stddef.h>
#include <stdint.h>
#include <string.h>

#include "walk_2d.h"
#include "walk_inline.h"

typedef struct {
    uint64_t gpa, hpa, path;
    uint32_t level;
    int32_t dirty;
} landing;

/* Guest-physical memory behind the second dimension, for one walk. */
typedef struct {
    hv_way way; /* to it, from the walk of the guest's dimension */
    hv_space host;
    const hv_tdp *tdp;
    uint64_t root;
    hv_nested *out;
    int32_t first;       /* what the first load is */
    uint32_t count;
    landing entries[5];  /* those of the guest's that were read */
} through;

static int is_leaf(const hv_tdp *t, uint64_t entry, uint32_t n)
{
    return n == 1 || ((entry & PTE_PS) && t->large[n]);
}

static int is_reserved(const hv_tdp *t, uint64_t entry, uint32_t n)
{
    int leaf = is_leaf(t, entry, n);
    if (entry & (leaf ? t->reserved_large : t->reserved)[n])
        return 1;
    if ((entry & t->without_read) && !(entry & 1))
        return 1;
    return leaf && !(t->memory_types >> (entry >> 3 & 7) & 1);
}

/* The instance of the walk for the second dimension: what a path allows are the bits that all its
 * entries have, those that forbid turned over. */

static inline int tdp_has_rights(const hv_tdp *t, uint64_t entry, uint32_t level, int is_link)
{
    (void)t, (void)entry, (void)level, (void)is_link;
    return 1;
}

static inline uint64_t tdp_access(const hv_tdp *t, path_bits bits)
{
    return (bits.all & ~t->inverted) | (~bits.any & t->inverted);
}

static inline int tdp_is_link(const hv_tdp *t, uint64_t entry, uint32_t level)
{
    return (entry & t->present) && !is_leaf(t, entry, level) && !is_reserved(t, entry, level);
}

#define WALK(name) tdp_##name
#define ENTRY_BYTES 8
#define FORMATS hv_tdp
#include "walk_tmpl.h"

static int allows(const hv_tdp *t, uint64_t path, int use) { return !(t->needs[use].bits & ~path); }

static uint64_t code_of(const hv_tdp *t, int cause, int use, uint64_t path, uint32_t access)
{
    if (cause == HV_RESERVED && !t->reserved_tells)
        return 0;
    uint64_t code = t->codes[cause] | t->needs[use].code;
    for (int i = 0; i < 4; i++)
        if (path & t->shown[i])
            code |= t->told[i];
    return use >= HV_USE_READ ? code ^ t->turned[access & 31] : code;
}

static int stop(through *s, int cause, int use, uint64_t gpa, uint64_t path, uint32_t level,
                uint32_t access)
{
    hv_nested *out = s->out;
    out->faulted = 1;
    out->cause = cause;
    out->use = use;
    out->level = level;
    out->gpa = gpa;
    out->code = code_of(s->tdp, cause, use, path, access);
    return 0;
}

/* Walk for gpa, setting accessed and dirty bits if it succeeds; 0 if it stops the whole walk. */
static int translate(through *s, uint64_t gpa, int use, uint32_t access, landing *out)
{
    const hv_tdp *t = s->tdp;
    hv_step path[5];
    if (gpa >> t->gpa_bits) /* more than the levels can translate */
        return stop(s, HV_NOT_PRESENT, use, gpa, 0, 0, access);
    const uint32_t depth = (uint32_t)t->depth;
    const last_entry last = tdp_descend(&s->host, t, gpa, depth, s->root, NO_ENTRIES, path);
    const uint32_t n = last.level, refs = depth - n + 1;
    const uint64_t rights = tdp_access(t, last.bits);
    s->out->host_refs += refs;
    if (!(last.entry & t->present))
        return stop(s, HV_NOT_PRESENT, use, gpa, rights, n, access);
    if (is_reserved(t, last.entry, n))
        return stop(s, HV_RESERVED, use, gpa, rights, n, access);
    if (!allows(t, rights, use))
        return stop(s, HV_DENIED, use, gpa, rights, n, access);
    const int writes = t->needs[use].dirties;
    tdp_mark(&s->host, path, refs, t->accessed, writes ? t->dirty : 0);
    const uint64_t offset = (1ull << tdp_shift(n)) - 1;
    *out = (landing){.gpa = gpa,
                     .hpa = (last.entry & PTE_ADDRESS & ~offset) | (gpa & offset),
                     .path = rights,
                     .level = n,
                     .dirty = writes || !t->dirty || (last.entry & t->dirty)};
    return 1;
}

/* Read an entry of the guest's tables; one that cannot be read is not present. */
static uint64_t load_guest(hv_way *way, uint64_t pa, int32_t size)
{
    through *s = (through *)way;
    landing *to = &s->entries[s->count];
    if (!translate(s, pa, s->count ? HV_USE_TABLE : s->first, 0, to))
        return 0;
    s->count++;
    return load(&s->host, to->hpa, size);
}

/* Set bits in an entry that was read, if the path to it allows that. */
static void store_guest(hv_way *way, uint64_t pa, uint64_t value, int32_t size)
{
    through *s = (through *)way;
    uint32_t i = s->count - 1;
    if (s->out->faulted)
        return;
    while (s->entries[i].gpa != pa)
        i--;
    const landing *to = &s->entries[i];
    if (allows(s->tdp, to->path, HV_USE_MARK))
        store(&s->host, to->hpa, value, size);
    else
        stop(s, HV_DENIED, HV_USE_MARK, pa, to->path, to->level, 0);
}

static int use_of(uint32_t kind, uint32_t access)
{
    if (kind & PF_ID)
        return access & PF_U ? HV_USE_FETCH_USER : HV_USE_FETCH;
    return kind & PF_W ? HV_USE_WRITE : HV_USE_READ;
}

/* Fill in what both dimensions together come to. */
static void compose(const hv_tdp *t, const landing *to, hv_nested *out)
{
    const hv_walked *guest = &out->guest;
    out->hpa = to->hpa;
    out->access = guest->access;
    if (!allows(t, to->path, HV_USE_WRITE))
        out->access &= ~PF_W;
    if (!allows(t, to->path, use_of(PF_ID, guest->access)))
        out->access &= ~PF_ID;
    out->readable = (uint8_t)allows(t, to->path, HV_USE_READ);
    out->level = guest->level < to->level ? guest->level : to->level;
    out->dirty = guest->dirty && to->dirty;
}

void hv_nested_walk(uint8_t *memory, uint64_t size, const hv_regs *regs, const hv_formats *formats,
                    const hv_tdp *tdp, uint64_t root, uint64_t gva, uint32_t kind, hv_nested *out)
{
    through s;
    hv_space guest = {.through = &s.way};
    landing to;
    s.way = (hv_way){load_guest, store_guest};
    s.host = (hv_space){.bytes = memory, .size = size};
    s.tdp = tdp;
    s.root = root;
    s.out = out;
    s.first = formats->is_pae ? HV_USE_POINTER : HV_USE_TABLE;
    s.count = 0;
    memset(out, 0, offsetof(hv_nested, guest));
    hv_walk(&guest, regs, formats, gva, kind, &out->guest);
    if (out->faulted) {
        out->guest.refs--; /* it could not be read */
        return;
    }
    if (!out->guest.ok)
        return;
    hv_set_accessed_dirty(&guest, formats, &out->guest, kind);
    if (out->faulted)
        return;
    uint32_t access = out->guest.access;
    if (translate(&s, out->guest.pa, use_of(kind, access), access, &to))
        compose(tdp, &to, out);
}

uint64_t hv_nested_walks(uint8_t *memory, uint64_t size, const hv_regs *regs,
                         const hv_formats *formats, const hv_tdp *tdp, uint64_t root,
                         const uint64_t *gva, const uint8_t *kind, uint64_t start, uint64_t count,
                         uint64_t *landed, uint64_t *refs, hv_nested *out)
{
    for (uint64_t at = start; at < count; at++) {
        hv_nested_walk(memory, size, regs, formats, tdp, root, gva[at], kind[at], out);
        refs[0] += out->guest.refs;
        refs[1] += out->host_refs;
        if (out->faulted || !out->guest.ok)
            return at;
        if (landed)
            landed[at] = out->hpa;
    }
    return count;
}
