/* The shadow MMU as mmu/shadow.py has it, for C and Python. cffi reads this file too. */

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
    uint64_t shadow_pages;
} hv_mmu;
