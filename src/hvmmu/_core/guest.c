/* The guest's handler of page faults, whole faults in C: its pager, its tables and its frames.
 *
 * guest/{faults,pager,tables,frames}.py say in words what is done here, and the tests hold the two
 * against each other. A fault that is not planned for is Python's, and so is each stop of the handler's
 * own accesses that stops.c does not handle.
 */

#include <stdint.h>
#include <string.h>

#include "arch.h"
#include "thread.h"
#include "shadow_page.h"
#include "shadow_mmu.h"
#include "expand.h"
#include "ledger.h"
#include "vcpu.h"
#include "callbacks.h"
#include "stops.h"
#include "guest.h"

#define PAGE 4096ull
#define PROT_WRITE 2u
#define PROT_EXEC 4u
#define RECORD 12u /* bytes of a fault in the log */

/* The kernel's own accesses, through the direct map. Each returns 0 if Python failed. */

static int single(hv_vcpu *l, uint64_t gva, uint8_t kind, uint64_t value, uint64_t *hpa)
{
    return hv_access_one(l, gva, kind, value, 8, hpa);
}

static int32_t ask(hv_vcpu *l, int32_t what, uint64_t value)
{
    l->value = value;
    return hv_call(l->self, what);
}

static int load(hv_vcpu *l, uint64_t gpa, uint64_t *value)
{
    uint64_t hpa;
    l->ledger->accesses++;
    if (!single(l, l->kernel_base + gpa, 0, 0, &hpa))
        return 0;
    *value = ~0ull;
    if (hpa != HV_NO_TRANSLATION)
        memcpy(value, l->memory + hpa, 8);
    return 1;
}

static int store(hv_vcpu *l, uint64_t gpa, uint64_t value)
{
    uint64_t hpa;
    l->ledger->accesses++;
    if (!single(l, l->kernel_base + gpa, PF_W, value, &hpa))
        return 0;
    if (hpa != HV_NO_TRANSLATION)
        memcpy(l->memory + hpa, &value, 8);
    return 1;
}

/* Frames. */

static int has_frames(const hv_zone *zone, uint64_t wanted)
{
    if (wanted <= zone->free_count)
        return 1;
    return !zone->more_free && wanted - zone->free_count <= (zone->end - zone->next) / PAGE;
}

static uint64_t take(hv_zone *zone, int *fresh)
{
    *fresh = !zone->free_count;
    if (zone->free_count)
        return zone->free[--zone->free_count];
    zone->next += PAGE;
    return zone->next - PAGE;
}

/* Take a cleared frame: one that is fresh since boot is zero. */
static int take_cleared(hv_vcpu *l, hv_zone *zone, uint64_t *frame)
{
    int fresh;
    *frame = take(zone, &fresh);
    return fresh || hv_fill_page(l, l->kernel_base + *frame, HV_NO_TRANSLATION);
}

static uint32_t *shares(const hv_vcpu *l, uint64_t frame)
{
    return l->shared + (frame - l->first_data) / PAGE;
}

static int take_data(hv_vcpu *l, uint64_t *frame)
{
    if (!take_cleared(l, &l->data, frame))
        return 0;
    *shares(l, *frame) = 1;
    return 1;
}

/* Take a frame with the bytes of another. */
static int take_copy(hv_vcpu *l, uint64_t source, uint64_t *frame)
{
    int fresh;
    uint64_t hpa;
    *frame = take(&l->data, &fresh);
    l->ledger->accesses++;
    if (!single(l, l->kernel_base + source, 0, 0, &hpa))
        return 0;
    if (hpa == HV_NO_TRANSLATION)
        return ask(l, HV_CALL_NOTHING_THERE, source) != HV_FAILED;
    if (!hv_fill_page(l, l->kernel_base + *frame, hpa))
        return 0;
    *shares(l, *frame) = 1;
    return 1;
}

/* Page tables. */

static uint64_t slot(uint64_t table, uint64_t gva, int level)
{
    return table + 8 * (gva >> (3 + 9 * level) & 511);
}

static void note_table(hv_vcpu *l, uint64_t table, int gained)
{
    hv_used *used = l->used + table / PAGE;
    if (!used->noted) {
        used->noted = 1;
        l->noted_tables[l->noted_count++] = (uint32_t)(table / PAGE);
    }
    used->gained += gained;
}

static int write_entry(hv_vcpu *l, uint64_t at, uint64_t old, uint64_t new)
{
    if (!store(l, at, new))
        return 0;
    note_table(l, at & -PAGE, !!new - !!old);
    return 1;
}

/* Go down the tables from one of this level, those that are missing made, to the slot for gva. */
static int leaf_slot(hv_vcpu *l, uint64_t gva, uint64_t table, int level, uint64_t *at)
{
    for (; level > 1; level--) {
        uint64_t where = slot(table, gva, level), entry;
        if (!load(l, where, &entry))
            return 0;
        if (!entry) {
            if (!take_cleared(l, &l->tables, &table))
                return 0;
            note_table(l, table, 0);
            entry = table | PTE_P | PTE_W | PTE_U | (l->set_accessed_dirty ? PTE_A : 0);
            if (!write_entry(l, where, 0, entry))
                return 0;
        }
        table = entry & PTE_ADDRESS;
    }
    *at = slot(table, gva, 1);
    return 1;
}

static uint64_t leaf(const hv_vcpu *l, uint64_t frame, int write, int no_execute)
{
    uint64_t entry = frame | PTE_P | PTE_U | (write ? PTE_W : 0);
    if (l->set_accessed_dirty)
        entry |= PTE_A | (write ? PTE_D : 0);
    return entry | (l->nx && no_execute ? PTE_NX : 0);
}

/* The pager. */

typedef struct {
    uint64_t gva; /* of the page */
    const hv_region *region;
    int write, fetch, cause, is_file;
    int tables;        /* how many there are for it, of four */
    uint64_t slots[4]; /* in them, the root's first */
} fault;

static const hv_region *find_region(const hv_vcpu *l, uint64_t gva)
{
    uint64_t low = 0, high = l->region_count;
    while (low < high) {
        uint64_t middle = (low + high) / 2;
        if (gva < l->regions[middle].start)
            high = middle;
        else if (gva >= l->regions[middle].end)
            low = middle + 1;
        else
            return l->regions + middle;
    }
    return NULL;
}

static int is_legal(const hv_region *region, uint32_t pfec)
{
    if (!region || !region->prot)
        return 0;
    if ((pfec & PF_W) && !(region->prot & PROT_WRITE))
        return 0;
    return !(pfec & PF_ID) || (region->prot & PROT_EXEC);
}

/* Look, with no effect, what the pager will do; 0 if it is nothing that is done here. */
static int plan(const hv_vcpu *l, uint64_t gva, uint32_t pfec, fault *f)
{
    if ((pfec & ~(PF_P | PF_W | PF_U | PF_ID)) || gva >= l->user_end)
        return 0;
    if (gva == l->last_gva && pfec == l->last_pfec && l->repeats + 1 >= l->most_repeats)
        return 0;
    f->region = find_region(l, gva);
    if (!is_legal(f->region, pfec))
        return 0;
    f->gva = gva & -PAGE;
    f->write = !!(pfec & PF_W);
    f->fetch = !!(pfec & PF_ID);
    f->is_file = f->region->inferred ? f->fetch : f->region->file;
    uint64_t table = l->root, entry = 1;
    for (f->tables = 0; f->tables < 4 && entry; f->tables++) {
        uint64_t at = f->slots[f->tables] = slot(table, gva, 4 - f->tables);
        entry = peek(l, at);
        table = entry & PTE_ADDRESS;
    }
    if (!has_frames(&l->tables, (uint64_t)(4 - f->tables)))
        return 0;
    if (!entry) {
        f->cause = !f->is_file ? HV_ZERO : f->write ? HV_COW_COPY : HV_FILE;
        if (f->is_file && !f->region->own_file)
            return 0;
        return has_frames(&l->data, (uint64_t)(f->is_file + f->write));
    }
    if (!(entry & PTE_P))
        return 0;
    if (f->write && !(entry & PTE_W)) {
        uint64_t frame = entry & PTE_ADDRESS;
        f->cause = frame == l->zero_frame ? HV_COW_ZERO : HV_COW_COPY;
        if (*shares(l, frame) == 1)
            f->cause = HV_COW_REUSE;
        return f->cause == HV_COW_REUSE || has_frames(&l->data, 1);
    }
    f->cause = f->fetch && (entry & PTE_NX) ? HV_EXEC_UPGRADE : HV_SPURIOUS;
    return 1;
}

static void log_fault(hv_vcpu *l, uint64_t gva, uint32_t pfec)
{
    memcpy(l->log + l->log_bytes, &gva, 8);
    memcpy(l->log + l->log_bytes + 8, &pfec, 4);
    l->log_bytes += RECORD;
    l->repeats = gva == l->last_gva && pfec == l->last_pfec ? l->repeats + 1 : 1;
    l->last_gva = gva;
    l->last_pfec = pfec;
}

static int fill(hv_vcpu *l, const fault *f, uint64_t at)
{
    int no_execute = f->region->inferred ? !f->fetch : !(f->region->prot & PROT_EXEC);
    uint64_t frame = l->zero_frame, cached;
    if (f->is_file) {
        if (!take_data(l, &cached))
            return 0;
        uint64_t region = (uint64_t)(f->region - l->regions);
        l->cached[l->cached_count++] = (hv_cached){f->gva, cached, region};
        frame = cached;
        if (f->write && !take_copy(l, cached, &frame))
            return 0;
    } else if (f->write && !take_data(l, &frame)) {
        return 0;
    }
    if (!f->write)
        ++*shares(l, frame);
    return write_entry(l, at, 0, leaf(l, frame, f->write, no_execute));
}

/* Another frame: the old translation goes before the new one comes. */
static int break_sharing(hv_vcpu *l, const fault *f, uint64_t at, uint64_t entry)
{
    uint64_t frame, old = entry & PTE_ADDRESS;
    if (f->cause == HV_COW_REUSE) {
        uint64_t used = l->set_accessed_dirty ? PTE_A | PTE_D : 0;
        return write_entry(l, at, entry, entry | PTE_W | used);
    }
    if (!(old == l->zero_frame ? take_data(l, &frame) : take_copy(l, old, &frame)))
        return 0;
    if (!write_entry(l, at, entry, 0))
        return 0;
    if (!hv_invlpg(l, f->gva))
        return 0;
    --*shares(l, old);
    return write_entry(l, at, 0, leaf(l, frame, 1, !!(entry & PTE_NX)));
}

/* Read the entry of the page, and on the way there the others; where it lies goes to *at. */
static int read_leaf(hv_vcpu *l, const fault *f, uint64_t *at, uint64_t *entry)
{
    uint64_t gva[4], hpa[4], table = l->root;
    int done = 0;
    if (f->tables == 4) {
        for (int n = 0; n < 4; n++)
            gva[n] = l->kernel_base + f->slots[n];
        done = l->engine && !l->deprivileged ? (int)hv_read_at_once(l->engine, gva, hpa, 4) : 0;
        l->ledger->accesses += (uint64_t)done;
    }
    if (done) {
        memcpy(entry, l->memory + hpa[done - 1], 8);
        table = *entry & PTE_ADDRESS;
        *at = f->slots[done - 1];
    }
    return done == 4 || (leaf_slot(l, f->gva, table, 4 - done, at) && load(l, *at, entry));
}

static int resolve(hv_vcpu *l, const fault *f)
{
    uint64_t at, entry;
    if (!read_leaf(l, f, &at, &entry))
        return 0;
    int went = 1;
    if (!entry)
        went = fill(l, f, at);
    else if (f->cause == HV_EXEC_UPGRADE)
        went = write_entry(l, at, entry, (entry & ~PTE_NX) | (l->set_accessed_dirty ? PTE_A : 0));
    else if (f->cause != HV_SPURIOUS)
        went = break_sharing(l, f, at, entry);
    if (went)
        l->causes[f->cause]++;
    return went;
}

static int is_full(const hv_vcpu *l)
{
    return l->log_bytes + RECORD > sizeof l->log || l->cached_count == 256;
}

int32_t hv_page_fault(hv_vcpu *l)
{
    uint32_t pfec = l->delivered;
    if (is_full(l) && ask(l, HV_CALL_DRAIN, 0) == HV_FAILED)
        return HV_FAILED;
    fault f;
    if (!plan(l, l->cr2, pfec, &f))
        return ask(l, HV_CALL_PAGE_FAULT, 0);
    log_fault(l, l->cr2, pfec);
    return resolve(l, &f) ? HV_RETRY : HV_FAILED;
}
