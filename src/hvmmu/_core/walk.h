/* Walks through a guest's page tables, and what they grant: spec/walk.py is the reference.
 *
 * Addresses are in bytes. Level 1 maps 4 KiB. cffi reads this file too, without its directives.
 */

#pragma once

#include "arch.h"

/* A paging mode under the registers in force: arch/paging.py's table, by level where it says so. */
typedef struct {
    int32_t depth;             /* number of levels, the root's being the highest */
    int32_t entry_size;        /* bytes */
    int32_t va_bits;
    int32_t sign_extended;
    int32_t is_pae, is_legacy32;
    int32_t large[6];          /* by level: PS makes an entry a leaf */
    uint64_t reserved[6], reserved_large[6]; /* by level */
    uint64_t pse36;            /* bits of a 4 MiB entry that are bits 39:32 of the address */
} hv_formats;

/* Accessors for guest-physical memory that is not one array: it has memslots, or lies behind EPT or
 * NPT. */
typedef struct hv_way {
    uint64_t (*load)(struct hv_way *way, uint64_t pa, int32_t size);
    void (*store)(struct hv_way *way, uint64_t pa, uint64_t value, int32_t size);
} hv_way;

/* A physical address space: all ones come from beyond its end, and stores there are lost. */
typedef struct {
    uint8_t *bytes;
    uint64_t size;   /* in bytes, a multiple of 8 */
    hv_way *through; /* used instead of bytes and size, unless it is NULL */
} hv_space;

/* An entry that was read, and what the path allows from there on: in the bits of a kind. */
typedef struct {
    uint64_t pa, entry;
    uint64_t access;
} hv_step;

typedef struct {
    int32_t ok; /* translated; else pfec says why not, or general_protection is set */
    int32_t general_protection;
    uint32_t pfec;
    uint32_t level;  /* of the last entry read, 0 if none was */
    uint32_t access; /* what the path allows, in the bits of a kind */
    uint32_t refs;   /* entries read */
    hv_step path[5]; /* refs of them, the root's entry first */
    /* Of a walk that is ok: */
    uint64_t pa;
    uint8_t pkey;
    uint8_t dirty;   /* D of the leaf after the walk */
    uint8_t global;
    uint8_t marked;  /* A, and D for a write, are set already where the walk would set them */
} hv_walked;

uint64_t hv_load(const hv_space *space, uint64_t pa, int32_t size);
void hv_store(const hv_space *space, uint64_t pa, uint64_t value, int32_t size);

/* Walk with no effect. */
void hv_walk(const hv_space *space, const hv_regs *regs, const hv_formats *formats, uint64_t va,
             uint32_t kind, hv_walked *out);

/* Set the bits that a walk which is ok sets in its entries. SDM "Accessed and Dirty Flags". */
void hv_set_accessed_dirty(const hv_space *space, const hv_formats *formats, const hv_walked *w,
                           uint32_t kind);

/* Return 0 if access allows kind, else P and PK as the error code has them. SDM "Access Rights". */
uint32_t hv_permission_fault(const hv_regs *regs, uint32_t access, uint32_t pkey, uint32_t kind);

/* Work out by access, a bit for each kind, what registers grant whatever a page's key. Where the bit is
 * clear, hv_permission_fault decides. */
void hv_grants_of(const hv_regs *regs, uint32_t grants[32]);
