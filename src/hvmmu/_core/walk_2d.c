/* The walk in two dimensions: what spec/walk_2d.py says in words, and no more.
 *
 * The guest's dimension is hv_walk itself, over a space whose loads and stores come back here.
 */

#include <stddef.h>
#include <stdint.h>
#include <string.h>

#include "arch.h"
#include "thread.h"
#include "walk.h"
#include "walk_2d.h"

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

static int is_leaf(const hv_tdp *t, uint64_t entry, int n)
{
    return n == 1 || ((entry & PTE_PS) && t->large[n]);
}

static int is_reserved(const hv_tdp *t, uint64_t entry, int n)
{
    int leaf = is_leaf(t, entry, n);
    if (entry & (leaf ? t->reserved_large : t->reserved)[n])
        return 1;
    if ((entry & t->without_read) && !(entry & 1))
        return 1;
    return leaf && !(t->memory_types >> (entry >> 3 & 7) & 1);
}

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

static int stop(through *s, int cause, int use, uint64_t gpa, uint64_t path, int n,
                uint32_t access)
{
    hv_nested *out = s->out;
    out->faulted = 1;
    out->cause = cause;
    out->use = use;
    out->level = (uint32_t)n;
    out->gpa = gpa;
    out->code = code_of(s->tdp, cause, use, path, access);
    return 0;
}

static void mark(const hv_space *host, uint64_t where, uint64_t entry, uint64_t bits)
{
    if ((entry | bits) != entry)
        hv_store(host, where, entry | bits, 8);
}

/* Walk for gpa, setting accessed and dirty bits if it succeeds; 0 if it stops the whole walk. */
static int translate(through *s, uint64_t gpa, int use, uint32_t access, landing *out)
{
    const hv_tdp *t = s->tdp;
    uint64_t table = s->root, path = ~0ull, entry, where[6], used[6];
    if (gpa >> t->gpa_bits) /* more than the levels can translate */
        return stop(s, HV_NOT_PRESENT, use, gpa, 0, 0, access);
    int n = t->depth;
    for (;; n--) {
        where[n] = table + 8 * (gpa >> t->shift[n] & ((1ull << t->bits[n]) - 1));
        entry = used[n] = hv_load(&s->host, where[n], 8);
        s->out->host_refs++;
        path &= entry ^ t->inverted;
        if (!(entry & t->present))
            return stop(s, HV_NOT_PRESENT, use, gpa, path, n, access);
        if (is_reserved(t, entry, n))
            return stop(s, HV_RESERVED, use, gpa, path, n, access);
        if (is_leaf(t, entry, n))
            break;
        table = entry & PTE_ADDRESS;
    }
    if (!allows(t, path, use))
        return stop(s, HV_DENIED, use, gpa, path, n, access);
    int writes = t->needs[use].dirties;
    for (int i = t->depth; i >= n; i--)
        mark(&s->host, where[i], used[i], t->accessed | (i == n && writes ? t->dirty : 0));
    uint64_t span = 1ull << t->shift[n];
    *out = (landing){.gpa = gpa,
                     .hpa = (entry & PTE_ADDRESS & -span) | (gpa & (span - 1)),
                     .path = path,
                     .level = (uint32_t)n,
                     .dirty = writes || !t->dirty || (entry & t->dirty)};
    return 1;
}

/* Read an entry of the guest's tables; one that cannot be read is not present. */
static uint64_t load(hv_way *way, uint64_t pa, int32_t size)
{
    through *s = (through *)way;
    landing *to = &s->entries[s->count];
    if (!translate(s, pa, s->count ? HV_USE_TABLE : s->first, 0, to))
        return 0;
    s->count++;
    return hv_load(&s->host, to->hpa, size);
}

/* Set bits in an entry that was read, if the path to it allows that. */
static void store(hv_way *way, uint64_t pa, uint64_t value, int32_t size)
{
    through *s = (through *)way;
    uint32_t i = s->count - 1;
    if (s->out->faulted)
        return;
    while (s->entries[i].gpa != pa)
        i--;
    const landing *to = &s->entries[i];
    if (allows(s->tdp, to->path, HV_USE_MARK))
        hv_store(&s->host, to->hpa, value, size);
    else
        stop(s, HV_DENIED, HV_USE_MARK, pa, to->path, (int)to->level, 0);
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
    s.way = (hv_way){load, store};
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
