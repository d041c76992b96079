/* A span of a reduced trace, run from a stop on.
 *
 Handling a stop may change what the TLB holds, so what the filters dropped no longer is without
 * effect. First the TLB's sets are brought into the order that the whole trace would have given
 * them. After the stop is handled, the rest of its window is run whole. The filter of each later
 * window knows nothing of earlier ones, so of those what that filter keeps is run, up to the next
 * stop.
 */

#include <stdint.h>

#include "arch.h"
#include "thread.h"
#include "shadow_page.h"
#include "shadow_mmu.h"
#include "events.h"
#include "ledger.h"
#include "guest.h"
#include "vcpu.h"
#include "callbacks.h"
#include "stops.h"
#include "grammar.h"
#include "expand.h"
#include "span_run.h"

static void fix_lru_order(hv_vcpu *v, const hvt_span *s, uint32_t at)
{
    uint64_t gva[HVT_SLOTS * HVT_WAYS];
    uint8_t kind[HVT_SLOTS * HVT_WAYS];
    uint32_t count = hvt_lru_fixup(s, at, gva, kind);
    for (uint32_t n = 0; n < count; n++)
        hv_touch(v->engine, gva[n], kind[n]);
}

/* Run the rest of a window from access at of window_kept, with all stops; return 0 if that failed. */
static int run_window(hv_vcpu *v, const hvt_span *s, uint32_t window, uint32_t at, int done,
                      hvt_run_room *room, int32_t *damage)
{
    uint32_t size = hvt_window_size(s, window), where = 0;
    *damage = hvt_expand(s, window, at, 0, room->gva, room->kind, &where);
    return !*damage &&
           hv_vcpu_run(v, room->gva, room->kind, where + (done ? 1 : 0), size, NULL) == size;
}

int32_t hvt_run_tail(hv_vcpu *v, const hvt_packed_span *packed, uint32_t nth, hvt_run_room *room,
                     int32_t *damage)
{
    hvt_span span;
    *damage = hvt_unpack(packed, &span, room->window_kept);
    if (*damage)
        return 0;
    uint64_t at = hvt_window_kept_of(packed, nth), end = span.kept_ends[span.windows];
    fix_lru_order(v, &span, (uint32_t)at);
    while (at < end) {
        int32_t became = hv_vcpu_handle(v);
        if (became == HV_FAILED)
            return 0;
        uint32_t window = hvt_window_of(&span, (uint32_t)at);
        if (!run_window(v, &span, window, (uint32_t)at, became == HV_DONE, room, damage))
            return 0;
        at = hv_vcpu_to_stop(v, span.window_kept, span.slot_gva, span.slot_kind,
                             span.kept_ends[window + 1], end);
    }
    return at != HV_NO_TRANSLATION;
}
