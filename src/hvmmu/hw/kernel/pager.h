/* The guest's handler of page faults. */

#include <stdint.h>

/* Take a page fault at cr2; return HV_RETRY, or HV_FAILED if Python failed. */
int32_t hv_page_fault(hv_lane *l, uint32_t pfec);
