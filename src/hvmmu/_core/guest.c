/* The guest's page-fault handler: log the fault, judge it, and have the pager resolve it.
 *
 * The pager puts behind a page, at its first touch and at later ones:
 *
 * - Anonymous: a read maps the shared zero frame, read-only; a write maps a fresh frame.
 * - File: a read or fetch maps the page-cache frame, read-only; a write maps a private copy.
 * - Inferred, for traces, which do not say what is mapped: the first access decides. A fetch makes the
 *   page file-backed text, executable and read-only; a read makes it an anonymous page of zeros; a
 *   write a fresh private page; the latter two are not executable. A fetch from a page that is not
 *   executable makes it so, and a page once executable stays so when it is copied.
 *
 * A write to a read-only page of any of them breaks the sharing: copy-on-write.
 */

#include <string.h>

#include "guest_parts.h"

/* A fault that is legal. */
typedef struct {
    uint64_t gva; /* of the page */
    const hv_region *region;
    int write, fetch;
} fault;

/* Entries. */

/* Return a user leaf for a frame; writable ones are made for a write, hence dirty. */
static uint64_t leaf(const hv_guest *g, uint64_t frame, int write, int no_execute)
{
    uint64_t entry = frame | PTE_P | PTE_U | (write ? PTE_W : 0);
    if (g->params.set_accessed_dirty)
        entry |= PTE_A | (write ? PTE_D : 0);
    return entry | (g->nx && no_execute ? PTE_NX : 0);
}

/* Return an entry marked as used by the access that faulted on it. */
static uint64_t touched(const hv_guest *g, uint64_t entry, int write)
{
    return g->params.set_accessed_dirty ? entry | PTE_A | (write ? PTE_D : 0) : entry;
}

/* The pager. Each function below counts its cause once it has succeeded. */

static int32_t count(hv_guest *g, int32_t cause, int32_t wrong)
{
    g->causes[cause] += !wrong;
    return wrong;
}

/* Find the page-cache frame of a page, which is read in if it is new. */
static int32_t cached_frame(hv_guest *g, const hv_guest_cpu *cpu, const fault *f, uint64_t *frame)
{
    hv_page_cache *file = f->region->file;
    if (!file)
        return hv_guest_fails(g, HV_GUEST_NO_FILE, f->region->start);
    *frame = hv_cached(file, f->gva);
    if (*frame)
        return HV_GUEST_DONE;
    if (!hv_page_cache_grow(file))
        return hv_guest_fails(g, HV_GUEST_NO_HOST_MEMORY, 0);
    int32_t wrong = hv_take_data(g, cpu, frame);
    if (!wrong)
        hv_page_cache_add(file, f->gva, *frame);
    return wrong;
}

/* Find what a page of a file is mapped to: a read to the page cache, a write to a copy. */
static int32_t file_frame(hv_guest *g, const hv_guest_cpu *cpu, const fault *f, uint64_t *frame)
{
    uint64_t cached;
    int32_t wrong = cached_frame(g, cpu, f, &cached);
    if (wrong)
        return wrong;
    if (f->write)
        return hv_take_copy(g, cpu, cached, frame);
    *frame = cached;
    return hv_share(g, cached);
}

/* Find a frame of zeros: a read takes the shared one. */
static int32_t zeros(hv_guest *g, const hv_guest_cpu *cpu, const fault *f, uint64_t *frame)
{
    if (f->write)
        return hv_take_data(g, cpu, frame);
    *frame = g->zero_frame;
    return hv_share(g, *frame);
}

/* The first touch of a page. */
static int32_t fill(hv_guest *g, const hv_guest_cpu *cpu, const fault *f, uint64_t at)
{
    int inferred = f->region->backing == HV_BACKING_INFERRED;
    int no_execute = inferred ? !f->fetch : !(f->region->prot & PROT_EXEC);
    int is_file = inferred ? f->fetch : f->region->backing == HV_BACKING_FILE;
    uint64_t frame;
    int32_t wrong = is_file ? file_frame(g, cpu, f, &frame) : zeros(g, cpu, f, &frame);
    if (wrong)
        return wrong;
    wrong = hv_write_entry(g, cpu, at, 0, leaf(g, frame, f->write, no_execute));
    return count(g, !is_file ? HV_ZERO : f->write ? HV_COW_COPY : HV_FILE, wrong);
}

/* Give a page another frame: the old translation goes before the new one comes, as Linux does it. */
static int32_t replace(hv_guest *g, const hv_guest_cpu *cpu, const fault *f, uint64_t at,
                       uint64_t entry)
{
    uint64_t frame, old = entry & PTE_ADDRESS;
    int is_zero = old == g->zero_frame;
    int32_t wrong = is_zero ? hv_take_data(g, cpu, &frame) : hv_take_copy(g, cpu, old, &frame);
    if (wrong)
        return wrong;
    wrong = hv_write_entry(g, cpu, at, entry, 0);
    if (wrong)
        return wrong;
    wrong = hv_guest_ran(g, cpu->invlpg(cpu->self, f->gva));
    if (wrong)
        return wrong;
    wrong = hv_drop(g, old);
    if (wrong)
        return wrong;
    wrong = hv_write_entry(g, cpu, at, 0, leaf(g, frame, 1, !!(entry & PTE_NX)));
    return count(g, is_zero ? HV_COW_ZERO : HV_COW_COPY, wrong);
}

/* A write to a page that is read-only. */
static int32_t break_sharing(hv_guest *g, const hv_guest_cpu *cpu, const fault *f, uint64_t at,
                             uint64_t entry)
{
    if (hv_shares(g, entry & PTE_ADDRESS) != 1)
        return replace(g, cpu, f, at, entry);
    /* Same frame, more rights: the fault itself dropped the TLB's entry for this page. */
    int32_t wrong = hv_write_entry(g, cpu, at, entry, touched(g, entry | PTE_W, 1));
    return count(g, HV_COW_REUSE, wrong);
}

/* Find where the leaf of a page is, the tables above it built, and its entry. */
static int32_t find_leaf(hv_guest *g, const hv_guest_cpu *cpu, uint64_t gva, uint64_t *at,
                         uint64_t *entry)
{
    uint64_t table = g->root;
    int32_t loaded = cpu->load_path ? cpu->load_path(cpu->self, table, gva, at, entry) : 0;
    if (loaded == (int32_t)GUEST_ROOT_LEVEL)
        return HV_GUEST_DONE;
    if (loaded)
        table = *entry & PTE_ADDRESS;
    int32_t wrong = hv_descend(g, cpu, gva, table, (int32_t)GUEST_ROOT_LEVEL - loaded, at);
    return wrong ? wrong : hv_read_entry(g, cpu, *at, entry);
}

/* Make an access succeed that the region allows: by at most one new leaf entry. */
static int32_t resolve(hv_guest *g, const hv_guest_cpu *cpu, const fault *f)
{
    uint64_t at, entry;
    int32_t wrong = find_leaf(g, cpu, f->gva, &at, &entry);
    if (wrong)
        return wrong;
    if (!entry)
        return fill(g, cpu, f, at);
    if (!(entry & PTE_P))
        return hv_guest_fails(g, HV_GUEST_PARKED, f->gva);
    if (f->write && !(entry & PTE_W))
        return break_sharing(g, cpu, f, at, entry);
    if (!f->fetch || !(entry & PTE_NX))
        return count(g, HV_SPURIOUS, HV_GUEST_DONE);
    wrong = hv_write_entry(g, cpu, at, entry, touched(g, entry & ~PTE_NX, 0));
    return count(g, HV_EXEC_UPGRADE, wrong);
}

/* The handler. */

static int32_t log_fault(hv_guest *g, uint64_t gva, uint32_t pfec)
{
    if (g->log_bytes + GUEST_RECORD > sizeof g->log && !hv_guest_call(g->self, HV_GUEST_CALL_DRAIN))
        return hv_guest_fails(g, HV_GUEST_RAISED, 0);
    memcpy(g->log + g->log_bytes, &gva, 8);
    memcpy(g->log + g->log_bytes + 8, &pfec, 4);
    g->log_bytes += GUEST_RECORD;
    g->faults++;
    return HV_GUEST_DONE;
}

/* Refuse a fault that no machine delivers which works; else count its repeats. */
static int32_t refuse_impossible(hv_guest *g, uint64_t gva, uint32_t pfec)
{
    if (pfec & ~(PF_P | PF_W | PF_U | PF_ID))
        return hv_guest_fails(g, HV_GUEST_UNEXPECTED, 0);
    if (gva >= GUEST_USER_END && !(pfec & PF_U))
        return hv_guest_fails(g, HV_GUEST_DIRECT_MAP, 0);
    g->repeats = gva == g->last_gva && pfec == g->last_pfec ? g->repeats + 1 : 1;
    g->last_gva = gva;
    g->last_pfec = pfec;
    return g->repeats < GUEST_MOST_REPEATS ? HV_GUEST_DONE : hv_guest_fails(g, HV_GUEST_REPEATED, 0);
}

static const hv_region *find_region(const hv_regions *r, uint64_t gva)
{
    uint64_t low = 0, high = r->count;
    while (low < high) {
        uint64_t middle = (low + high) / 2;
        if (gva < r->sorted[middle].start)
            high = middle;
        else if (gva >= r->sorted[middle].end)
            low = middle + 1;
        else
            return r->sorted + middle;
    }
    return NULL;
}

/* Say why a region does not allow an access. Any protection but PROT_NONE lets x86 read, and without NX
   a fetch is a read. */
static int32_t refusal(const hv_region *region, uint32_t pfec)
{
    if (!region)
        return HV_GUEST_NOT_MAPPED;
    if ((pfec & PF_W) && !(region->prot & PROT_WRITE))
        return HV_GUEST_NOT_WRITABLE;
    if ((pfec & PF_ID) && !(region->prot & PROT_EXEC))
        return HV_GUEST_NOT_EXECUTABLE;
    return region->prot == PROT_NONE ? HV_GUEST_NO_ACCESS : HV_GUEST_DONE;
}

/* Find the region that a fault lies in and that allows the access. */
static int32_t judge(hv_guest *g, uint64_t gva, uint32_t pfec, const hv_region **region)
{
    if (gva >= GUEST_USER_END)
        return hv_guest_fails(g, HV_GUEST_KERNEL_ADDRESS, 0);
    if (g->regions->is_stale && !hv_guest_call(g->self, HV_GUEST_CALL_REGIONS))
        return hv_guest_fails(g, HV_GUEST_RAISED, 0);
    *region = find_region(g->regions, gva);
    int32_t why = refusal(*region, pfec);
    return why ? hv_guest_fails(g, why, 0) : HV_GUEST_DONE;
}

static int32_t handle(hv_guest *g, const hv_guest_cpu *cpu, uint64_t gva, uint32_t pfec)
{
    fault f = {.gva = gva & -PAGE, .write = !!(pfec & PF_W), .fetch = !!(pfec & PF_ID)};
    int32_t wrong = log_fault(g, gva, pfec);
    if (wrong)
        return wrong;
    wrong = refuse_impossible(g, gva, pfec);
    if (wrong)
        return wrong;
    wrong = judge(g, gva, pfec, &f.region);
    return wrong ? wrong : resolve(g, cpu, &f);
}

int32_t hv_guest_page_fault(hv_guest *g, const hv_guest_cpu *cpu, uint64_t gva, uint32_t pfec)
{
    int32_t wrong = handle(g, cpu, gva, pfec);
    if (wrong) {
        g->wrong_gva = gva;
        g->wrong_pfec = pfec;
    }
    return wrong;
}
