/* What the fast lane and Python share. cffi reads this file too, so it has no directives. */

/* What became of a stop, and of a question; HV_GO_ON: nothing, C is to handle it; HV_FAULTS: the guest
   takes a page fault, which somebody else in C is to handle. */
enum { HV_RETRY, HV_DONE, HV_FAILED, HV_GO_ON, HV_FAULTS };

/* What the lane asks Python for. */
enum {
    HV_ASK_STOP,       /* take the stop to whoever must handle it; the operand is what is stored */
    HV_ASK_PAGE_FAULT, /* have the guest's handler take a page fault with this error code */
    HV_ASK_DRAIN,      /* take over what is noted here: no room is left */
    HV_ASK_HANG,       /* give up: the access stopped this often */
    HV_ASK_NOTHING_THERE, /* give up: the guest copies a page from where nothing is */
    HV_ASK_NEW_ROOT,   /* make a shadow root and load it, everything flushed, and enter */
    HV_ASK_MMU,        /* take an exit that was heard to the MMU, and go on from there */
    HV_ASK_INVLPG      /* perform an INVLPG, all of it */
};

/* What plugins listen to. */
enum {
    HV_HEARS_INVLPG = 1,
    HV_HEARS_EXITS = 2,  /* page faults that exit, before they are handled */
    HV_HEARS_FAULTS = 4  /* page faults, once they are routed */
};

/* Exits that are counted here. */
enum { HV_EXIT_PAGE_FAULT, HV_EXIT_INVLPG, HV_EXITS };

/* A mapping of the process that runs. */
typedef struct {
    uint64_t start, end;
    uint32_t prot;
    int32_t inferred, file; /* its backing; neither: anonymous */
    int32_t own_file;       /* a page that is not mapped is not in the page cache */
} hv_region;

/* Frames of one kind that the guest can take: the last one given back first, then fresh ones. */
typedef struct {
    uint64_t next, end;
    uint32_t free_count;
    int32_t more_free; /* others were given back before these */
    uint64_t free[256];
} hv_zone;

/* A row of the ledger: route, cause, error code and level in 4, 4, 8 and 4 bits. */
typedef struct {
    uint32_t key;
    uint32_t count;
} hv_row;

/* Entries that a page table has gained; noted says that the table stands in noted_tables. */
typedef struct {
    int32_t gained, noted;
} hv_used;

typedef struct {
    uint64_t gva, frame;
    uint64_t region;
} hv_cached;

/* Pager causes, in the order of _guest/pager.py. */
enum { HV_ZERO, HV_FILE, HV_COW_ZERO, HV_COW_COPY, HV_COW_REUSE, HV_EXEC_UPGRADE, HV_SPURIOUS };

typedef struct {
    /* Given once. */
    void *self;
    hv_engine *engine;
    hv_stop *stop;     /* the last one */
    uint8_t *ram;      /* guest-physical 0 */
    uint8_t *memory;   /* host-physical 0 */
    uint64_t exit_filter, kernel_base, user_end, zero_frame;
    uint32_t most_tries, most_repeats;
    int32_t nx, set_accessed_dirty, hypervised;
    int32_t hears;      /* bits */
    int32_t flushes[4]; /* by the scope that was asked for, the scope that an entry flushes */
    hv_mmu *mmu;        /* NULL on a bare machine */

    uint32_t *shared; /* by data frame: how many hold it; Python counts here too */
    uint64_t first_data;

    /* The guest's, taken over before each run and after each answer. */
    uint64_t root, cr2, last_gva;
    uint32_t last_pfec, repeats;
    uint32_t pfec; /* of the fault that the guest takes, at cr2 */
    hv_regs regs; /* hardware's */
    int32_t acted_out; /* each stop is Python's, as somebody looks at the control structure */
    const hv_region *regions;
    uint64_t region_count;
    hv_zone tables, data;

    /* Of a fault that plugins hear of: what is stored, if that is known; a flush of all is owed. */
    uint64_t stored;
    int32_t has_stored, owes_flush;

    /* What happened since, for Python to take over. */
    int32_t stopped; /* something did */
    uint64_t accesses, invlpg, tlb_flushes, guest_walk_refs;
    uint64_t exits[2];
    uint64_t causes[7];
    hv_row rows[64];
    uint32_t row_count;
    uint8_t log[49152]; /* 12 bytes a fault */
    uint32_t log_bytes;
    hv_cached cached[256];
    uint32_t cached_count;
    uint16_t near[32768]; /* of the span that is run */
    hv_used *used; /* by table: gpa / 4096 */
    uint32_t *noted_tables;
    uint32_t noted_count;
} hv_lane;

/* Run accesses at..count with the faults they cause; return the index it failed at, or count. */
uint64_t hv_lane_run(hv_lane *lane, const uint64_t *gva, const uint8_t *kind, uint64_t at,
                     uint64_t count);

/* Run accesses at..count that are listed up to the first stop; return where that is, or count. */
uint64_t hv_lane_to_stop(hv_lane *lane, const uint16_t *kept, const uint64_t *site_gva,
                         const uint8_t *site_kind, uint64_t at, uint64_t count);

/* Handle that stop; return what it became. */
int32_t hv_lane_handle(hv_lane *lane);

/* The same for a stop at the nth access that a span keeps: bring the sets in order, handle it, and run
   from there: the rest of its window whole, then what the windows' filters keep, and so on after each
   stop. Return HV_RETRY; or HV_FAILED, *wrong telling if the frame is damaged. */
int32_t hv_lane_rest(hv_lane *lane, const hv_frame *frame, uint32_t nth, int32_t *wrong);
