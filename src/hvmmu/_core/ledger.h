/* Counts of one vCPU: faults by what became of them, exits by name, privileged operations. cffi reads
 * this file too, so it has no directives. */

enum {
    HV_LEDGER_KEYS = 1 << 18, /* of a row: level in 3 bits, error code in 8, cause in 4, route in 3 */
    HV_LEDGER_ROWS = 4096,    /* rows that can be in use */
    HV_LEDGER_EXITS = 128     /* names of exits */
};

typedef struct {
    uint64_t accesses, invlpg, cr3_loads, tlb_flushes, direct_switches;
    uint64_t remote_flushes;              /* that changes by other vCPUs have caused here */
    uint64_t guest_walk_refs;             /* guest PTEs that the hypervisor's walks read */
    uint64_t exits[128];                  /* by the number of the exit's name */
    uint64_t faults[1 << 18];             /* by key */
    uint32_t used[4096];                  /* keys whose count is not zero, in order of first use */
    uint32_t used_count;
} hv_ledger;
