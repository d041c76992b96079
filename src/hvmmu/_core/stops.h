/* What the parts of a vCPU share. It comes after vcpu.h and callbacks.h. */

#ifndef HV_STOPS_H
#define HV_STOPS_H

#include <stdint.h>
#include <string.h>

#define HV_NO_TRANSLATION (~0ull)

/* Handle the last stop, of an access that stores *operand (size bytes) or, with NULL, an unknown value,
   up to a page fault that the guest takes; return what it became. */
int32_t hv_stop_handle(hv_vcpu *v, const uint64_t *operand, uint32_t size);

/* Have the guest take the page fault v->delivered at v->cr2; return what became of the access. */
int32_t hv_take_page_fault(hv_vcpu *v);

static inline uint64_t peek(const hv_vcpu *v, uint64_t gpa)
{
    uint64_t value;
    memcpy(&value, v->ram + gpa, 8);
    return value;
}

#endif
