/* A window of a compact trace from a stop on: all its accesses, of which those alone are run that may
 * change something.
 *
 * A dropped access repeats the latest page of its set. As soon as that page has been accessed since
 * the last stop, by a kind that allows as much, it is a hit on the set's most recent entry again, which
 * changes nothing; until then it is run.
 */

#include <stdint.h>
#include <string.h>

#include "kernel.h"
#include "tokens.h"
#include "grammar.h"
#include "replay.h"

enum { USED = 1, WRITTEN = 2 };

static uint8_t grants(uint8_t kind) { return kind & PF_W ? USED | WRITTEN : USED; }

static void note_near(hv_replay *r)
{
    uint16_t site = r->span->near[r->next++];
    uint64_t va = r->span->site_gva[site];
    uint32_t slot = slot_of_site(va, r->span->site_kind[site]);
    r->recent[slot] = va;
    if (slot >= SETS) {
        r->fetching = slot;
        r->fetched = va;
    }
}

/* Begin with the next token; return 0 if there is none, or what is wrong. */
static int begin(hv_replay *r)
{
    do {
        if (r->token == r->end) {
            r->wrong = r->next == r->last && r->made == r->room ? FINE : TOO_FEW;
            return 0;
        }
    } while (*r->token++ == SECOND_NEXT);
    uint8_t token = r->token[-1];
    r->left = run_of(token);
    if (token > SECOND_NEXT) {
        r->fetching = SETS + token - FETCH_TOKEN;
        r->fetched = r->recent[r->fetching];
    }
    uint32_t makes = r->left + (token < RUN);
    if (makes > r->room - r->made)
        r->wrong = TOO_MANY;
    else if (r->left && !r->fetched)
        r->wrong = NO_FETCH;
    else if (token < KEPT && !r->recent[token & (SETS - 1)])
        r->wrong = NO_DATA;
    else if (token >= KEPT && token < RUN && r->next == r->last)
        r->wrong = TOO_MANY_KEPT;
    r->made += makes;
    r->open = !r->wrong;
    return r->open;
}

void hv_replay_from(hv_replay *r, const hv_span *span, uint32_t window, uint32_t first)
{
    memset(r, 0, sizeof *r);
    r->span = span;
    r->token = span->tokens + span->token_ends[window];
    r->end = span->tokens + span->token_ends[window + 1];
    r->next = span->near_ends[window];
    r->last = span->near_ends[window + 1];
    r->room = hv_window_size(span, window);
    while (begin(r)) {
        uint8_t token = r->token[-1];
        if (token < KEPT || token >= RUN)
            continue;
        r->left = 0;
        if (r->next == first)
            return;
        note_near(r);
    }
}

static int run(hv_engine *engine, uint64_t va, uint8_t kind, uint64_t filter, hv_stop *stop)
{
    uint64_t ignored;
    return hv_run_one(engine, va, kind, &ignored, filter, stop);
}

int hv_replay_on(hv_replay *r, hv_engine *engine, uint64_t filter, hv_stop *stop)
{
    while (!r->wrong && (r->open || begin(r))) {
        uint8_t token = r->token[-1];
        if (r->left && !r->sure[r->fetching]) {
            if (!run(engine, r->fetched, FETCH, filter, stop))
                return 0;
            r->sure[r->fetching] = USED;
        }
        r->left = 0;
        if (token < KEPT) {
            uint32_t slot = token & (SETS - 1);
            uint8_t kind = token & SETS ? WRITE : READ;
            if (grants(kind) & ~r->sure[slot]) {
                if (!run(engine, r->recent[slot], kind, filter, stop))
                    return 0;
                r->sure[slot] |= grants(kind);
            }
        } else if (token < RUN) {
            uint16_t site = r->span->near[r->next];
            uint8_t kind = r->span->site_kind[site];
            if (!run(engine, r->span->site_gva[site], kind, filter, stop))
                return 0;
            r->sure[slot_of_site(r->span->site_gva[site], kind)] = grants(kind);
            note_near(r);
        }
        r->open = 0;
    }
    return 1;
}

void hv_replay_stopped(hv_replay *r, int done)
{
    uint8_t token = r->token[-1];
    memset(r->sure, 0, sizeof r->sure);
    if (!done)
        return;
    if (r->left) {
        r->left--;
        return;
    }
    if (token >= KEPT && token < RUN)
        note_near(r);
    r->open = 0;
}
