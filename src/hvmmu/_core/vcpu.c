/* The fast lane's stops. One is either handled here, all of it, or nothing of it is and Python is asked.
 *
 * vcpu.py and switch.py say in words what is done here, and the tests hold the two against each other.
 * What Python keeps of the guest is not touched: what changes is noted, and taken over before anybody
 * there looks.
 */

#include <stdint.h>
#include <string.h>

#include "thread.h"
#include "shadow_page.h"
#include "shadow_mmu.h"
#include "expand.h"
#include "vcpu.h"
#include "callbacks.h"
#include "stops.h"

/* The ledger. */

static uint32_t count_row(hv_lane *l, uint32_t route, uint32_t cause, uint32_t pfec,
                          uint32_t level)
{
    uint32_t key = route | cause << 4 | (pfec & 0xff) << 8 | level << 16, at = 0;
    while (at < l->row_count && l->rows[at].key != key)
        at++;
    if (at == l->row_count) {
        l->rows[at].key = key;
        l->rows[at].count = 0;
        l->row_count++;
    }
    l->rows[at].count++;
    return key;
}

/* The world switch. */

static void flush(hv_lane *l, int32_t scope, uint64_t gva)
{
    l->tlb_flushes++;
    hv_flush(l->engine, scope, gva);
}

/* Enter the guest, a flush of this scope having been asked for since the exit. */
static void enter(hv_lane *l, int32_t asked, uint64_t gva)
{
    int32_t scope = l->flushes[asked];
    if (scope != HV_FLUSH_NOTHING)
        flush(l, scope, gva);
}

int hv_invlpg(hv_lane *l, uint64_t gva)
{
    if (l->hypervised && l->acted_out)
        return ask(l, HV_ASK_INVLPG, gva, 0) != HV_FAILED;
    l->invlpg++;
    if (!l->hypervised) {
        flush(l, HV_FLUSH_PAGE, gva);
        return 1;
    }
    l->exits[HV_EXIT_INVLPG]++;
    if (l->hears & HV_HEARS_INVLPG) {
        int32_t became = hv_invlpg_exited(l->self, gva);
        if (became != HV_GO_ON)
            return became != HV_FAILED;
    }
    enter(l, HV_FLUSH_PAGE, gva);
    return 1;
}

/* Stops. */

/* Have a page fault that exited heard and routed; HV_GO_ON: *handled says how. */
static int32_t route_exit(hv_lane *l, const uint64_t *operand, uint64_t gva, uint32_t pfec,
                          hv_fault_outcome *handled)
{
    int heard = l->hears & HV_HEARS_EXITS;
    l->stored = operand ? *operand : 0;
    l->has_stored = operand != NULL;
    if (heard) {
        l->exits[HV_EXIT_PAGE_FAULT]++;
        int32_t became = hv_exited(l->self, gva, pfec);
        if (became != HV_GO_ON)
            return became;
    }
    if (hv_mmu_handle(l->mmu, gva, pfec, handled) < 0)
        return ask(l, heard ? HV_ASK_MMU : HV_ASK_STOP, l->stored, l->has_stored);
    l->exits[HV_EXIT_PAGE_FAULT] += !heard;
    uint32_t row = count_row(l, handled->route, handled->cause, handled->pfec, handled->level);
    l->guest_walk_refs += handled->walk_refs;
    if (!(l->hears & HV_HEARS_FAULTS))
        return HV_GO_ON;
    l->owes_flush = handled->flush != HV_FLUSH_NOTHING;
    return hv_faulted(l->self, gva, pfec, row, handled->walk_refs, handled->gpa);
}

static int32_t page_fault_exit(hv_lane *l, const uint64_t *operand)
{
    hv_fault_outcome handled;
    uint64_t gva = l->stop->gva;
    int32_t became = route_exit(l, operand, gva, l->stop->pfec, &handled);
    if (became != HV_GO_ON)
        return became;
    if (handled.route == EMULATE) {
        uint64_t gpa = operand ? handled.gpa : handled.gpa & ~7ull;
        int32_t flush = hv_mmu_store(l->mmu, gpa, operand ? *operand : peek(l, gpa), 8);
        handled.flush = flush > handled.flush ? flush : handled.flush;
        if (hv_mmu_lost_root(l->mmu))
            return ask(l, HV_ASK_NEW_ROOT, 0, 0) == HV_FAILED ? HV_FAILED : HV_DONE;
    }
    enter(l, handled.flush, 0);
    if (handled.route == INJECT) {
        l->cr2 = gva;
        l->pfec = handled.pfec;
        return HV_FAULTS;
    }
    return handled.route == EMULATE || handled.route == MMIO ? HV_DONE : HV_RETRY;
}

/* A page fault that hardware took to the guest. */
static int32_t delivered(hv_lane *l)
{
    const hv_stop *s = l->stop; /* who hears of the fault may have the engine run, and stop */
    uint32_t pfec = s->pfec, cause = hv_guest_cause(pfec, s->access, s->kind, &l->regs);
    uint32_t row = count_row(l, BYPASS, cause, pfec, s->level);
    if (l->hears & HV_HEARS_FAULTS)
        if (hv_faulted(l->self, s->gva, pfec, row, 0, 0) == HV_FAILED)
            return HV_FAILED;
    l->pfec = pfec;
    return HV_FAULTS;
}

int32_t hv_stopped(hv_lane *l, const uint64_t *operand)
{
    const hv_stop *s = l->stop;
    l->stopped = 1;
    if (s->event == HV_DELIVERED)
        l->cr2 = s->gva;
    if (l->row_count == 64 && ask(l, HV_ASK_DRAIN, 0, 0) == HV_FAILED)
        return HV_FAILED;
    if (s->event == HV_EXIT && l->mmu && !l->acted_out)
        return page_fault_exit(l, operand);
    if (s->event == HV_DELIVERED && !l->acted_out)
        return delivered(l);
    return ask(l, HV_ASK_STOP, operand ? *operand : 0, operand != NULL);
}
