/* What a token says, and what can be wrong with many: guest/tokens.py has it in words. */

#include <stdint.h>

#include "bits.h"

enum {
    SETS = 16, SLOTS = 2 * SETS, LONGEST = 7,
    KEPT = LONGEST * SLOTS, RUN = KEPT + LONGEST, SECOND_NEXT = RUN + LONGEST + 1,
    FETCH_TOKEN = SECOND_NEXT + 1,
    READ = PF_U, WRITE = PF_U | PF_W, FETCH = PF_U | PF_ID
};

/* The messages, in the order of guest/tokens.py. */
enum {
    FINE, NO_FETCH, NO_DATA, TOO_MANY_KEPT, TOO_MANY, TOO_FEW, BAD_FRAME, NOT_LISTED, KEEPS_NONE
};

/* Return how many fetches a token begins with, all from one page. */
static inline uint32_t run_of(uint8_t token)
{
    if (token < RUN)
        return token < KEPT ? token / SLOTS : token - KEPT;
    return token < SECOND_NEXT ? token - RUN : token > SECOND_NEXT;
}

/* Return where the latest page of an access's set is kept. */
static inline uint32_t slot_of_site(uint64_t va, uint8_t kind)
{
    return (kind & PF_ID ? SETS : 0) + (va >> 12 & (SETS - 1));
}
