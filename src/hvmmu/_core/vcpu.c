/* One vCPU: a stop is handled in steps (exit, routing, entry, delivery), each of them in C, or in Python
 * where a backend keeps state, an MMU is a plugin, or a hook listens.
 */

#include <stdint.h>
#include <stdlib.h>
#include <string.h>

#include "arch.h"
#include "thread.h"
#include "shadow_page.h"
#include "shadow_mmu.h"
#include "events_inline.h"
#include "ledger.h"
#include "guest.h"
#include "vcpu.h"
#include "callbacks.h"
#include "stops.h"

#define PAGE 4096ull

/* Return whether a callback went on: everything but HV_FAILED does. */
static int call(hv_vcpu *v, int32_t what) { return hv_call(v->self, what) != HV_FAILED; }

/* Return whether the MMU did what it was to do; Python raises the error that a negative result is. */
static int went(hv_vcpu *v, int32_t result)
{
    if (result >= 0)
        return 1;
    v->value = (uint64_t)(int64_t)result;
    return call(v, HV_CALL_MMU_FAILED);
}

/* Say whether hooks read events of a kind, synchronously. */
static int hooked(const hv_vcpu *v, uint32_t kind) { return v->events->hooked >> kind & 1; }

/* Say whether anybody reads more of a fault than its counts. */
static int is_watched(const hv_vcpu *v) { return v->events->hooked | v->events->recorded; }

void hv_record_exit(hv_vcpu *v, uint32_t name, uint64_t gva, uint64_t value, uint32_t pfec)
{
    HV_EMIT(v->events, HV_EVENT_EXIT, .number = name, .gva = gva, .value = value, .pfec = pfec);
}

void hv_record_entry(hv_vcpu *v, int32_t scope)
{
    HV_EMIT(v->events, HV_EVENT_ENTRY, .number = scope != HV_FLUSH_NOTHING);
}

/* The ledger. */

uint32_t hv_count_fault(hv_vcpu *v, const hv_fault *f)
{
    hv_ledger *l = v->ledger;
    const hv_fault_outcome *out = &f->out;
    uint32_t key = out->route | out->cause << 3 | out->pfec << 7 | out->level << 15;
    HV_EMIT(v->events, HV_EVENT_FAULT, .gva = f->gva, .gpa = out->gpa, .pfec = out->pfec,
            .level = out->level, .number = out->route | out->cause << 4);
    if (out->pfec > 0xff || out->level > 7 || (!l->faults[key] && l->used_count == HV_LEDGER_ROWS)) {
        v->fault = *f;
        call(v, HV_CALL_COUNT);
        return ~0u;
    }
    l->guest_walk_refs += out->walk_refs;
    if (!l->faults[key]++)
        l->used[l->used_count++] = key;
    return key;
}

/* Flushes. */

static hv_flush_request widest(hv_flush_request one, hv_flush_request other)
{
    if (one.scope == HV_FLUSH_PAGE && other.scope == HV_FLUSH_PAGE && one.gva != other.gva)
        return (hv_flush_request){HV_FLUSH_ALL, 0};
    return other.scope > one.scope ? other : one; /* the narrowest has the lowest number */
}

int32_t hv_flush_now(hv_vcpu *v, int32_t scope, uint64_t gva)
{
    v->ledger->tlb_flushes++;
    if (v->engine) {
        hv_flush(v->engine, scope, gva);
        return 1;
    }
    v->scope = scope;
    v->value = gva;
    return call(v, HV_CALL_FLUSH);
}

int32_t hv_request_flush(hv_vcpu *v, int32_t scope, uint64_t gva)
{
    if (scope == HV_FLUSH_NOTHING)
        return 1;
    if (!v->hypervised)
        return hv_flush_now(v, scope, gva);
    v->requested = widest(v->requested, (hv_flush_request){scope, gva});
    return 1;
}

/* Roots and privileges. */

int32_t hv_set_root(hv_vcpu *v, uint64_t root)
{
    if (v->regs.cr3 == root)
        return 1;
    v->regs.cr3 = root;
    if (v->engine) {
        hv_set_engine_root(v->engine, root);
    } else {
        v->value = root;
        if (!call(v, HV_CALL_SET_ROOT))
            return 0;
    }
    return !v->deprivileged || hv_flush_now(v, HV_FLUSH_ALL, 0);
}

int32_t hv_set_privilege(hv_vcpu *v, int32_t user)
{
    if (!v->deprivileged || v->user == user)
        return 1;
    v->user = user;
    v->ledger->direct_switches++;
    if (v->simulated && !call(v, HV_CALL_PRIVILEGE))
        return 0;
    return hv_set_root(v, v->roots[user]);
}

/* Hardware's error code as the privilege of the guest has it. */
static uint32_t as_guest_sees(const hv_vcpu *v, uint32_t pfec)
{
    return v->deprivileged && !v->user ? pfec & ~PF_U : pfec;
}

/* Entries. */

static int enter(hv_vcpu *v)
{
    if (v->simulated)
        return call(v, HV_CALL_ENTER);
    hv_flush_request flush = v->requested;
    v->requested.scope = HV_FLUSH_NOTHING;
    if (v->inject && v->user) {
        v->user = 0;
        if (!hv_set_root(v, v->roots[0]))
            return 0;
    }
    int32_t scope = v->profile.flushes[flush.scope];
    hv_record_entry(v, scope);
    return scope == HV_FLUSH_NOTHING || hv_flush_now(v, scope, flush.gva);
}

int32_t hv_invlpg(hv_vcpu *v, uint64_t gva)
{
    v->ledger->invlpg++;
    if (!hv_set_privilege(v, 0))
        return 0;
    if (v->invlpg_exits) {
        if (!v->simulated) {
            v->ledger->exits[v->profile.invlpg]++;
            hv_record_exit(v, v->profile.invlpg, 0, gva, 0);
        }
        if (v->simulated || hooked(v, HV_EVENT_EXIT)) {
            if (hv_call_invlpg_exit(v->self, gva) == HV_FAILED)
                return 0;
            gva = v->value;
        }
    }
    if (v->mmu || !v->hypervised) { /* the shadow follows every store: INVLPG is only a flush */
        if (!hv_request_flush(v, HV_FLUSH_PAGE, gva))
            return 0;
    } else {
        v->value = gva;
        if (!call(v, HV_CALL_INVLPG))
            return 0;
    }
    v->inject = 0;
    return !v->invlpg_exits || enter(v);
}

/* Exits. */

/* Exit, and have hooks see it; HV_CONTINUE: *f is to be routed, unless a plugin handled it. */
static int32_t leave(hv_vcpu *v, hv_fault *f)
{
    if (!v->simulated) {
        uint32_t name = v->profile.page_fault[f->pfec & 63];
        v->ledger->exits[name]++;
        hv_record_exit(v, name, f->gva, 0, f->pfec);
        f->pfec = as_guest_sees(v, f->pfec);
        if (!(hooked(v, HV_EVENT_EXIT)))
            return HV_CONTINUE;
    }
    v->fault = *f;
    int32_t became = hv_call_exit(v->self, f->gva, f->pfec);
    *f = v->fault;
    return became;
}

/* Route a fault that exited; return 0 if Python failed. */
static int route_fault(hv_vcpu *v, hv_fault *f)
{
    if (f->handled)
        return 1;
    if (v->mmu) {
        if (is_watched(v))
            f->shadow_refs = hv_shadow_path(v->mmu, f->gva, v->deprivileged && (f->pfec & PF_U), f->shadow);
        int32_t result = hv_mmu_handle(v->mmu, f->gva, f->pfec, &f->out, &f->guest);
        f->flush = (hv_flush_request){f->out.flush, 0};
        return went(v, result);
    }
    v->fault = *f;
    int routed = call(v, HV_CALL_ROUTE);
    *f = v->fault;
    return routed;
}

/* Complete a store; an access whose operand is unknown writes what was there. */
static int emulate(hv_vcpu *v, hv_fault *f)
{
    if (!f->has_operand) {
        f->out.gpa &= ~7ull;
        f->size = 8;
        f->operand = peek(v, f->out.gpa);
    }
    HV_EMIT(v->events, HV_EVENT_TABLE_WRITE, .gpa = f->out.gpa, .value = f->operand, .number = f->size);
    if (v->mmu) {
        int32_t scope = hv_mmu_store(v->mmu, f->out.gpa, f->operand, f->size);
        f->flush = widest(f->flush, (hv_flush_request){scope, 0});
        return went(v, scope);
    }
    v->fault = *f;
    int stored = call(v, HV_CALL_STORE);
    *f = v->fault;
    return stored;
}

/* Say whether the roots that hardware walks from may have changed. */
static int may_have_new_roots(const hv_vcpu *v)
{
    return v->mmu ? hv_mmu_lost_root(v->mmu) : v->hypervised;
}

static int32_t page_fault_exit(hv_vcpu *v, const uint64_t *operand, uint32_t size)
{
    hv_fault f;
    f.gva = v->stop->gva;
    f.pfec = v->stop->pfec;
    f.has_operand = operand != NULL;
    f.size = size;
    f.operand = operand ? *operand : 0;
    f.handled = 0;
    f.flush = (hv_flush_request){HV_FLUSH_NOTHING, 0};
    f.guest.refs = f.shadow_refs = 0;
    int32_t became = leave(v, &f);
    if (became != HV_CONTINUE)
        return became;
    if (!route_fault(v, &f))
        return HV_FAILED;
    uint32_t key = hv_count_fault(v, &f);
    if (hooked(v, HV_EVENT_FAULT)) {
        v->fault = f;
        if (hv_call_fault(v->self, f.gva, f.pfec, key, f.out.walk_refs, f.out.gpa) == HV_FAILED)
            return HV_FAILED;
    }
    uint32_t route = f.out.route;
    int inject = route == INJECT;
    if (route == EMULATE && !emulate(v, &f))
        return HV_FAILED;
    if (inject) {
        v->cr2 = f.gva;
        v->delivered = f.out.pfec;
        HV_EMIT(v->events, HV_EVENT_INJECT, .gva = f.gva, .pfec = f.out.pfec);
    }
    v->inject = inject;
    if (!hv_request_flush(v, f.flush.scope, f.flush.gva))
        return HV_FAILED;
    if (may_have_new_roots(v) && !call(v, HV_CALL_RELOAD))
        return HV_FAILED;
    if (!enter(v))
        return HV_FAILED;
    if (v->inject) /* an entry through the control structure says what it delivers */
        return HV_DELIVER;
    v->completed = f.out.gpa;
    return route == EMULATE || route == MMIO ? HV_DONE : HV_RETRY;
}

/* A page fault that hardware took to the guest. */
static int32_t delivered(hv_vcpu *v)
{
    const hv_stop s = *v->stop; /* a hook may have the engine run, and stop */
    hv_fault f;
    f.gva = s.gva;
    f.pfec = as_guest_sees(v, s.pfec);
    f.guest.refs = f.shadow_refs = 0;
    v->cr2 = s.gva;
    if (v->deprivileged) {
        v->ledger->direct_switches++;
        v->user = 0;
        if (v->simulated) {
            v->fault = f;
            v->fault.pfec = s.pfec;
            if (!call(v, HV_CALL_DELIVER))
                return HV_FAILED;
            f.pfec = v->fault.pfec;
        }
        if (!hv_set_root(v, v->roots[0]))
            return HV_FAILED;
    }
    uint32_t kind = (s.kind & ~PF_U) | (f.pfec & PF_U);
    uint32_t cause = hv_guest_cause(f.pfec, s.access, kind, &v->regs);
    f.out = (hv_fault_outcome){.route = BYPASS, .cause = cause, .pfec = f.pfec, .level = s.level};
    uint32_t key = hv_count_fault(v, &f);
    if (hooked(v, HV_EVENT_FAULT)) {
        v->fault = f;
        if (hv_call_fault(v->self, f.gva, f.pfec, key, 0, 0) == HV_FAILED)
            return HV_FAILED;
    }
    v->delivered = f.pfec;
    return HV_DELIVER;
}

/* An access to where no memory is, on a bare machine. */
static int32_t physical(hv_vcpu *v)
{
    hv_fault f = {.gva = v->stop->gva};
    f.out = (hv_fault_outcome){.route = MMIO, .cause = NO_MEMORY, .level = v->stop->level};
    v->completed = v->stop->pa;
    hv_count_fault(v, &f);
    return HV_DONE;
}

int32_t hv_stop_handle(hv_vcpu *v, const uint64_t *operand, uint32_t size)
{
    v->completed = HV_NO_TRANSLATION;
    switch (v->stop->event) {
    case HV_EXIT:
        return page_fault_exit(v, operand, size);
    case HV_DELIVERED:
        return delivered(v);
    case HV_GENERAL_PROTECTION:
        if (!hv_set_privilege(v, 0))
            return HV_FAILED;
        v->value = v->stop->gva;
        return hv_call(v->self, HV_CALL_GENERAL_PROTECTION);
    case HV_PHYSICAL:
        if (!v->hypervised)
            return physical(v);
    }
    return hv_call(v->self, HV_CALL_BROKEN);
}

static int32_t handle(hv_vcpu *v, const uint64_t *operand, uint32_t size)
{
    int32_t became = hv_stop_handle(v, operand, size);
    return became == HV_DELIVER ? hv_take_page_fault(v) : became;
}

int32_t hv_vcpu_handle(hv_vcpu *v) { return handle(v, NULL, 8); }

/* Loops. */

/* Before the guest runs on: perform the flush that changes by other vCPUs owe here, and walk from a new root
 * where they have zapped this one. */
static int catch_up(hv_vcpu *v)
{
    if (!v->mmu || !hv_mmu_is_behind(v->mmu))
        return 1;
    v->ledger->remote_flushes++;
    v->inject = 0;
    return call(v, HV_CALL_RELOAD) && enter(v);
}

/* Run on the hardware thread, whoever implements it. */
static uint64_t run_engine(hv_vcpu *v, const uint64_t *gva, const uint8_t *kind, uint64_t at,
                           uint64_t count, uint64_t *translated)
{
    if (v->engine)
        return hv_run(v->engine, gva, kind, at, count, translated, v->exit_filter, v->stop);
    return hv_call_engine(v->self, gva, kind, at, count, translated);
}

/* A batch of accesses. A deprivileged guest's runs at the privilege of each, and hardware has them all as
 * the user's. */
typedef struct {
    const uint64_t *gva;
    const uint8_t *kind; /* as the guest has them */
    uint8_t *as_user;    /* with U set in each; NULL where the guest is not deprivileged */
    uint64_t count;
    uint64_t *translated;
    uint64_t end;        /* accesses up to this one have one privilege */
} batch;

/* Return 0 if there is no memory. */
static int set_user(batch *b, uint64_t at)
{
    b->as_user = malloc(b->count + 1);
    if (!b->as_user)
        return 0;
    for (; at < b->count; at++)
        b->as_user[at] = b->kind[at] | PF_U;
    return 1;
}

/* Run to the next stop; all ones if Python failed. */
static uint64_t run_to_stop(hv_vcpu *v, batch *b, uint64_t at)
{
    if (!b->as_user)
        return run_engine(v, b->gva, b->kind, at, b->count, b->translated);
    while (at < b->count) {
        uint32_t user = b->kind[at] & PF_U;
        if (at >= b->end)
            b->end = at + 1;
        while (b->end < b->count && (b->kind[b->end] & PF_U) == user)
            b->end++;
        if (!hv_set_privilege(v, user != 0))
            return HV_NO_TRANSLATION;
        uint64_t stopped = run_engine(v, b->gva, b->as_user, at, b->end, b->translated);
        if (stopped < b->end || stopped == HV_NO_TRANSLATION)
            return stopped;
        at = b->end;
    }
    return at;
}

static uint64_t gpa_of(const hv_vcpu *v, uint64_t hpa)
{
    return hpa - v->base < v->ram_size ? hpa - v->base : HV_NO_TRANSLATION;
}

static uint64_t run_batch(hv_vcpu *v, batch *b, uint64_t at)
{
    uint64_t last = HV_NO_TRANSLATION, from = at;
    uint32_t tries = 0;
    if (!catch_up(v))
        return at;
    for (;;) {
        uint64_t start = at;
        at = run_to_stop(v, b, at);
        if (at == HV_NO_TRANSLATION)
            return start;
        if (b->translated)
            for (; from < at; from++)
                b->translated[from] = gpa_of(v, b->translated[from]);
        if (at == b->count)
            return at;
        tries = at == last ? tries + 1 : 0;
        last = at;
        if (tries > v->most_tries) {
            v->value = tries;
            if (!call(v, HV_CALL_HANG))
                return at;
        }
        int32_t became = hv_vcpu_handle(v);
        if (became == HV_FAILED)
            return at;
        if (became != HV_DONE)
            continue;
        if (b->translated)
            b->translated[at] = v->completed;
        from = ++at;
    }
}

uint64_t hv_vcpu_run(hv_vcpu *v, const uint64_t *gva, const uint8_t *kind, uint64_t at,
                     uint64_t count, uint64_t *translated)
{
    batch b = {.gva = gva, .kind = kind, .count = count, .translated = translated, .end = at};
    if (v->deprivileged && !set_user(&b, at)) {
        call(v, HV_CALL_NO_MEMORY);
        return at;
    }
    at = run_batch(v, &b, at);
    free(b.as_user);
    return at;
}

/* Make one access at a privilege; 1: it landed at *hpa, 0: it stopped, -1: Python failed. */
static int run_one(hv_vcpu *v, uint64_t gva, uint8_t kind, uint64_t *hpa)
{
    if (v->deprivileged) {
        if (!hv_set_privilege(v, !!(kind & PF_U)))
            return -1;
        kind |= PF_U;
    }
    if (v->engine)
        return hv_run_one(v->engine, gva, kind, hpa, v->exit_filter, v->stop);
    uint64_t at = hv_call_engine(v->self, &gva, &kind, 0, 1, hpa);
    return at == HV_NO_TRANSLATION ? -1 : (int)at;
}

int32_t hv_access_one(hv_vcpu *v, uint64_t gva, uint8_t kind, uint64_t value, uint32_t size,
                      uint64_t *hpa)
{
    uint32_t tries = 0;
    if (!catch_up(v))
        return 0;
    for (;;) {
        *hpa = HV_NO_TRANSLATION;
        int ran = run_one(v, gva, kind, hpa);
        if (ran)
            return ran > 0;
        *hpa = HV_NO_TRANSLATION;
        if (++tries > v->most_tries) {
            v->value = tries;
            if (!call(v, HV_CALL_HANG))
                return 0;
        }
        int32_t became = hv_stop_handle(v, &value, size);
        if (became == HV_DELIVER) /* in the kernel */
            became = hv_call(v->self, HV_CALL_PAGE_FAULT);
        if (became != HV_RETRY)
            return became == HV_DONE;
    }
}

int32_t hv_fill_page(hv_vcpu *v, uint64_t gva, uint64_t source)
{
    const uint8_t *from = source == HV_NO_TRANSLATION ? NULL : v->memory + source;
    v->ledger->accesses++; /* one of the guest's, in however many pieces it is carried out */
    for (uint64_t done = 0; done < PAGE; done += 8) { /* 8: this iteration was emulated */
        uint64_t hpa, value = 0;
        if (from)
            memcpy(&value, from + done, 8);
        if (!hv_access_one(v, gva + done, PF_W, value, 8, &hpa))
            return 0;
        if (hpa == HV_NO_TRANSLATION)
            continue;
        if (from)
            memmove(v->memory + hpa, from + done, PAGE - done);
        else
            memset(v->memory + hpa, 0, PAGE - done);
        return 1;
    }
    return 1;
}

static uint64_t one_by_one(hv_vcpu *v, const uint16_t *kept, const uint64_t *site_gva,
                           const uint8_t *site_kind, uint64_t at, uint64_t count)
{
    uint64_t hpa;
    for (; at < count; at++) {
        int ran = run_one(v, site_gva[kept[at]], site_kind[kept[at]], &hpa);
        if (ran <= 0)
            return ran ? HV_NO_TRANSLATION : at;
    }
    return at;
}

uint64_t hv_vcpu_to_stop(hv_vcpu *v, const uint16_t *kept, const uint64_t *site_gva,
                         const uint8_t *site_kind, uint64_t at, uint64_t count)
{
    if (v->engine && !v->deprivileged)
        return hv_run_sites(v->engine, kept, site_gva, site_kind, at, count, v->exit_filter, v->stop);
    return one_by_one(v, kept, site_gva, site_kind, at, count);
}
