/* A window of a compact trace from a stop on: all its accesses, of which those alone are run that may
 * change something.
 *
 * A dropped access repeats the latest page of its set. As soon as that page has been accessed since
 * the last stop, by a kind that allows as much, it is a hit on the set's most recent entry again, which
 * changes nothing; until then it is run.
 */

#include <stdint.h>
#include <string.h>

#include "thread.h"
#include "expand.h"
#include "token_table.h"
#include "replay.h"

#define AHEAD 4u /* near accesses that pass while the CPU loads the site of one */

/* What an access grants, in lacks: that the page may be used, and that it may be written. */
enum { USE = 1, WRITING = 2 };

static uint8_t grants(uint8_t kind) { return kind & PF_W ? USE | WRITING : USE; }

static void note_near(hv_replay *r)
{
    uint16_t site = r->span->near[r->next++];
    uint64_t va = r->span->site_gva[site];
    uint32_t slot = slot_of_site(va, r->span->site_kind[site]);
    r->recent[slot] = va;
    if (slot >= SETS)
        r->fetching = slot;
}

/* Begin with the next token; return 0 if there is none, or what is wrong. */
static int begin(hv_replay *r)
{
    if (r->token == r->end) {
        r->wrong = r->next == r->last && r->made == r->room ? FINE : TOO_FEW;
        return 0;
    }
    uint8_t token = *r->token++;
    const meaning *m = MEANINGS + token;
    r->left = m->run;
    if (token > SECOND_NEXT)
        r->fetching = SETS + token - FETCH_TOKEN;
    if (m->makes > r->room - r->made)
        r->wrong = TOO_MANY;
    else if (r->left && !r->recent[r->fetching])
        r->wrong = NO_FETCH;
    else if (m->slot < SLOTS && !r->recent[m->slot])
        r->wrong = NO_DATA;
    else if (is_near(token) && r->next == r->last)
        r->wrong = TOO_MANY_KEPT;
    r->made += m->makes;
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
    r->fetching = SETS;
    while (begin(r)) {
        if (!is_near(r->token[-1]))
            continue;
        r->left = 0;
        if (r->next == first)
            return;
        note_near(r);
    }
}

/* Pass over tokens that lack nothing. */
static void pass(hv_replay *r)
{
    const uint8_t *token = r->token, *const end = r->end;
    uint32_t made = r->made, fetching = r->fetching, lacks = r->lacks[fetching];
    for (; token < end; token++) {
        const meaning *m = MEANINGS + *token;
        if (*token > SECOND_NEXT) {
            uint32_t slot = SETS + *token - FETCH_TOKEN;
            if (r->lacks[slot] | (made == r->room))
                break;
            fetching = slot;
            lacks = 0;
            made++;
            continue;
        }
        uint32_t run = m->run ? lacks : 0;
        if (is_near(*token) | run | (r->lacks[m->slot] & grants(m->kind)) |
            (m->makes > r->room - made))
            break;
        made += m->makes;
    }
    r->token = token;
    r->made = made;
    r->fetching = fetching;
}

static int run(hv_engine *engine, uint64_t va, uint8_t kind, uint64_t filter, hv_stop *stop)
{
    uint64_t ignored;
    return hv_run_one(engine, va, kind, &ignored, filter, stop);
}

/* Make what is left of a token; return 0 where it stops. */
static int make(hv_replay *r, hv_engine *engine, uint64_t filter, hv_stop *stop)
{
    uint8_t token = r->token[-1];
    const meaning *m = MEANINGS + token;
    if (r->left && r->lacks[r->fetching]) {
        if (!run(engine, r->recent[r->fetching], FETCH, filter, stop))
            return 0;
        r->lacks[r->fetching] = 0;
    }
    r->left = 0;
    if (r->lacks[m->slot] & grants(m->kind)) {
        if (!run(engine, r->recent[m->slot], m->kind, filter, stop))
            return 0;
        r->lacks[m->slot] &= (uint8_t)~grants(m->kind);
    }
    if (is_near(token)) {
        uint16_t site = r->span->near[r->next];
        uint64_t va = r->span->site_gva[site];
        if (r->last - r->next > AHEAD) /* where pages are many, sites are not in the CPU's caches */
            __builtin_prefetch(r->span->site_gva + r->span->near[r->next + AHEAD]);
        uint8_t kind = r->span->site_kind[site];
        uint32_t slot = slot_of_site(va, kind);
        if (!run(engine, va, kind, filter, stop))
            return 0;
        r->lacks[slot] = slot < SETS ? (USE | WRITING) & ~grants(kind) : 0;
        note_near(r);
    }
    r->open = 0;
    return 1;
}

int hv_replay_on(hv_replay *r, hv_engine *engine, uint64_t filter, hv_stop *stop)
{
    while (!r->wrong) {
        if (!r->open)
            pass(r);
        if (!r->open && !begin(r))
            break;
        if (!make(r, engine, filter, stop))
            return 0;
    }
    return 1;
}

void hv_replay_stopped(hv_replay *r, int done)
{
    memset(r->lacks, USE | WRITING, SLOTS);
    if (!done)
        return;
    if (r->left) {
        r->left--;
        return;
    }
    if (is_near(r->token[-1]))
        note_near(r);
    r->open = 0;
}
