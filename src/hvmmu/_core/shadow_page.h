/* Shadow pages as _core/py_pages.py keeps them, for C and Python. cffi reads this file too. */

/* A role in one number: level in 3 bits, direct in 1, access in 5, pkey in 4, then flags. */
enum {
    HV_ROLE_DIRECT = 1 << 3,
    HV_ROLE_DIRTY = 1 << 13,
    HV_ROLE_QUIET = 1 << 14,
    HV_ROLE_PKE = 1 << 15
};

/* A shadow page; it is named by its host frame number, and 0 names none. */
typedef struct {
    uint64_t gfn, serial;  /* serial 0: not in use */
    uint64_t last_written; /* sptep, 0 for none */
    uint32_t role, write_flooding;
    uint32_t older, newer; /* pages by age */
    uint32_t next;         /* of the same gfn, oldest first */
    uint32_t parents;      /* the first entry that links here */
    struct hv_node *nodes; /* by entry */
} hv_page;

typedef struct {
    uint8_t *memory, *ram;
    uint64_t base, ram_size; /* where guest-physical 0 lies, and how much there is */
    uint64_t trap, notrap;
    uint64_t serial, zapped, count;
    uint64_t changes; /* of what pages there are, and of the links between them */
    uint32_t oldest, newest;
    uint32_t next_frame, end_frame;
    uint32_t free_count;
    uint32_t *free;
    hv_page *pages;     /* by host frame */
    uint32_t *by_gfn;   /* the oldest shadow page of a guest frame, direct ones too */
    uint32_t *leaves;   /* by gfn: the first entry that maps it */
    uint32_t *regions;  /* by 2 MiB region: how many of its frames are shadowed as tables */
} hv_pages;

/* Frames below end_frame, but for frame 0, are the shadow's. NULL where there is no memory. */
hv_pages *hv_pages_new(uint8_t *memory, uint64_t base, uint64_t ram_size, uint32_t end_frame,
                       uint64_t trap, uint64_t notrap);
void hv_pages_free(hv_pages *pages);

int32_t hv_is_table(const hv_pages *pages, uint64_t gfn);
int32_t hv_holds_table(const hv_pages *pages, uint64_t gfn);
uint32_t hv_child(const hv_pages *pages, uint64_t sptep);

/* Return the page for gfn under role, made if there is none; 0 if no frame is left. */
uint32_t hv_page_get(hv_pages *pages, uint64_t gfn, uint32_t role, int32_t *flush);
void hv_link(hv_pages *pages, uint64_t sptep, uint32_t child);
void hv_set_leaf(hv_pages *pages, uint64_t sptep, uint64_t spte);
void hv_set_notrap(hv_pages *pages, uint64_t sptep);

/* Return whether the entry was present, so that a flush is owed. */
int32_t hv_zap_entry(hv_pages *pages, uint64_t sptep);
void hv_zap_page(hv_pages *pages, uint32_t page);

/* Fill at most room entries (sptep) of a list: the leaves that map gfn, or a page's parents. */
uint32_t hv_leaves(const hv_pages *pages, uint64_t gfn, uint64_t *out, uint32_t room);
uint32_t hv_parents(const hv_pages *pages, uint32_t page, uint64_t *out, uint32_t room);
