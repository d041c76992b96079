/* Walks that go the last one's way: where a walk went is kept by region, and seen to be so still. */

#include <stdint.h>

#define HV_NO_REGION (~0ull)
#define HV_TRAILS 64

/* Of the last walk of a region of 2 MiB. */
typedef struct hv_trail {
    uint64_t region, cr3;
    uint64_t links;  /* the bits that all entries before the last have */
    int32_t ended;   /* at this level */
    hv_walked walked;
} hv_trail;

/* Return the trail of the last walk that went where a walk to va will mostly go. */
static inline hv_trail *hv_last_trail(hv_trail *trails, uint64_t va)
{
    return trails + ((va >> 21 ^ va >> 63) & (HV_TRAILS - 1));
}

static inline void hv_forget_trails(hv_trail *trails)
{
    for (int at = 0; at < HV_TRAILS; at++)
        trails[at].region = HV_NO_REGION;
}

/* Walk as hv_walk does. Links that are as the trail has them are not looked into again: trails are
   forgotten when registers change other than CR3. */
void hv_walk_again(const hv_space *space, const hv_regs *regs, const hv_formats *formats,
                   uint64_t va, uint32_t kind, hv_trail *trail);

/* Set the bits that such a walk sets in the entries. */
void hv_mark_again(const hv_space *space, const hv_formats *formats, const hv_trail *trail,
                   uint32_t kind);
