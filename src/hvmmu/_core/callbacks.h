/* The ways back into Python. Each answers HV_CONTINUE, HV_FAILED, or what became of the access. cffi
 * reads this and writes them. */

#include <stdint.h>

int32_t hv_call(void *self, int32_t what);

/* A page fault exits, and no MMU has looked at it: the exit is recorded and read back where exits are
   simulated, and hooks see it. vcpu->fault takes what is to be handled. */
int32_t hv_call_exit(void *self, uint64_t gva, uint32_t pfec);

/* An INVLPG exits; vcpu->value takes its address. */
int32_t hv_call_invlpg_exit(void *self, uint64_t gva);

/* A page fault was routed; key is the ledger's. */
int32_t hv_call_fault(void *self, uint64_t gva, uint32_t pfec, uint32_t key, uint32_t walk_refs,
                      uint64_t gpa);

/* Run accesses at..count on an engine in Python; return the index of the one that stopped, or count. */
uint64_t hv_call_engine(void *self, const uint64_t *gva, const uint8_t *kind, uint64_t at,
                        uint64_t count, uint64_t *translated);

/* The buffer of the event stream is full. */
void hv_call_events(void *self);

/* An entry of a shadow table changes, and the engine has a way of its own to store it. */
void hv_write_pte(void *self, uint64_t hpa, uint64_t spte);
