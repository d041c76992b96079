/* The ways back into Python: each answers what became of it. cffi reads this and writes them. */

#include <stdint.h>

int32_t hv_ask(void *self, int32_t what, uint64_t value, int32_t has_value);

/* A page fault has exited, and the MMU has not been asked yet. */
int32_t hv_exited(void *self, uint64_t gva, uint32_t pfec);

/* An INVLPG has exited; HV_GO_ON: it is to be carried out as it is. */
int32_t hv_invlpg_exited(void *self, uint64_t gva);

/* A page fault was routed: the row is the ledger's. */
int32_t hv_faulted(void *self, uint64_t gva, uint32_t pfec, uint32_t row, uint32_t walk_refs,
                   uint64_t gpa);

/* An entry of a shadow table changes, and the engine has a way of its own to store it. */
void hv_write_pte(void *self, uint64_t hpa, uint64_t spte);
