/* The fast lane's loops: accesses one after the other, those that a compact trace keeps, and the rest
 * of a span once something has stopped. Each stop is stops.c's.
 */

#include <stddef.h>
#include <stdint.h>
#include <string.h>

#include "thread.h"
#include "shadow_page.h"
#include "shadow_mmu.h"
#include "expand.h"
#include "token_table.h"
#include "replay.h"
#include "vcpu.h"
#include "callbacks.h"
#include "stops.h"
#include "guest.h"

#define NO_TRANSLATION (~0ull)
#define PAGE 4096ull

int32_t hv_lane_handle(hv_lane *l)
{
    int32_t became = hv_stopped(l, NULL);
    return became == HV_FAULTS ? hv_page_fault(l) : became;
}

uint64_t hv_lane_to_stop(hv_lane *l, const uint16_t *kept, const uint64_t *site_gva,
                         const uint8_t *site_kind, uint64_t at, uint64_t count)
{
    return hv_run_sites(l->engine, kept, site_gva, site_kind, at, count, l->exit_filter, l->stop);
}

uint64_t hv_lane_run(hv_lane *l, const uint64_t *gva, const uint8_t *kind, uint64_t at,
                     uint64_t count)
{
    uint64_t last = NO_TRANSLATION;
    uint32_t tries = 0;
    for (;;) {
        at = hv_run(l->engine, gva, kind, at, count, NULL, l->exit_filter, l->stop);
        if (at == count)
            return count;
        tries = at == last ? tries + 1 : 0;
        last = at;
        if (tries > l->most_tries && ask(l, HV_ASK_HANG, tries, 0) == HV_FAILED)
            return at;
        int32_t became = hv_lane_handle(l);
        if (became == HV_FAILED)
            return at;
        if (became == HV_DONE)
            at++;
    }
}

/* Run the rest of a window, with all stops; the first access may be done. */
static int32_t run_window(hv_lane *l, hv_replay *r, int32_t done)
{
    uint64_t last = NO_TRANSLATION;
    uint32_t tries = 0;
    for (hv_replay_stopped(r, done); !hv_replay_on(r, l->engine, l->exit_filter, l->stop);) {
        uint64_t at = r->made - r->left;
        tries = at == last ? tries + 1 : 0;
        last = at;
        if (tries > l->most_tries && ask(l, HV_ASK_HANG, tries, 0) == HV_FAILED)
            return HV_FAILED;
        int32_t became = hv_lane_handle(l);
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
        if (became == HV_RETRY)
            near = hv_lane_to_stop(l, s->near, s->site_gva, s->site_kind, near, end);
        if (became == HV_FAILED || near == end)
            return became;
        became = hv_lane_handle(l);
        if (became == HV_FAILED)
            return became;
        done = became == HV_DONE;
        at = (uint32_t)near;
    }
}

/* Bring all sets in the order that they are in before a near access: the span's filter leaves that
 * out. By set, its latest pages are found going back, and then touched, the latest one last. */
static void make_order(hv_lane *l, const hv_span *s, uint32_t at)
{
    uint64_t pages[SLOTS][WAYS + 1]; /* what comes to a full set goes behind it, unseen */
    uint32_t found[SLOTS] = {0};
    memset(pages, 0xff, sizeof pages);
    while (at--) {
        uint16_t site = s->near[at];
        uint64_t page = s->site_gva[site] & -PAGE;
        uint32_t slot = slot_of_site(page, s->site_kind[site]);
        uint64_t *own = pages[slot];
        uint32_t known = 0;
        for (uint32_t way = 0; way < WAYS; way++)
            known |= own[way] == page;
        own[found[slot]] = page;
        found[slot] += !known & (found[slot] < WAYS);
    }
    for (uint32_t slot = 0; slot < SLOTS; slot++)
        while (found[slot])
            hv_touch(l->engine, pages[slot][--found[slot]], slot < SETS ? READ : FETCH);
}

int32_t hv_lane_rest(hv_lane *l, const hv_frame *f, uint32_t nth, int32_t *wrong)
{
    hv_span span;
    *wrong = hv_open_span(f, &span, l->near);
    if (*wrong)
        return HV_FAILED;
    uint32_t at = hv_near_of(f, nth);
    make_order(l, &span, at);
    int32_t became = hv_lane_handle(l);
    return became == HV_FAILED ? became : run_rest(l, &span, at, became == HV_DONE, wrong);
}
