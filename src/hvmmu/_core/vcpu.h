/* One vCPU: its stops, its exits and entries, its loops. cffi reads this file too, so it has no
 * directives. */

/* What became of an access that stopped, and what a callback answers. */
enum {
    HV_RETRY,    /* the access is to be tried again */
    HV_DONE,     /* it was completed in software, or the guest skipped it */
    HV_FAILED,   /* Python raised an exception, which is kept until C has returned */
    HV_CONTINUE, /* of a callback: C goes on */
    HV_DELIVER   /* the guest takes the page fault vcpu->delivered at vcpu->cr2 */
};

/* What C calls Python for; the arguments are fields of the vCPU. */
enum {
    HV_CALL_ROUTE,        /* fault: an MMU in Python routes it */
    HV_CALL_STORE,        /* fault: an MMU in Python completes the store */
    HV_CALL_MMU_FAILED,   /* value: raise the error that this result of the MMU is */
    HV_CALL_RELOAD,       /* load the roots that hardware walks from */
    HV_CALL_ENTER,        /* inject: enter the guest through the control structure */
    HV_CALL_PRIVILEGE,    /* user: switch a deprivileged guest through the control structure */
    HV_CALL_DELIVER,      /* fault: deliver to a deprivileged guest through the control structure */
    HV_CALL_INVLPG,       /* value: an MMU in Python carries out an INVLPG */
    HV_CALL_PAGE_FAULT,   /* delivered: run the guest's page-fault handler, which is Python's */
    HV_CALL_GENERAL_PROTECTION, /* value: run the guest's handler of #GP for this address */
    HV_CALL_COUNT,        /* fault: count a row that C has no room for */
    HV_CALL_FLUSH,        /* value, scope: flush an engine in Python */
    HV_CALL_SET_ROOT,     /* value: set the root that an engine in Python walks from */
    HV_CALL_HANG,         /* value: give up on an access that stopped this often */
    HV_CALL_BROKEN,       /* give up: the engine stopped for a reason that cannot be */
    HV_CALL_GUEST_FAILED, /* raise the error that the guest's kernel ended in */
    HV_CALL_NO_MEMORY,    /* give up: the host has no memory left */
    HV_CALL_NOTHING_THERE /* value: give up: the guest copies a page from where nothing is */
};

/* A flush that is owed: a scope (HV_FLUSH_NOTHING for none), and the address of a page. */
typedef struct {
    int32_t scope;
    uint64_t gva;
} hv_flush_request;

/* One page fault. */
typedef struct {
    /* From the stop, and then from the exit as the hypervisor reads it. */
    uint64_t gva;
    uint32_t pfec;
    /* From the access: what it stores, if that is known. */
    int32_t has_operand;
    uint32_t size; /* bytes */
    uint64_t operand;
    /* From the MMU, or the plugin that handled it. */
    int32_t handled; /* a plugin did */
    hv_fault_outcome out;
    hv_flush_request flush;
    /* From the walks, where a hook or a reader of the event stream sees the fault. */
    hv_walked guest;       /* of the guest's tables; refs is 0 where there was none */
    uint32_t shadow_refs;
    hv_step shadow[5];     /* the shadow entries on the way, the root's first, as hardware met them */
} hv_fault;

/* What exits are called and what entries flush, where the control structure's state decides nothing. */
typedef struct {
    uint32_t page_fault[64]; /* by the low six bits of the error code: the number of the exit's name */
    uint32_t invlpg;         /* the same */
    int32_t flushes[4];      /* by the scope that was requested: the scope that the entry flushes */
} hv_switch_profile;

typedef struct hv_vcpu {
    void *self;         /* Python's handle of it */
    hv_engine *engine;  /* the hardware thread; NULL: an engine in Python */
    hv_stop *stop;      /* its last stop */
    hv_mmu *mmu;        /* NULL: an MMU in Python, or a bare machine */
    hv_ledger *ledger;
    uint8_t *memory;    /* host-physical 0 */
    uint8_t *ram;       /* guest-physical 0 */
    uint64_t base, ram_size; /* guest-physical 0 as host-physical, and bytes of guest RAM */
    uint64_t exit_filter;
    hv_switch_profile profile;
    hv_regs regs;       /* in force in hardware */
    uint64_t roots[2];  /* that hardware walks from in the guest's kernel, and in its user mode */
    uint32_t most_tries;
    int32_t hypervised; /* a hypervisor stands between guest and hardware */
    int32_t simulated;  /* every exit and entry goes through the control structure, in Python */
    int32_t invlpg_exits;
    int32_t deprivileged, user; /* hardware runs the guest as user; it is in its user mode */
    hv_events *events;
    hv_flush_request requested; /* to be done by the next entry */

    uint64_t cr2;
    uint32_t delivered; /* error code of the page fault that the guest takes */
    int32_t inject;     /* the next entry delivers it */
    uint64_t completed; /* gpa of the access that was completed in software, all ones if skipped */
    hv_fault fault;     /* of the current callback */
    uint64_t value;
    int32_t scope;

    hv_guest *guest;    /* the kernel that takes page faults; NULL: Python's handler does */
    const hv_guest_cpu *guest_cpu; /* this vCPU as the kernel uses it */
} hv_vcpu;

/* Run accesses at..count with the faults they cause; return the index it failed at, or count.
   translated (may be NULL) takes the gpa of each access, all ones for those that the guest skipped. */
uint64_t hv_vcpu_run(hv_vcpu *vcpu, const uint64_t *gva, const uint8_t *kind, uint64_t at,
                     uint64_t count, uint64_t *translated);

/* Run accesses at..count that are listed up to the first stop; return where that is, or count. */
uint64_t hv_vcpu_to_stop(hv_vcpu *vcpu, const uint16_t *kept, const uint64_t *site_gva,
                         const uint8_t *site_kind, uint64_t at, uint64_t count);

/* Handle that stop, and the guest's page fault if it takes one; return what it became. */
int32_t hv_vcpu_handle(hv_vcpu *vcpu);

/* Make one access of the guest's kernel, of size bytes that store value if it is a write: its hpa goes to
   *hpa, all ones if it was completed in software or skipped. Return 0 if Python failed. */
int32_t hv_access_one(hv_vcpu *vcpu, uint64_t gva, uint8_t kind, uint64_t value, uint32_t size,
                      uint64_t *hpa);

/* Zero the 4 KiB page at gva as REP STOSQ does, or copy it from host-physical source as REP MOVSQ
   does (all ones: zero it). Return 0 if Python failed. */
int32_t hv_fill_page(hv_vcpu *vcpu, uint64_t gva, uint64_t source);

/* Carry out the guest's INVLPG, with its exit where there is one; return 0 if Python failed. */
int32_t hv_invlpg(hv_vcpu *vcpu, uint64_t gva);

/* Go to the guest's user mode, or to its kernel; return 0 if Python failed. */
int32_t hv_set_privilege(hv_vcpu *vcpu, int32_t user);

/* Ask for a flush: at once on a bare machine, else by the next entry. Return 0 if Python failed. */
int32_t hv_request_flush(hv_vcpu *vcpu, int32_t scope, uint64_t gva);

/* Drop translations now, and count that; return 0 if Python failed. */
int32_t hv_flush_now(hv_vcpu *vcpu, int32_t scope, uint64_t gva);

/* Walk from this root from now on; a deprivileged guest's two roots share a TLB without tags. Return 0
   if Python failed. */
int32_t hv_set_root(hv_vcpu *vcpu, uint64_t root);

/* Count a fault as vcpu->fault has it; return its key, all ones if Python counts it. */
uint32_t hv_count_fault(hv_vcpu *vcpu, const hv_fault *fault);

/* Record the exit or the entry that Python has simulated. */
void hv_record_exit(hv_vcpu *vcpu, uint32_t name, uint64_t gva, uint64_t value, uint32_t pfec);
void hv_record_entry(hv_vcpu *vcpu, int32_t scope);

/* Let a guest's kernel run on this vCPU: write down how its instructions are run. */
void hv_vcpu_as_guest_cpu(hv_vcpu *vcpu, hv_guest_cpu *cpu);
