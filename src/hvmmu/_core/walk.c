/* Walks over real entries, and what they grant: spec/walk.py says it in words.
 *
 * A space may be physical memory, or lie behind a second dimension.
 */

#include <stddef.h>
#include <stdint.h>
#include <string.h>

#include "arch.h"
#include "thread.h"
#include "walk.h"

/* Memory: all ones come from beyond its end, and stores there are lost. */

static inline uint64_t load(const hv_space *space, uint64_t pa, int32_t size)
{
    if (space->through)
        return space->through->load(space->through, pa, size);
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

static inline void store(const hv_space *space, uint64_t pa, uint64_t value, int32_t size)
{
    if (space->through) {
        space->through->store(space->through, pa, value, size);
        return;
    }
    if (pa > space->size || space->size - pa < (uint64_t)size)
        return;
    if (size == 8) {
        memcpy(space->bytes + pa, &value, 8);
    } else {
        uint32_t narrow = (uint32_t)value;
        memcpy(space->bytes + pa, &narrow, 4);
    }
}

uint64_t hv_load(const hv_space *space, uint64_t pa, int32_t size) { return load(space, pa, size); }

void hv_store(const hv_space *space, uint64_t pa, uint64_t value, int32_t size)
{
    store(space, pa, value, size);
}

/* Return 0 if access allows kind, else P and PK as the error code has them: SDM "Access Rights". */
static inline uint32_t permission_fault(const hv_regs *regs, uint32_t access, uint32_t pkey,
                                        uint32_t kind)
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

uint32_t hv_permission_fault(const hv_regs *regs, uint32_t access, uint32_t pkey, uint32_t kind)
{
    return permission_fault(regs, access, pkey, kind);
}

/* The walk. */

static int is_canonical(const hv_formats *f, uint64_t va)
{
    if (!f->sign_extended)
        return va >> f->va_bits == 0;
    int above = 64 - f->va_bits;
    return (uint64_t)((int64_t)(va << above) >> above) == va;
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
static inline __attribute__((always_inline)) void mark_in(const hv_space *space,
                                                          const hv_formats *f,
                                                          const hv_walked *w, uint32_t kind)
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

/* The kind as an error code has it: a fetch is told from a read only in some modes. */
static uint32_t shown(const hv_regs *regs, const hv_formats *f, uint32_t kind)
{
    int shows = ((regs->efer & EFER_NXE) && !f->is_legacy32) || (regs->cr4 & CR4_SMEP);
    return shows ? kind : kind & ~PF_ID;
}

static uint32_t access_of(uint64_t entry)
{
    return (uint32_t)(entry & (PF_W | PF_U)) | ((uint32_t)(~entry >> 59) & PF_ID);
}

/* What a walk comes to by the entry that ends it, at level n: a leaf, or one that faults. */
static inline void end_walk(const hv_regs *regs, const hv_formats *f, uint64_t va, uint32_t kind,
                            hv_walked *out, int n, uint64_t entry)
{
    out->level = (uint32_t)n;
    if (!(entry & PTE_P)) {
        out->pfec = shown(regs, f, kind);
        return;
    }
    int large = (entry & PTE_PS) && f->large[n];
    if (entry & (large ? f->reserved_large : f->reserved)[n]) {
        int pointer = f->is_pae && n == 3; /* loaded with CR3, so it is the load that faults */
        out->general_protection = pointer;
        out->pfec = pointer ? 0 : shown(regs, f, kind) | PF_P | PF_RSVD;
        return;
    }
    uint32_t pkey = (uint32_t)(entry >> PTE_PKEY_SHIFT) & 15;
    uint32_t denied = permission_fault(regs, out->access, pkey, kind);
    if (denied) {
        out->pfec = shown(regs, f, kind) | denied;
        return;
    }
    out->ok = 1;
    out->pa = frame_of(f, entry, n) | (va & ((1ull << f->shift[n]) - 1));
    out->dirty = (entry & PTE_D) || (kind & PF_W);
    out->global = (entry & PTE_G) && (regs->cr4 & CR4_PGE);
    out->pkey = (uint8_t)pkey;
}

static inline __attribute__((always_inline)) void walk_in(const hv_space *space,
                                                          const hv_regs *regs, const hv_formats *f,
                                                          uint64_t va, uint32_t kind,
                                                          hv_walked *out)
{
    memset(out, 0, offsetof(hv_walked, path));
    if (!is_canonical(f, va)) {
        out->general_protection = 1;
        return;
    }
    uint64_t table = root_of(f, regs->cr3), entry = 0;
    uint32_t access = PF_W | PF_U | PF_ID;
    int n = f->depth;
    for (;; n--) {
        uint64_t index = va >> f->shift[n] & ((1ull << f->bits[n]) - 1);
        uint64_t where = table + index * (uint64_t)f->entry_size;
        int pointer = f->is_pae && n == 3;
        entry = load(space, where, f->entry_size);
        if ((entry & PTE_P) && !pointer)
            access &= access_of(entry);
        out->path[out->refs++] = (hv_step){where, entry, access};
        int large = (entry & PTE_PS) && f->large[n];
        if (!(entry & PTE_P) || large || n == 1 || (entry & f->reserved[n]))
            break;
        table = entry & PTE_ADDRESS;
    }
    out->access = access;
    end_walk(regs, f, va, kind, out, n, entry);
}

/* Both are compiled once for each kind of space: one dimension does not pay for the other. */

static __attribute__((noinline)) void walk_through(const hv_space *space, const hv_regs *regs,
                                                   const hv_formats *f, uint64_t va,
                                                   uint32_t kind, hv_walked *out)
{
    walk_in(space, regs, f, va, kind, out);
}

static __attribute__((noinline)) void mark_through(const hv_space *space, const hv_formats *f,
                                                   const hv_walked *w, uint32_t kind)
{
    mark_in(space, f, w, kind);
}

void hv_walk(const hv_space *space, const hv_regs *regs, const hv_formats *f, uint64_t va,
             uint32_t kind, hv_walked *out)
{
    if (space->through) {
        walk_through(space, regs, f, va, kind, out);
        return;
    }
    const hv_space flat = {space->bytes, space->size, NULL};
    walk_in(&flat, regs, f, va, kind, out);
}

void hv_set_accessed_dirty(const hv_space *space, const hv_formats *f, const hv_walked *w,
                           uint32_t kind)
{
    if (space->through) {
        mark_through(space, f, w, kind);
        return;
    }
    const hv_space flat = {space->bytes, space->size, NULL};
    mark_in(&flat, f, w, kind);
}
