/* The walk in two dimensions: spec/walk_2d.py is the reference. cffi reads this file too, without its
 * directives. */

#pragma once

#include "walk.h"

typedef struct {
    uint64_t bits, code;
    int32_t dirties;
} hv_need;

/* The second dimension's entries: TdpFormats of arch/tdp.py, by level where it says so. */
typedef struct {
    int32_t depth, gpa_bits;
    int32_t large[6];
    uint64_t reserved[6], reserved_large[6];
    uint64_t present, inverted, without_read, accessed, dirty;
    uint32_t memory_types;
    int32_t reserved_tells;
    hv_need needs[7];       /* by use */
    uint64_t codes[3];      /* by cause */
    uint64_t shown[4], told[4];
    uint64_t turned[32];    /* by the guest's access: the bits of the code that it turns over */
} hv_tdp;

/* How a walk ended: TdpFault, or the guest's own end; what both came to if neither stopped it. */
typedef struct {
    int32_t faulted, cause, use;
    uint32_t level; /* of the host's entry that faulted, or of the smaller page */
    uint64_t gpa, code;
    uint64_t hpa;
    uint32_t access, host_refs;
    uint8_t readable, dirty;
    hv_walked guest;
} hv_nested;

void hv_nested_walk(uint8_t *memory, uint64_t size, const hv_regs *regs, const hv_formats *formats,
                    const hv_tdp *tdp, uint64_t root, uint64_t gva, uint32_t kind, hv_nested *out);

/* Walk for each access; return the index of the first without a translation, or count. *out is of
 * the last walk, and refs takes the entries read: the guest's, the host's. landed may be NULL. */
uint64_t hv_nested_walks(uint8_t *memory, uint64_t size, const hv_regs *regs,
                         const hv_formats *formats, const hv_tdp *tdp, uint64_t root,
                         const uint64_t *gva, const uint8_t *kind, uint64_t start, uint64_t count,
                         uint64_t *landed, uint64_t *refs, hv_nested *out);
