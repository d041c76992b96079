/* Walks through a guest's page tables in any mode: spec/walk.py is the reference. */

#include "walk_inline.h"

uint64_t hv_load(const hv_space *space, uint64_t pa, int32_t size) { return load(space, pa, size); }

void hv_store(const hv_space *space, uint64_t pa, uint64_t value, int32_t size)
{
    store(space, pa, value, size);
}

/* SDM "Access Rights", "Protection Keys". */
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

void hv_grants_of(const hv_regs *regs, uint32_t grants[32])
{
    for (uint32_t access = 0; access < 32; access++) {
        grants[access] = 0;
        for (uint32_t kind = 0; kind < 32; kind++) {
            int keyed = (regs->cr4 & CR4_PKE) && (access & PF_U) && !(kind & PF_ID);
            if (!keyed && !hv_permission_fault(regs, access, 0, kind))
                grants[access] |= 1u << kind;
        }
    }
}

/* Return where the root table is: SDM "Use of CR3 with 32-Bit Paging" and its like for other modes. */
static uint64_t root_of(const hv_formats *f, uint64_t cr3)
{
    if (f->is_pae)
        return cr3 & 0xffffffe0ull;
    return cr3 & (f->is_legacy32 ? 0xfffff000ull : PTE_ADDRESS);
}

static ALWAYS_INLINE void walk_in(const hv_space *space, const hv_regs *regs, const hv_formats *f,
                                  uint64_t va, uint32_t kind, hv_walked *out)
{
    const uint32_t depth = (uint32_t)f->depth;
    const uint64_t root = root_of(f, regs->cr3);
    last_entry last;
    uint32_t shift;
    if (!is_canonical(f, va)) {
        not_canonical(out);
        return;
    }
    if (f->entry_size == 8) {
        last = walk64_descend(space, f, va, depth, root, NO_ENTRIES, out->path);
        shift = walk64_shift(last.level);
    } else {
        last = walk32_descend(space, f, va, depth, root, NO_ENTRIES, out->path);
        shift = walk32_shift(last.level);
    }
    out->refs = depth - last.level + 1;
    end_walk(regs, f, NULL, va, kind, shift, last, out);
}

static ALWAYS_INLINE void mark_in(const hv_space *space, const hv_formats *f, const hv_walked *w,
                                  uint32_t kind)
{
    const uint32_t first = f->is_pae; /* a page-directory pointer has neither A nor D */
    const uint64_t dirty = kind & PF_W ? PTE_D : 0;
    if (f->entry_size == 8)
        walk64_mark(space, w->path + first, w->refs - first, PTE_A, dirty);
    else
        walk32_mark(space, w->path, w->refs, PTE_A, dirty);
}

/* Both are compiled once for each kind of space: memory that is one array pays for no other. */

static __attribute__((noinline)) void walk_through(const hv_space *space, const hv_regs *regs,
                                                   const hv_formats *f, uint64_t va, uint32_t kind,
                                                   hv_walked *out)
{
    walk_in(space, regs, f, va, kind, out);
}

void hv_walk(const hv_space *space, const hv_regs *regs, const hv_formats *f, uint64_t va,
             uint32_t kind, hv_walked *out)
{
    const hv_space flat = {space->bytes, space->size, NULL};
    if (space->through)
        walk_through(space, regs, f, va, kind, out);
    else
        walk_in(&flat, regs, f, va, kind, out);
}

void hv_set_accessed_dirty(const hv_space *space, const hv_formats *f, const hv_walked *w,
                           uint32_t kind)
{
    mark_in(space, f, w, kind);
}
