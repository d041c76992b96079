/* A compact trace's spans: what was left out of them, put back. _trace/tokens.py says it in words. */

#include <stdint.h>
#include <string.h>

#include "expand.h"
#include "token_table.h"

static uint32_t number(const uint8_t *at) { return at[0] | (uint32_t)at[1] << 8; }

int32_t hv_open_span(const hv_frame *f, hv_span *s, uint16_t *near)
{
    const uint8_t *mask = f->bytes + 4 * f->windows, *more;
    uint32_t total = 0, size = 0, used = 0;
    if (f->size < 4 * f->windows)
        return BAD_FRAME;
    s->near_ends[0] = s->token_ends[0] = 0;
    for (uint32_t w = 0; w < f->windows; w++) {
        uint32_t keeps = number(f->bytes + 4 * w);
        if (!keeps || keeps > HV_WINDOW)
            return KEEPS_NONE;
        s->near_ends[w + 1] = total += keeps;
        s->token_ends[w + 1] = size += number(f->bytes + 4 * w + 2);
    }
    more = mask + (total + 7) / 8;
    if (f->count > total || f->size - 4 * f->windows !=
                                (total + 7) / 8 + 2 * (uint64_t)(total - f->count) + size)
        return BAD_FRAME;
    for (uint32_t n = 0; n < total; n++) {
        int own = mask[n / 8] >> n % 8 & 1;
        if (own ? used == f->count : n - used == total - f->count)
            return BAD_FRAME;
        near[n] = own ? f->kept[used] : (uint16_t)number(more + 2 * (n - used));
        used += (uint32_t)own;
        if (!f->site_kind[near[n]])
            return NOT_LISTED;
    }
    s->near = near;
    s->tokens = f->bytes + f->size - size;
    s->windows = f->windows;
    s->accesses = f->accesses;
    s->site_gva = f->site_gva;
    s->site_kind = f->site_kind;
    return FINE;
}

uint32_t hv_near_of(const hv_frame *f, uint32_t nth)
{
    const uint8_t *mask = f->bytes + 4 * f->windows;
    uint32_t n = 0;
    for (;; n++)
        if (mask[n / 8] >> n % 8 & 1 && !nth--)
            return n;
}

uint32_t hv_window_size(const hv_span *span, uint32_t window)
{
    uint32_t left = span->accesses - window * HV_WINDOW;
    return left < HV_WINDOW ? left : HV_WINDOW;
}

uint32_t hv_window_of(const hv_span *span, uint32_t near)
{
    uint32_t window = 0;
    while (near >= span->near_ends[window + 1])
        window++;
    return window;
}

/* A dropped access has the address of the near one it repeats, which was found before: zero, which
 * is nobody's, if there was none. Seven fetches are written where fewer are made: what comes next
 * writes over the others. */
int32_t hv_expand(const hv_span *s, uint32_t window, uint32_t first, uint8_t mark, uint64_t *gva,
                  uint8_t *kind, uint32_t *where)
{
    uint64_t recent[SLOTS] = {0}, fetched = 0;
    const uint8_t *token = s->tokens + s->token_ends[window];
    const uint8_t *end = s->tokens + s->token_ends[window + 1];
    uint32_t next = s->near_ends[window], last = s->near_ends[window + 1], made = 0;
    uint32_t room = hv_window_size(s, window);
    uint8_t second = 0;
    for (; token < end; token++) {
        uint32_t run = MEANINGS[*token].run;
        if (*token == SECOND_NEXT) {
            second = mark;
            continue;
        }
        if (*token > SECOND_NEXT)
            fetched = recent[SETS + *token - FETCH_TOKEN];
        if (MEANINGS[*token].makes > room - made)
            return TOO_MANY;
        if ((run != 0) & !fetched)
            return NO_FETCH;
        for (uint32_t j = 0; j < HV_SLACK; j++)
            gva[made + j] = fetched, kind[made + j] = FETCH;
        kind[made] |= second;
        second = run ? 0 : second;
        made += run;
        if (*token < KEPT) {
            uint64_t again = recent[*token & (SETS - 1)];
            if (!again)
                return NO_DATA;
            gva[made] = again;
            kind[made++] = MEANINGS[*token].kind | second;
            second = 0;
        } else if (*token < RUN) {
            if (next == last)
                return TOO_MANY_KEPT;
            uint16_t site = s->near[next];
            uint64_t va = s->site_gva[site];
            uint32_t at = slot_of_site(va, s->site_kind[site]);
            recent[at] = va;
            fetched = at < SETS ? fetched : va;
            if (next++ == first)
                *where = made;
            gva[made] = va;
            kind[made++] = s->site_kind[site] | second;
            second = 0;
        }
    }
    return next == last && made == room ? FINE : TOO_FEW;
}
