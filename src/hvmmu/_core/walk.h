/* The walk and its rules, for the C that is not the engine: spec/walk.py says them in words.
 *
 * cffi reads this file too, without its directives.
 */

#pragma once

#include "thread.h"

/* How memory is reached that lies behind a second dimension. */
typedef struct hv_way {
    uint64_t (*load)(struct hv_way *way, uint64_t pa, int32_t size);
    void (*store)(struct hv_way *way, uint64_t pa, uint64_t value, int32_t size);
} hv_way;

/* A physical address space: all ones come from beyond its end, and stores there are lost. */
typedef struct {
    uint8_t *bytes;
    uint64_t size;
    hv_way *through; /* else that is the way there; NULL as a rule */
} hv_space;

typedef struct {
    uint64_t pa, entry;
    uint32_t access; /* what the path allows so far */
} hv_step;

typedef struct {
    int32_t ok; /* translated; else pfec says why not, or general_protection is set */
    int32_t general_protection;
    uint32_t pfec, level, access, refs;
    uint64_t pa;
    uint8_t pkey, dirty, global;
    hv_step path[5]; /* refs of them, the root's entry first */
} hv_walked;

uint64_t hv_load(const hv_space *space, uint64_t pa, int32_t size);
void hv_store(const hv_space *space, uint64_t pa, uint64_t value, int32_t size);

/* Walk with no effect; the bits that a walk sets in the entries are set by the second. */
void hv_walk(const hv_space *space, const hv_regs *regs, const hv_formats *formats, uint64_t va,
             uint32_t kind, hv_walked *out);
void hv_set_accessed_dirty(const hv_space *space, const hv_formats *formats, const hv_walked *w,
                           uint32_t kind);

/* Return 0 if access allows kind, else P and PK as the error code has them: SDM "Access Rights". */
uint32_t hv_permission_fault(const hv_regs *regs, uint32_t access, uint32_t pkey, uint32_t kind);
