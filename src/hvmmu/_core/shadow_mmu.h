/* The shadow MMU: routes page faults that exited, and keeps shadow tables true to the guest's.
 *
 * hv_vm is what all vCPUs of a virtual machine share, hv_mmu what each has for itself. cffi reads this
 * file too, without its directives.
 */

#pragma once

#include "arch.h"
#include "shadow_page.h"
#include "thread.h"
#include "walk.h"

typedef struct hv_mmu hv_mmu;

/* The way to guest-physical memory where it is not one memslot from 0 up. */
typedef struct {
    hv_way way;
    hv_pages *pages;
} hv_slots_way;

typedef struct {
    hv_pages *pages;
    hv_mmu_params params; /* _mmu_params.py describes them */
    int32_t deprivileged; /* hardware runs the guest's kernel in user mode too */
    hv_space space;       /* guest-physical memory */
    hv_slots_way way;
    hv_mmu *mmus;         /* one for each vCPU */
} hv_vm;

/* A root in use: zapped when its shadow page has another serial number. */
typedef struct {
    uint32_t page; /* 0: none */
    uint64_t serial;
} hv_root;

struct hv_mmu {
    hv_vm *vm;
    hv_mmu *next;
    hv_regs regs, hardware; /* the guest's registers, and those that hardware runs with */
    hv_formats formats;     /* of the guest's tables */
    int32_t paging;
    uint32_t role, user_role;  /* what all roles below each root have of the registers */
    hv_root root, user_root;   /* the latter of a deprivileged guest's user mode */
    uint64_t flushes;       /* of the shadow pages, those that this vCPU was told to perform */
    uint32_t guest_allows[32], hardware_allows[32]; /* by access: hv_grants_of both */
};

/* What became of a fault. */
typedef struct {
    uint32_t route, cause; /* of fault.py, by order */
    uint32_t pfec;         /* the guest's error code where the fault is the guest's, else hardware's */
    uint32_t level;        /* of the guest's entry that decided */
    uint32_t walk_refs;    /* guest entries that were read */
    int32_t flush;         /* the scope of the flush that is owed: HV_FLUSH_ALL or HV_FLUSH_NOTHING */
    uint64_t gpa;          /* of the access, where the guest's tables give one */
} hv_fault_outcome;

/* A virtual machine without vCPUs; params, deprivileged, trap, notrap and write are the caller's to set
 * before there is one. NULL where there is no memory. */
hv_vm *hv_vm_new(uint8_t *memory, uint64_t memory_size, const hv_memslot *slots, uint32_t slot_count,
                 uint32_t end_frame);
void hv_vm_free(hv_vm *vm);

/* The MMU of one more vCPU; it is freed with the machine. NULL where there is no memory. */
hv_mmu *hv_mmu_new(hv_vm *vm);

/* Each of the following returns the scope of the flush that this vCPU owes, for changes by other vCPUs
 * too; or else a failure, which is negative. */

/* Take over the guest's registers; formats is NULL while paging is off. */
int32_t hv_mmu_load_guest(hv_mmu *mmu, const hv_regs *regs, const hv_formats *formats);

/* Make new roots where they were zapped; to be called before a vCPU runs on. */
int32_t hv_mmu_reload(hv_mmu *mmu);

/* Complete a store by the guest of 1, 2, 4 or 8 bytes, and carry it into the shadow. */
int32_t hv_mmu_store(hv_mmu *mmu, uint64_t gpa, uint64_t value, uint32_t size);

/* Route a page fault that exited; *walked takes the walk of the guest's tables. Return 0 or a failure. */
int32_t hv_mmu_handle(hv_mmu *mmu, uint64_t gva, uint32_t pfec, hv_fault_outcome *out,
                      hv_walked *walked);

/* Read the shadow entries that hardware met on the way to gva, the root's first; return how many. users:
 * of a deprivileged guest, from the root of its user mode. path has room for 5. */
uint32_t hv_shadow_path(const hv_mmu *mmu, uint64_t gva, int32_t users, hv_step *path);

/* Say whether a root was zapped, so that hv_mmu_reload makes another. */
int32_t hv_mmu_lost_root(const hv_mmu *mmu);

/* Say whether other vCPUs have changed the shadow so that this one owes a flush, or has lost a root. */
int32_t hv_mmu_is_behind(const hv_mmu *mmu);

/* Name the rule of the guest's tables that a fault broke: SDM "Access Rights". */
uint32_t hv_guest_cause(uint32_t pfec, uint32_t access, uint32_t kind, const hv_regs *regs);

/* Return a leaf for the frame at hpa. access is what it allows; writable is 0 where a write must exit all
 * the same: the guest's D is clear, or the frame is a shadowed page table. */
uint64_t hv_make_spte(uint64_t hpa, uint32_t access, int32_t writable, int32_t large, uint32_t pkey);

/* Return access as hardware, which runs with CR0.WP set, must have it for a kind of access. */
uint32_t hv_wp_override(uint32_t access, uint32_t kind, const hv_regs *regs);

/* Return access as hardware must have it that runs the guest's kernel in user mode as well. */
uint32_t hv_deprivileged_access(uint32_t access, int32_t user, int32_t cr0_wp);
