/* The guest's handler of page faults. */

#include <stdint.h>

/* Handle the page fault that the guest takes; return what became of the access. */
int32_t hv_page_fault(hv_vcpu *l);
