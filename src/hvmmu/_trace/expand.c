/* The expansion of spans: accesses that the filters dropped are put back from tokens. */

#include <stdint.h>
#include <string.h>

#include "grammar.h"
#include "expand.h"

#define PAGE_MASK (~(uint64_t)0 << HVT_PAGE_SHIFT)

/* What a token says by itself. */
typedef struct {
    uint8_t run;   /* dropped fetches, all from one page */
    uint8_t makes; /* accesses in all */
    uint8_t kind;  /* of the dropped data access, if there is one */
    uint8_t set;   /* and its set */
} meaning;

#define RUN_OF(t)                                                                                  \
    ((t) < HVT_KEPT         ? (t) / HVT_SLOTS                                                      \
     : (t) < HVT_RUN        ? (t) - HVT_KEPT                                                       \
     : (t) < HVT_SECOND_NEXT ? (t) - HVT_RUN                                                       \
                            : (t) > HVT_SECOND_NEXT)
#define MEANING(t)                                                                                 \
    {RUN_OF(t), RUN_OF(t) + ((t) < HVT_RUN),                                                       \
     (t) >= HVT_KEPT ? 0 : (t) & HVT_DATA_WRITE ? HVT_USER_WRITE : HVT_USER_READ, (t) % HVT_SETS}
#define FOUR_FROM(t) MEANING(t), MEANING((t) + 1), MEANING((t) + 2), MEANING((t) + 3)
#define SIXTEEN_FROM(t) FOUR_FROM(t), FOUR_FROM((t) + 4), FOUR_FROM((t) + 8), FOUR_FROM((t) + 12)
#define SIXTY_FOUR_FROM(t)                                                                         \
    SIXTEEN_FROM(t), SIXTEEN_FROM((t) + 16), SIXTEEN_FROM((t) + 32), SIXTEEN_FROM((t) + 48)

static const meaning MEANINGS[256] = {SIXTY_FOUR_FROM(0), SIXTY_FOUR_FROM(64),
                                      SIXTY_FOUR_FROM(128), SIXTY_FOUR_FROM(192)};

/* Return the set of an access: instructions behind data. */
static inline uint32_t set_of(uint64_t gva, uint8_t kind)
{
    uint32_t set = gva >> HVT_PAGE_SHIFT & (HVT_SETS - 1);
    return kind & HVT_FETCHES ? HVT_SETS + set : set;
}

static uint32_t u16(const uint8_t *at) { return at[0] | (uint32_t)at[1] << 8; }

int32_t hvt_unpack(const hvt_packed_span *p, hvt_span *s, uint16_t *window_kept)
{
    const uint8_t *mask = p->bytes + 4 * p->windows, *others;
    uint32_t total = 0, tokens = 0, used = 0;
    if (p->size < 4 * p->windows)
        return HVT_BAD_SIZE;
    s->kept_ends[0] = s->token_ends[0] = 0;
    for (uint32_t w = 0; w < p->windows; w++) {
        uint32_t kept = u16(p->bytes + 4 * w);
        if (!kept || kept > HVT_WINDOW)
            return HVT_KEEPS_NONE;
        s->kept_ends[w + 1] = total += kept;
        s->token_ends[w + 1] = tokens += u16(p->bytes + 4 * w + 2);
    }
    others = mask + (total + 7) / 8;
    if (p->count > total || p->size - 4 * p->windows !=
                                (total + 7) / 8 + 2 * (uint64_t)(total - p->count) + tokens)
        return HVT_BAD_SIZE;
    for (uint32_t n = 0; n < total; n++) {
        int by_span = mask[n / 8] >> n % 8 & 1;
        if (by_span ? used == p->count : n - used == total - p->count)
            return HVT_BAD_SIZE;
        window_kept[n] = by_span ? p->span_kept[used] : (uint16_t)u16(others + 2 * (n - used));
        used += (uint32_t)by_span;
        if (!p->slot_kind[window_kept[n]])
            return HVT_NOT_LISTED;
    }
    s->window_kept = window_kept;
    s->tokens = p->bytes + p->size - tokens;
    s->windows = p->windows;
    s->accesses = p->accesses;
    s->slot_gva = p->slot_gva;
    s->slot_kind = p->slot_kind;
    return 0;
}

uint32_t hvt_window_kept_of(const hvt_packed_span *p, uint32_t nth)
{
    const uint8_t *mask = p->bytes + 4 * p->windows;
    uint32_t n = 0;
    for (;; n++)
        if (mask[n / 8] >> n % 8 & 1 && !nth--)
            return n;
}

uint32_t hvt_window_size(const hvt_span *s, uint32_t window)
{
    uint32_t left = s->accesses - window * HVT_WINDOW;
    return left < HVT_WINDOW ? left : HVT_WINDOW;
}

uint32_t hvt_window_of(const hvt_span *s, uint32_t at)
{
    uint32_t window = 0;
    while (at >= s->kept_ends[window + 1])
        window++;
    return window;
}

/* A dropped access gets the address of the kept one that it repeats. Address 0 is in no trace, and
 * stands for a page that is not there. A token's fetches are written as HVT_SLACK of them, whatever
 * their number; the next access overwrites those in excess. */
int32_t hvt_expand(const hvt_span *s, uint32_t window, uint32_t at, uint8_t mark, uint64_t *gva,
                   uint8_t *kind, uint32_t *where)
{
    uint64_t recent[HVT_SLOTS] = {0}, fetched = 0;
    const uint8_t *token = s->tokens + s->token_ends[window];
    const uint8_t *end = s->tokens + s->token_ends[window + 1];
    uint32_t next = s->kept_ends[window], last = s->kept_ends[window + 1], made = 0;
    uint32_t room = hvt_window_size(s, window);
    uint8_t second = 0;
    for (; token < end; token++) {
        uint32_t run = MEANINGS[*token].run;
        if (*token == HVT_SECOND_NEXT) {
            second = mark;
            continue;
        }
        if (*token > HVT_SECOND_NEXT)
            fetched = recent[HVT_SETS + *token - HVT_FETCH_TOKEN];
        if (MEANINGS[*token].makes > room - made)
            return HVT_TOO_MANY;
        if ((run != 0) & !fetched)
            return HVT_NO_FETCH;
        for (uint32_t j = 0; j < HVT_SLACK; j++)
            gva[made + j] = fetched, kind[made + j] = HVT_USER_FETCH;
        kind[made] |= second;
        second = run ? 0 : second;
        made += run;
        if (*token < HVT_KEPT) {
            uint64_t again = recent[MEANINGS[*token].set];
            if (!again)
                return HVT_NO_DATA;
            gva[made] = again;
            kind[made++] = MEANINGS[*token].kind | second;
            second = 0;
        } else if (*token < HVT_RUN) {
            if (next == last)
                return HVT_TOO_MANY_KEPT;
            uint16_t slot = s->window_kept[next];
            uint64_t va = s->slot_gva[slot];
            uint32_t set = set_of(va, s->slot_kind[slot]);
            recent[set] = va;
            fetched = set < HVT_SETS ? fetched : va;
            if (next++ == at)
                *where = made;
            gva[made] = va;
            kind[made++] = s->slot_kind[slot] | second;
            second = 0;
        }
    }
    return next == last && made == room ? 0 : HVT_TOO_FEW;
}

uint32_t hvt_lru_fixup(const hvt_span *s, uint32_t at, uint64_t *gva, uint8_t *kind)
{
    /* By set, the pages found so far, the latest first. One that is found when a set is full goes
     * to the element behind the set and is not counted. */
    uint64_t pages[HVT_SLOTS][HVT_WAYS + 1];
    uint32_t found[HVT_SLOTS] = {0}, count = 0;
    memset(pages, 0xff, sizeof pages);
    while (at--) {
        uint16_t slot = s->window_kept[at];
        uint64_t page = s->slot_gva[slot] & PAGE_MASK;
        uint32_t set = set_of(page, s->slot_kind[slot]), known = 0;
        for (uint32_t way = 0; way < HVT_WAYS; way++)
            known |= pages[set][way] == page;
        pages[set][found[set]] = page;
        found[set] += !known & (found[set] < HVT_WAYS);
    }
    for (uint32_t set = 0; set < HVT_SLOTS; set++)
        while (found[set]) {
            gva[count] = pages[set][--found[set]];
            kind[count++] = set < HVT_SETS ? HVT_USER_READ : HVT_USER_FETCH;
        }
    return count;
}
