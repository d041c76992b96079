/* The instructions of the guest's kernel as a vCPU runs them, and the page faults that it takes to the
 * kernel.
 */

#include <stdint.h>
#include <string.h>

#include "arch.h"
#include "thread.h"
#include "shadow_page.h"
#include "shadow_mmu.h"
#include "ledger.h"
#include "guest_parts.h"
#include "vcpu.h"
#include "callbacks.h"
#include "stops.h"

static int32_t load(void *self, uint64_t gva, uint64_t *value)
{
    hv_vcpu *v = self;
    uint64_t hpa;
    v->ledger->accesses++;
    if (!hv_access_one(v, gva, 0, 0, 8, &hpa))
        return 0;
    *value = ~0ull; /* no memory is there */
    if (hpa != HV_NO_TRANSLATION)
        memcpy(value, v->memory + hpa, 8);
    return 1;
}

static int32_t store(void *self, uint64_t gva, uint64_t value)
{
    hv_vcpu *v = self;
    uint64_t hpa;
    v->ledger->accesses++;
    if (!hv_access_one(v, gva, PF_W, value, 8, &hpa))
        return 0;
    if (hpa != HV_NO_TRANSLATION)
        memcpy(v->memory + hpa, &value, 8);
    return 1;
}

static int32_t clear_page(void *self, uint64_t gva)
{
    return hv_fill_page(self, gva, HV_NO_TRANSLATION);
}

static int32_t copy_page(void *self, uint64_t gva, uint64_t source)
{
    hv_vcpu *v = self;
    uint64_t hpa;
    v->ledger->accesses++;
    if (!hv_access_one(v, source, 0, 0, 8, &hpa))
        return 0;
    if (hpa != HV_NO_TRANSLATION)
        return hv_fill_page(v, gva, hpa);
    v->value = source;
    return hv_call(v->self, HV_CALL_NOTHING_THERE) != HV_FAILED;
}

static int32_t invlpg(void *self, uint64_t gva) { return hv_invlpg(self, gva); }

static int32_t load_path(void *self, uint64_t root, uint64_t gva, uint64_t *at, uint64_t *entry)
{
    hv_vcpu *v = self;
    uint64_t slots[GUEST_ROOT_LEVEL], direct[GUEST_ROOT_LEVEL], hpa[GUEST_ROOT_LEVEL];
    if (!v->engine || v->deprivileged)
        return 0;
    for (int32_t n = 0, level = GUEST_ROOT_LEVEL; level; n++, level--) {
        slots[n] = hv_slot(root, gva, level);
        direct[n] = hv_direct(slots[n]);
        if (slots[n] >= v->ram_size)
            return 0;
        uint64_t link = peek(v, slots[n]);
        if (!link && level > 1)
            return 0;
        root = link & PTE_ADDRESS;
    }
    uint32_t done = hv_read_at_once(v->engine, direct, hpa, GUEST_ROOT_LEVEL);
    v->ledger->accesses += done;
    if (!done)
        return 0;
    v->stop->event = HV_END; /* as where accesses have run */
    *at = slots[done - 1];
    memcpy(entry, v->memory + hpa[done - 1], 8);
    return (int32_t)done;
}

void hv_vcpu_as_guest_cpu(hv_vcpu *v, hv_guest_cpu *cpu)
{
    *cpu = (hv_guest_cpu){v, load, store, clear_page, copy_page, invlpg, load_path};
}

int32_t hv_take_page_fault(hv_vcpu *v)
{
    if (!v->guest)
        return hv_call(v->self, HV_CALL_PAGE_FAULT);
    uint64_t before = v->ledger->accesses;
    int32_t wrong = hv_guest_page_fault(v->guest, v->guest_cpu, v->cr2, v->delivered);
    if (!wrong)
        return HV_RETRY;
    if (wrong == HV_GUEST_RAISED)
        return HV_FAILED;
    if (v->ledger->accesses != before)
        v->stop->event = HV_END; /* the kernel's last access did not stop */
    return hv_call(v->self, HV_CALL_GUEST_FAILED);
}
