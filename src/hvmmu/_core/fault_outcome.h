/* What became of a fault: routes and causes are those of fault.py. */

#include "arch.h"

typedef struct {
    uint32_t route, cause, pfec, level, walk_refs;
    int32_t flush; /* everything is to leave the TLB */
    uint64_t gpa;
} hv_handled;

/* Name the rule of the guest's tables that a fault broke. */
uint32_t hv_guest_cause(uint32_t pfec, uint32_t access, uint32_t kind, const hv_regs *regs);

/* Route a fault that exited; 0, with nothing done, if it is none that is handled here. */
int hv_handle(hv_mmu *mmu, uint64_t gva, uint32_t pfec, hv_handled *out);

/* Complete a guest's store of 8 bytes; return whether a flush is owed. */
int hv_emulate_store(hv_mmu *mmu, uint64_t gpa, uint64_t value);
