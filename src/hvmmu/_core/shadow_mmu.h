/* The shadow MMU as _core/shadow_mmu.py has it, for C and Python. cffi reads this file too. */

/* A store into a page table that was found to be one and left all as it was, and what it was found
 * by: while that is so still, so is the next one into the table. */
typedef struct {
    uint64_t page;              /* of its address */
    uint64_t changes, cr3;      /* of the shadow pages; the guest's */
    uint64_t at[4], entry[4];   /* of the guest's tables, refs of them */
    uint64_t sptep, spte, gpa;  /* the leaf, without A and D; the page */
    uint32_t root, pfec, level, refs;
    uint32_t on_way[4], passed; /* shadow pages, passed of them */
} hv_known;

typedef struct {
    hv_pages *pages;
    hv_regs regs, hardware; /* the guest's registers, and those in force */
    hv_formats formats;     /* of the guest's */
    uint32_t root;          /* shadow page */
    uint32_t regs_role;     /* the part of a role that comes from the registers */
    uint32_t flood_threshold;
    int32_t update_on_write, large_pages;
    int32_t regs_changed;   /* since the last fault: what follows is to be made anew */
    uint32_t shown;         /* of a kind: what an error code of the guest's has of it */
    uint32_t allowed[32];   /* by access, a bit for each kind that the guest's registers allow */
    uint32_t let[32];       /* the same of those in force; neither knows protection keys */
    hv_regs looked_at[2];   /* the registers they were made for */
    hv_known known[64];
    uint64_t shadow_pages;
} hv_mmu;
