/* The kernel of the guest: frames, page tables, page caches and the page-fault handler.
 *
 * It depends on no machine: all that it does to memory goes through the instructions of hv_guest_cpu.
 */
#pragma once

#include <stdint.h>

#include "arch.h"

/* Instructions of the guest's kernel; addresses are guest-virtual. Each returns 0 if an exception was
   raised in Python. */
typedef struct {
    void *self;
    int32_t (*load)(void *self, uint64_t gva, uint64_t *value);   /* MOV of 8 bytes */
    int32_t (*store)(void *self, uint64_t gva, uint64_t value);   /* MOV of 8 bytes */
    int32_t (*clear_page)(void *self, uint64_t gva);              /* REP STOSQ over 4 KiB */
    int32_t (*copy_page)(void *self, uint64_t gva, uint64_t source); /* REP MOVSQ over 4 KiB */
    int32_t (*invlpg)(void *self, uint64_t gva);
    /* Load the entries for gva in the tables below root, as load() would one after the other; *at takes
       the guest-physical address of the last one, *entry its value. Return how many were loaded: none
       if a table is missing. NULL: there is no such shortcut. */
    int32_t (*load_path)(void *self, uint64_t root, uint64_t gva, uint64_t *at, uint64_t *entry);
} hv_guest_cpu;

/* What came of a call. But for the first, each is an error that Python raises; hv_guest.value says which
   address or value is meant. */
enum {
    HV_GUEST_DONE,
    HV_GUEST_RAISED,         /* an exception was raised in Python */
    HV_GUEST_NO_HOST_MEMORY,
    HV_GUEST_NO_TABLE_FRAME, /* all page-table frames are in use */
    HV_GUEST_NO_DATA_FRAME,  /* all data frames are in use */
    HV_GUEST_NOT_SHARED,     /* value: a frame that has no holder, or is no data frame */
    HV_GUEST_NO_TABLE,       /* value: a frame that is no page table */
    /* Of faults: the workload's mistakes. */
    HV_GUEST_KERNEL_ADDRESS,
    HV_GUEST_NOT_MAPPED,
    HV_GUEST_NOT_WRITABLE,
    HV_GUEST_NOT_EXECUTABLE,
    HV_GUEST_NO_ACCESS,
    /* Of faults: no machine that works delivers these. */
    HV_GUEST_UNEXPECTED,     /* an error code that nothing in the guest's tables can cause */
    HV_GUEST_DIRECT_MAP,     /* the kernel faulted on its own memory */
    HV_GUEST_REPEATED,       /* the same fault, too often in a row */
    HV_GUEST_PARKED,         /* an entry of PROT_NONE in a region that allows access; value: its page */
    HV_GUEST_NO_FILE         /* value: the start of a file's region without a page cache */
};

/* What the guest's kernel in C calls Python for. */
enum {
    HV_GUEST_CALL_DRAIN,   /* add the fault log's buffer to the digest */
    HV_GUEST_CALL_REGIONS  /* describe the regions of the running process anew */
};

/* Frames of one purpose: guest-physical addresses from first up to end. The last frame given back goes
   out first, then those that were never used since boot, in order. */
typedef struct {
    uint64_t first, end;
    uint64_t next;       /* the first frame never used */
    uint32_t *free;      /* numbers (gpa / 4096) of frames given back: a stack */
    uint64_t free_count;
} hv_zone;

/* Page-cache frames of a file, by the page's address in its first mapping. */
typedef struct {
    uint64_t gva, frame;
} hv_cached_page;

typedef struct {
    hv_cached_page *pages; /* in the order in which they were read in */
    uint64_t count, room;
    uint32_t *places;      /* hash table of indices into pages, plus one; twice as many as room */
} hv_page_cache;

/* Addresses from start up to end under one protection, from one backing. */
typedef struct {
    uint64_t start, end;
    uint32_t prot;
    int32_t backing;
    hv_page_cache *file; /* NULL: anonymous memory */
} hv_region;

/* What a process has mapped. */
typedef struct {
    const hv_region *sorted; /* none overlap */
    uint64_t count;
    int32_t is_stale; /* they are to be described anew before they are read */
} hv_regions;

/* A walk over the leaves in use from gva up to end. */
typedef struct {
    uint64_t gva, end;
    uint64_t tables[5]; /* by level: the table that translates gva */
    int32_t level;      /* of the table whose entry for gva is read next */
    uint64_t at, entry, page; /* the leaf found: where, its value, what it translates; entry 0: none */
} hv_leaf_walk;

typedef struct {
    void *self;           /* Python's */
    hv_guest_params params;
    int32_t nx;           /* EFER.NXE is on */
    hv_zone tables, data;
    uint32_t *shares;     /* by data frame: how many hold it */
    uint16_t *used;       /* by page-table frame: entries in use, plus one; 0: no table that is counted */
    uint32_t *unlinked;   /* tables (gpa / 4096) to be freed after a flush */
    uint64_t unlinked_count;
    uint64_t zero_frame;  /* all zeros, shared */
    uint64_t root;        /* of the running process: guest-physical */
    const hv_regions *regions; /* that it has mapped */

    uint64_t faults;      /* handled since boot */
    uint64_t causes[16];  /* by the pager's cause */
    uint64_t last_gva;    /* of the last fault */
    uint32_t last_pfec, repeats; /* how often it was taken in a row */
    uint8_t log[49152];   /* records that the digest lacks: address in 8 bytes, error code in 4 */
    uint32_t log_bytes;

    int32_t wrong;        /* what came of the last call that failed, and its fault */
    uint64_t value, wrong_gva;
    uint32_t wrong_pfec;
} hv_guest;

/* Return a guest with frames below border for page tables and from it on for data; NULL: no memory. */
hv_guest *hv_guest_new(const hv_guest_params *params, uint64_t border);
void hv_guest_free(hv_guest *g);

/* Handle a page fault of the running process, whose address is in CR2. */
int32_t hv_guest_page_fault(hv_guest *g, const hv_guest_cpu *cpu, uint64_t gva, uint32_t pfec);

/* Frames: cleared when they are taken, but for a copy. A data frame has one holder then. */
int32_t hv_take_table(hv_guest *g, const hv_guest_cpu *cpu, uint64_t *frame);
void hv_give_table(hv_guest *g, uint64_t frame);
int32_t hv_take_data(hv_guest *g, const hv_guest_cpu *cpu, uint64_t *frame);
int32_t hv_take_copy(hv_guest *g, const hv_guest_cpu *cpu, uint64_t source, uint64_t *frame);
int32_t hv_share(hv_guest *g, uint64_t frame);
int32_t hv_drop(hv_guest *g, uint64_t frame);
uint32_t hv_shares(const hv_guest *g, uint64_t frame);

/* Page tables. */
int32_t hv_adopt_root(hv_guest *g, uint64_t root);
int32_t hv_new_root(hv_guest *g, const hv_guest_cpu *cpu, uint64_t like, uint64_t *root);
int32_t hv_free_root(hv_guest *g, uint64_t root);
int32_t hv_write_entry(hv_guest *g, const hv_guest_cpu *cpu, uint64_t at, uint64_t old, uint64_t new);
int32_t hv_leaf_slot(hv_guest *g, const hv_guest_cpu *cpu, uint64_t root, uint64_t gva, uint64_t *at);
void hv_begin_leaves(hv_leaf_walk *w, uint64_t root, uint64_t start, uint64_t end);
int32_t hv_next_leaf(hv_guest *g, const hv_guest_cpu *cpu, hv_leaf_walk *w);
int32_t hv_prune(hv_guest *g, const hv_guest_cpu *cpu, uint64_t root, uint64_t start, uint64_t end);
void hv_free_unlinked(hv_guest *g);

/* Page caches. */
hv_page_cache *hv_page_cache_new(void);
void hv_page_cache_free(hv_page_cache *c);
