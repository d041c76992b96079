/* What a token says, and what can be wrong with many: _trace/tokens.py has it in words. */

#include <stdint.h>

#include "arch.h"

enum {
    SETS = 16, SLOTS = 2 * SETS, LONGEST = 7, WAYS = 4,
    KEPT = LONGEST * SLOTS, RUN = KEPT + LONGEST, SECOND_NEXT = RUN + LONGEST + 1,
    FETCH_TOKEN = SECOND_NEXT + 1,
    READ = PF_U, WRITE = PF_U | PF_W, FETCH = PF_U | PF_ID
};

/* The messages, in the order of _trace/tokens.py. */
enum {
    FINE, NO_FETCH, NO_DATA, TOO_MANY_KEPT, TOO_MANY, TOO_FEW, BAD_FRAME, NOT_LISTED, KEEPS_NONE
};

/* What a token says by itself. */
typedef struct {
    uint8_t run;   /* fetches that it begins with, all from one page */
    uint8_t makes; /* accesses in all */
    uint8_t slot;  /* the set of its dropped data access; SLOTS if there is none */
    uint8_t kind;  /* and the access's kind */
} meaning;

#define RUN_OF(t)                                                                               \
    ((t) < KEPT ? (t) / SLOTS : (t) < RUN ? (t) - KEPT : (t) < SECOND_NEXT ? (t) - RUN          \
                                                                           : (t) > SECOND_NEXT)
#define MEANING(t)                                                                              \
    {RUN_OF(t), RUN_OF(t) + ((t) < RUN), (t) < KEPT ? (t) & (SETS - 1) : SLOTS,                 \
     (t) < KEPT ? ((t) & SETS ? WRITE : READ) : 0}
#define FOUR_FROM(t) MEANING(t), MEANING((t) + 1), MEANING((t) + 2), MEANING((t) + 3)
#define SIXTEEN_FROM(t) FOUR_FROM(t), FOUR_FROM((t) + 4), FOUR_FROM((t) + 8), FOUR_FROM((t) + 12)
#define SIXTY_FOUR_FROM(t)                                                                      \
    SIXTEEN_FROM(t), SIXTEEN_FROM((t) + 16), SIXTEEN_FROM((t) + 32), SIXTEEN_FROM((t) + 48)

static const meaning MEANINGS[256] = {SIXTY_FOUR_FROM(0), SIXTY_FOUR_FROM(64),
                                      SIXTY_FOUR_FROM(128), SIXTY_FOUR_FROM(192)};

static inline int is_near(uint8_t token) { return token >= KEPT && token < RUN; }

/* Return where the latest page of an access's set is kept. */
static inline uint32_t slot_of_site(uint64_t va, uint8_t kind)
{
    return (kind & PF_ID ? SETS : 0) + (va >> 12 & (SETS - 1));
}
