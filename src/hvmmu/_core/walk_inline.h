/* The walk as inline functions, for those who walk at every miss or fault.
 *
 * hv_walk in walk.c does for all others. Where four levels of 8-byte entries are known to be in force,
 * hv_walk_long4 is the same walk with shifts and masks as constants.
 */

#pragma once

#include <stddef.h>
#include <stdint.h>
#include <string.h>

#include "arch.h"
#include "walk.h"

#define ALWAYS_INLINE inline __attribute__((always_inline))
#define ALL_ACCESS ((uint64_t)(PF_W | PF_U | PF_ID)) /* what CR3 allows, before any entry narrows it */

_Static_assert(PF_W == PTE_W && PF_U == PTE_U, "an entry's W and U are those of a kind");
_Static_assert(PTE_NX >> 59 == PF_ID, "NX, moved, is the bit of a fetch");

/* Memory. */

static inline uint64_t load(const hv_space *space, uint64_t pa, int32_t size)
{
    if (space->through)
        return space->through->load(space->through, pa, size);
    if (pa + (uint64_t)size > space->size)
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

/* The same for an entry: it is aligned, and so it lies in the memory if its first byte does. */
static inline uint64_t load_entry(const hv_space *space, uint64_t pa, int32_t size)
{
    uint64_t wide = ~0ull;
    uint32_t narrow = ~0u;
    if (space->through)
        return space->through->load(space->through, pa, size);
    if (pa < space->size)
        memcpy(size == 8 ? (void *)&wide : &narrow, space->bytes + pa, (size_t)size);
    return size == 8 ? wide : narrow;
}

static inline void store(const hv_space *space, uint64_t pa, uint64_t value, int32_t size)
{
    if (space->through) {
        space->through->store(space->through, pa, value, size);
        return;
    }
    if (pa + (uint64_t)size > space->size)
        return;
    if (size == 8) {
        memcpy(space->bytes + pa, &value, 8);
    } else {
        uint32_t narrow = (uint32_t)value;
        memcpy(space->bytes + pa, &narrow, 4);
    }
}

/* What entries grant. */

/* Bits of the entries of a path: those that all have, those that any has. */
typedef struct {
    uint64_t all, any;
} path_bits;

/* The entry that ends a descent. */
typedef struct {
    uint32_t level;
    uint64_t entry;
    path_bits bits; /* of the path, this entry included if it has rights */
} last_entry;

static const path_bits NO_ENTRIES = {.all = ~0ull, .any = 0};

/* Return what a path allows, in the bits of a kind. */
static inline uint32_t access_in(path_bits bits)
{
    return (uint32_t)(bits.all & (PTE_W | PTE_U)) | ((uint32_t)(~bits.any >> 59) & PF_ID);
}

/* Return what one entry allows. */
static inline uint32_t access_of(uint64_t entry)
{
    return access_in((path_bits){entry, entry});
}

/* Return a kind as an error code has it: ID is reported in some modes only. SDM "Page-Fault
 * Exceptions". */
static inline uint32_t reported_kind(const hv_regs *regs, const hv_formats *f, uint32_t kind)
{
    int fetches = ((regs->efer & EFER_NXE) && !f->is_legacy32) || (regs->cr4 & CR4_SMEP);
    return fetches ? kind : kind & ~PF_ID;
}

/* The two instances for a guest's own tables. */

/* Say whether entries of a level are PAE's page-directory pointers: they have no rights, no A and no D. */
static inline int is_pointer(const hv_formats *f, uint32_t level)
{
    return level == 3 && f->is_pae;
}

static inline int walk64_has_rights(const hv_formats *f, uint64_t entry, uint32_t level, int is_link)
{
    return (is_link || (entry & PTE_P)) && !is_pointer(f, level);
}

/* Where PS makes no leaf of an 8-byte entry above level 1, it is among the reserved bits. */
static inline int walk64_is_link(const hv_formats *f, uint64_t entry, uint32_t level)
{
    return level > 1 && (entry & (f->reserved[level] | PTE_PS | PTE_P)) == PTE_P;
}

static inline uint32_t walk64_access(const hv_formats *f, path_bits bits)
{
    (void)f;
    return access_in(bits);
}

static inline int walk32_has_rights(const hv_formats *f, uint64_t entry, uint32_t level, int is_link)
{
    (void)f, (void)level, (void)is_link;
    return !!(entry & PTE_P);
}

static inline int walk32_is_link(const hv_formats *f, uint64_t entry, uint32_t level)
{
    return level > 1 && (entry & PTE_P) && !((entry & PTE_PS) && f->large[level]);
}

static inline uint32_t walk32_access(const hv_formats *f, path_bits bits)
{
    (void)f;
    return access_in(bits);
}

#define WALK(name) walk64_##name
#define ENTRY_BYTES 8
#define FORMATS hv_formats
#include "walk_tmpl.h"

#define WALK(name) walk32_##name
#define ENTRY_BYTES 4
#define FORMATS hv_formats
#include "walk_tmpl.h"

/* Ends of a walk. */

enum { WALK_OK, WALK_FAULTS, WALK_PROTECTION }; /* the last: a general-protection exception */

/* Say how a walk ends whose last entry is this one; *pfec is for WALK_FAULTS. grants is as hv_grants_of
 * has it, or NULL; is_keyed says whether CR4.PKE is set. */
static ALWAYS_INLINE int end_of_walk(const hv_regs *regs, const hv_formats *f, const uint32_t *grants,
                                     int is_keyed, uint32_t kind, last_entry last, uint32_t *pfec)
{
    const uint64_t entry = last.entry;
    const uint32_t n = last.level, access = access_in(last.bits);
    if (!(entry & PTE_P)) {
        *pfec = reported_kind(regs, f, kind);
        return WALK_FAULTS;
    }
    const int large = n > 1 && (entry & PTE_PS) && f->large[n];
    if (entry & (large ? f->reserved_large : f->reserved)[n]) {
        *pfec = reported_kind(regs, f, kind) | PF_P | PF_RSVD;
        /* A page-directory pointer is loaded with CR3, so it is the load that faults. */
        return is_pointer(f, n) ? WALK_PROTECTION : WALK_FAULTS;
    }
    if (grants && (grants[access] >> kind & 1))
        return WALK_OK;
    const uint32_t pkey = (uint32_t)(entry >> PTE_PKEY_SHIFT) & 15;
    const uint32_t denied =
        grants && !is_keyed ? PF_P : hv_permission_fault(regs, access, pkey, kind);
    *pfec = reported_kind(regs, f, kind) | denied;
    return denied ? WALK_FAULTS : WALK_OK;
}

/* Return the leaf of a walk that is ok with the bits that the walk sets: A, and D for a write. */
static inline uint64_t marked_leaf(last_entry last, uint32_t kind)
{
    return last.entry | PTE_A | (kind & PF_W) * (PTE_D / PF_W);
}

/* Say whether a walk that is ok sets no bits. */
static inline int is_marked(last_entry last, uint32_t kind)
{
    return (last.bits.all & PTE_A) && marked_leaf(last, kind) == last.entry;
}

/* Fill in what a walk comes to, but for its path. shift is the leaf's. */
static ALWAYS_INLINE void end_walk(const hv_regs *regs, const hv_formats *f, const uint32_t *grants,
                                   uint64_t va, uint32_t kind, uint32_t shift, last_entry last,
                                   hv_walked *out)
{
    uint32_t pfec = 0;
    const int end = end_of_walk(regs, f, grants, !!(regs->cr4 & CR4_PKE), kind, last, &pfec);
    out->ok = end == WALK_OK;
    out->general_protection = end == WALK_PROTECTION;
    out->pfec = end == WALK_FAULTS ? pfec : 0;
    out->level = last.level;
    out->access = access_in(last.bits);
    if (end != WALK_OK)
        return;
    const uint64_t leaf = marked_leaf(last, kind), offset = (1ull << shift) - 1;
    out->pa = (leaf & PTE_ADDRESS & ~offset) | (va & offset);
    if (last.level == 2)
        out->pa |= (leaf & f->pse36) << 19; /* PSE-36: bits 20:13 become 39:32 */
    out->pkey = (uint8_t)(leaf >> PTE_PKEY_SHIFT & 15);
    out->dirty = !!(leaf & PTE_D);
    out->global = (leaf & PTE_G) && (regs->cr4 & CR4_PGE);
    out->marked = (uint8_t)is_marked(last, kind);
}

static inline int is_canonical(const hv_formats *f, uint64_t va)
{
    if (!f->sign_extended)
        return va >> f->va_bits == 0;
    return !((va + (1ull << (f->va_bits - 1))) >> f->va_bits);
}

static inline void not_canonical(hv_walked *out)
{
    memset(out, 0, sizeof *out);
    out->general_protection = 1;
}

/* Walk four levels of 8-byte entries with no effect: 4-level paging, whose formats and registers these
 * must be; memory must be one array. SDM "4-Level Paging and 5-Level Paging". */
static ALWAYS_INLINE void hv_walk_long4(const hv_space *space, const hv_regs *regs,
                                        const hv_formats *f, const uint32_t *grants, uint64_t va,
                                        uint32_t kind, hv_walked *out)
{
    const hv_space flat = {space->bytes, space->size, NULL};
    if ((va + (1ull << 47)) >> 48) {
        not_canonical(out);
        return;
    }
    last_entry last = walk64_descend(&flat, f, va, 4, regs->cr3 & PTE_ADDRESS, NO_ENTRIES, out->path);
    out->refs = 5 - last.level;
    end_walk(regs, f, grants, va, kind, walk64_shift(last.level), last, out);
}
