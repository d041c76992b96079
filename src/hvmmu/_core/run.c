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
#include "ledger.h"
#include "guest.h"
#include "vcpu.h"
#include "callbacks.h"
#include "stops.h"

#define PAGE 4096ull

/* Run the rest of a window, with all stops; the first access may be done. */
static int32_t run_window(hv_vcpu *l, hv_replay *r, int32_t done)
{
    uint64_t last = HV_NO_TRANSLATION;
    uint32_t tries = 0;
    for (hv_replay_stopped(r, done); !hv_replay_on(r, l->engine, l->exit_filter, l->stop);) {
        uint64_t at = r->made - r->left;
        tries = at == last ? tries + 1 : 0;
        last = at;
        l->value = tries;
        if (tries > l->most_tries && hv_call(l->self, HV_CALL_HANG) == HV_FAILED)
            return HV_FAILED;
        int32_t became = hv_vcpu_handle(l);
        if (became == HV_FAILED)
            return HV_FAILED;
        hv_replay_stopped(r, became == HV_DONE);
    }
    return r->wrong ? HV_FAILED : HV_RETRY;
}

static int32_t run_rest(hv_vcpu *l, const hv_span *s, uint32_t at, int32_t done, int32_t *wrong)
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
            near = hv_vcpu_to_stop(l, s->near, s->site_gva, s->site_kind, near, end);
        if (became == HV_FAILED || near == end)
            return became;
        became = hv_vcpu_handle(l);
        if (became == HV_FAILED)
            return became;
        done = became == HV_DONE;
        at = (uint32_t)near;
    }
}

/* Bring all sets in the order that they are in before a near access: the span's filter leaves that
 * out. By set, its latest pages are found going back, and then touched, the latest one last. */
static void make_order(hv_vcpu *l, const hv_span *s, uint32_t at)
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

int32_t hv_vcpu_rest(hv_vcpu *l, const hv_frame *f, uint32_t nth, int32_t *wrong)
{
    hv_span span;
    *wrong = hv_open_span(f, &span, l->near);
    if (*wrong)
        return HV_FAILED;
    uint32_t at = hv_near_of(f, nth);
    make_order(l, &span, at);
    int32_t became = hv_vcpu_handle(l);
    return became == HV_FAILED ? became : run_rest(l, &span, at, became == HV_DONE, wrong);
}
