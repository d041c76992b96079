/* The upper half of plain walks, four levels of 8-byte entries: what it came to is kept by region
 * of 1 GiB, and seen to be so still, by two loads that do not wait for each other. It comes after
 * bits.h, kernel.h and walk.h.
 */

#include <stdint.h>
#include <string.h>

#define HV_UPPERS 16

typedef struct {
    uint64_t region, cr3;
    const uint8_t *at[2]; /* the entries of levels 4 and 3 */
    uint64_t entry[2];
    uint64_t grants;      /* what both allow, as bits of a kind */
    uint64_t table;       /* the table of level 2 */
} hv_upper;

static inline hv_upper *hv_upper_of(hv_upper *uppers, uint64_t va)
{
    return uppers + ((va >> 30 ^ va >> 39) & (HV_UPPERS - 1));
}

/* For when registers change other than CR3. */
static inline void hv_forget_uppers(hv_upper *uppers)
{
    for (int at = 0; at < HV_UPPERS; at++)
        uppers[at] = (hv_upper){.region = ~0ull};
}

/* Return what entries grant together: the bits that all of them have, and that any has. */
static inline uint64_t hv_grants(uint64_t all, uint64_t any)
{
    return (all & (PF_W | PF_U)) | (~any >> 59 & PF_ID);
}

/* Say whether a walk to va goes there, and finds it as it was. */
static inline int hv_leads_on(const hv_upper *upper, uint64_t va, uint64_t cr3)
{
    uint64_t now[2];
    if (upper->region != va >> 30 || upper->cr3 != cr3)
        return 0;
    memcpy(&now[0], upper->at[0], 8);
    memcpy(&now[1], upper->at[1], 8);
    return !((now[0] ^ upper->entry[0]) | (now[1] ^ upper->entry[1]));
}

/* Walk the upper half and keep what it comes to; return 0 if it is not plain. */
static __attribute__((noinline)) int hv_find_upper(const hv_space *space, const hv_formats *f,
                                                   uint64_t va, uint64_t cr3, hv_upper *out)
{
    const uint64_t set = PTE_P | PTE_A;
    uint64_t table = cr3 & PTE_ADDRESS, grants = PF_W | PF_U | PF_ID;
    out->region = ~0ull;
    if ((va + (1ull << 47)) >> 48) /* not canonical */
        return 0;
    for (int n = 4; n > 2; n--) {
        if (table >= space->size) /* both are multiples of a page */
            return 0;
        const uint8_t *at = space->bytes + table + (va >> 9 * n & 0xff8);
        uint64_t entry;
        memcpy(&entry, at, 8);
        if ((entry ^ set) & (f->reserved[n] | PTE_PS | set))
            return 0;
        grants &= hv_grants(entry, entry);
        table = entry & PTE_ADDRESS;
        out->at[4 - n] = at;
        out->entry[4 - n] = entry;
    }
    if (table >= space->size)
        return 0;
    out->region = va >> 30;
    out->cr3 = cr3;
    out->grants = grants;
    out->table = table;
    return 1;
}

/* Return where the last entry of a plain walk is by what is kept, which nobody has checked; NULL if
 * nothing is. */
static inline const uint8_t *hv_plain_entry(const hv_space *space, hv_upper *uppers, uint64_t va)
{
    const hv_upper *upper = hv_upper_of(uppers, va);
    uint64_t link;
    if (upper->region != va >> 30)
        return NULL;
    memcpy(&link, space->bytes + upper->table + (va >> 18 & 0xff8), 8);
    link &= PTE_ADDRESS;
    return link < space->size ? space->bytes + link + (va >> 9 & 0xff8) : NULL;
}
