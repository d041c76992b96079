/* The fast lane's loops: accesses one after the other, those that a compact trace keeps, and the rest
 * of a span once something has stopped. Each stop is stops.c's.
 */

#include <stddef.h>
#include <stdint.h>

#include "kernel.h"
#include "pages.h"
#include "shadow.h"
#include "tokens.h"
#include "replay.h"
#include "lane.h"
#include "ask.h"
#include "stops.h"
#include "pager.h"

#define NOT_LANDED (~0ull)

static int32_t handle(hv_lane *l)
{
    int32_t became = hv_stopped(l, NULL);
    return became == HV_FAULTS ? hv_page_fault(l) : became;
}

int32_t hv_lane_to_stop(hv_lane *l, const uint16_t *kept, const uint64_t *site_gva,
                        const uint8_t *site_kind, uint64_t *at, uint64_t count)
{
    *at = hv_run_sites(l->engine, kept, site_gva, site_kind, *at, count, l->exit_filter, l->stop);
    return *at == count ? HV_RETRY : handle(l);
}

uint64_t hv_lane_run(hv_lane *l, const uint64_t *gva, const uint8_t *kind, uint64_t at,
                     uint64_t count)
{
    uint64_t last = NOT_LANDED;
    uint32_t tries = 0;
    for (;;) {
        at = hv_run(l->engine, gva, kind, at, count, NULL, l->exit_filter, l->stop);
        if (at == count)
            return count;
        tries = at == last ? tries + 1 : 0;
        last = at;
        if (tries > l->most_tries && ask(l, HV_ASK_HANG, tries, 0) == HV_FAILED)
            return at;
        int32_t became = handle(l);
        if (became == HV_FAILED)
            return at;
        if (became == HV_DONE)
            at++;
    }
}

/* Run the rest of a window, with all stops; the first access may be done. */
static int32_t run_window(hv_lane *l, hv_replay *r, int32_t done)
{
    uint64_t last = NOT_LANDED;
    uint32_t tries = 0;
    for (hv_replay_stopped(r, done); !hv_replay_on(r, l->engine, l->exit_filter, l->stop);) {
        uint64_t at = r->made - r->left;
        tries = at == last ? tries + 1 : 0;
        last = at;
        if (tries > l->most_tries && ask(l, HV_ASK_HANG, tries, 0) == HV_FAILED)
            return HV_FAILED;
        int32_t became = handle(l);
        if (became == HV_FAILED)
            return HV_FAILED;
        hv_replay_stopped(r, became == HV_DONE);
    }
    return r->wrong ? HV_FAILED : HV_RETRY;
}

static int32_t run_rest(hv_lane *l, const hv_span *s, uint32_t at, int32_t done, int32_t *wrong)
{
    uint32_t end = s->near_ends[s->windows];
    for (;;) {
        hv_replay replay;
        uint32_t window = hv_window_of(s, at);
        hv_replay_from(&replay, s, window, at);
        int32_t became = run_window(l, &replay, done);
        *wrong = replay.wrong;
        uint64_t near = s->near_ends[window + 1];
        if (became == HV_RETRY && near < end)
            became = hv_lane_to_stop(l, s->near, s->site_gva, s->site_kind, &near, end);
        if (became == HV_FAILED || near == end)
            return became;
        done = became == HV_DONE;
        at = (uint32_t)near;
    }
}

int32_t hv_lane_rest(hv_lane *l, const hv_frame *f, uint32_t nth, int32_t done, int32_t *wrong)
{
    hv_span span;
    *wrong = hv_open_span(f, &span, l->near);
    if (*wrong)
        return HV_FAILED;
    return run_rest(l, &span, hv_near_of(f, nth), done, wrong);
}
