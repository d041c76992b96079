/* The shadow MMU in C: _core/shadow_mmu.py, spte.py and fault.py, function by function. */

#include <stdint.h>
#include <stdlib.h>
#include <string.h>

#include "arch.h"
#include "thread.h"
#include "shadow_page.h"
#include "spte_inline.h"
#include "shadow_mmu.h"

#include "fault_outcome.h"
#include "walk.h"
#include "known.h"

#define PAGE 4096ull
#define FRAMES 512u /* in a 2 MiB page */

uint32_t hv_guest_cause(uint32_t pfec, uint32_t access, uint32_t kind, const hv_regs *regs)
{
    if (!(pfec & PF_P))
        return NOT_PRESENT;
    if (pfec & PF_RSVD)
        return RESERVED;
    if (pfec & PF_PK)
        return PROTECTION_KEY;
    if ((kind & PF_ID) && !(access & PF_ID))
        return NO_EXECUTE;
    if (kind & PF_U)
        return access & PF_U ? READ_ONLY : SUPERVISOR_PAGE;
    if ((access & PF_U) && (kind & PF_ID))
        return SMEP;
    if ((access & PF_U) && (regs->cr4 & CR4_SMAP) && !regs->rflags_ac)
        return SMAP;
    return READ_ONLY;
}

/* Entries: spte.py. */

static uint32_t access_of(uint64_t entry)
{
    return (uint32_t)(entry & (PTE_W | PTE_U)) | ((uint32_t)(~entry >> 59) & PF_ID);
}

static uint64_t make_spte(uint64_t hpa, uint32_t access, int writable, int large, uint64_t pkey)
{
    uint64_t spte = hpa | PTE_P | pkey << PTE_PKEY_SHIFT;
    if ((access & PF_W) && writable)
        spte |= PTE_W;
    if (access & PF_U)
        spte |= PTE_U;
    if (!(access & PF_ID))
        spte |= PTE_NX;
    return spte | (large ? PTE_PS : 0);
}

static uint32_t wp_override(uint32_t access, uint32_t kind, const hv_regs *regs)
{
    if ((regs->cr0 & CR0_WP) || (kind & (PF_U | PF_ID)) || !(kind & PF_W) || (access & PF_W))
        return access;
    uint32_t lifted = access | PF_W;
    if (access & PF_U) {
        if (regs->cr4 & (CR4_SMAP | CR4_PKE))
            return access;
        lifted &= ~PF_U;
        if (regs->cr4 & CR4_SMEP) {
            if (!(regs->efer & EFER_NXE))
                return access;
            lifted &= ~PF_ID;
        }
    }
    return lifted;
}

/* Installing. */

/* A fault, its walk through the guest's tables, and the key of what it leads to. */
typedef struct {
    hv_mmu *mmu;
    uint64_t gva, pkey;
    uint32_t pfec, kind;
    const hv_walked *found;
} fault;

/* Zap the oldest shadow pages until others fit: the root may not go while it is used. */
static int make_room(hv_mmu *m, uint64_t wanted)
{
    int flush = 0;
    while (m->pages->count + wanted > m->shadow_pages) {
        uint32_t oldest = m->pages->oldest;
        if (oldest == m->root)
            oldest = m->pages->pages[oldest].newer;
        hv_zap_page(m->pages, oldest);
        flush = 1;
    }
    return flush;
}

/* Return 2 if one large entry may map the page, else 1. */
static uint32_t leaf_level(const fault *f)
{
    const hv_mmu *m = f->mmu;
    if (f->found->level == 1 || !m->large_pages)
        return 1;
    uint64_t start = f->found->pa & -(FRAMES * PAGE);
    int fits = !((start + m->pages->base) % (FRAMES * PAGE)) &&
               start + FRAMES * PAGE <= m->pages->ram_size;
    return fits && !hv_holds_table(m->pages, start / PAGE) ? 2 : 1;
}

/* Return what the entry at level must link to: guest frame and role. */
static uint64_t below(const fault *f, uint32_t level, uint32_t *role)
{
    const hv_walked *found = f->found;
    *role = f->mmu->regs_role | (level - 1);
    if (level > found->level) {
        const hv_step *step = &found->path[ROOT_LEVEL - level];
        *role |= step->access << 4;
        return (step->entry & PTE_ADDRESS) / PAGE;
    }
    *role |= HV_ROLE_DIRECT | found->access << 4 | (uint32_t)f->pkey << 9;
    *role |= found->dirty ? HV_ROLE_DIRTY : 0;
    return (found->pa & -(1ull << shift_of(level))) / PAGE;
}

/* Follow the shadow from its root to the page that holds the leaf, and return that page. */
static uint32_t descend(const fault *f, int *relinked, int *flush)
{
    hv_pages *pages = f->mmu->pages;
    uint32_t page = f->mmu->root;
    pages->pages[page].write_flooding = 0;
    for (uint32_t level = ROOT_LEVEL; level > 1; level--) {
        if (level == 2 && leaf_level(f) == 2)
            break;
        uint32_t role, child;
        uint64_t gfn = below(f, level, &role), sptep = sptep_of(page, f->gva, level);
        uint64_t spte = read_entry(pages, sptep);
        int is_link = is_present(pages, spte) && !(spte & PTE_PS);
        child = is_link ? (uint32_t)((spte & PTE_ADDRESS) / PAGE) : 0;
        if (!child || pages->pages[child].gfn != gfn || pages->pages[child].role != role) {
            int32_t made;
            *flush |= hv_zap_entry(pages, sptep);
            child = hv_page_get(pages, gfn, role, &made);
            if (!child)
                abort(); /* make_room has seen to it that frames are left */
            *flush |= made;
            hv_link(pages, sptep, child);
            *relinked = 1;
        }
        page = child;
        pages->pages[page].write_flooding = 0;
    }
    return page;
}

/* Say whether hardware refuses the access by an entry. */
static int is_refused(const fault *f, uint64_t spte)
{
    const hv_mmu *m = f->mmu;
    if (m->hardware.cr4 & CR4_PKE)
        return !!hv_permission_fault(&m->hardware, access_of(spte), (uint32_t)f->pkey, f->kind);
    return !(m->let[access_of(spte)] >> f->kind & 1);
}

static void settle(const fault *f, uint64_t spte, int changed, int spurious, hv_handled *out)
{
    const hv_walked *found = f->found;
    out->route = INSTALL;
    out->cause = UNBUILT;
    if (is_refused(f, spte)) {
        out->route = EMULATE;
        out->cause = is_table(f->mmu->pages, found->pa / PAGE) ? TABLE_WRITE : WRITE_PROTECT_OFF;
    } else if (spurious) {
        out->route = SPURIOUS;
        out->cause = STALE;
    } else if (changed && (f->kind & PF_W)) {
        int was_clean = !(found->path[found->refs - 1].entry & PTE_D);
        if (was_clean || !(found->access & PF_W)) {
            out->route = ACCESSED_DIRTY;
            out->cause = was_clean ? DIRTY : WRITE_PROTECT_OFF;
        }
    }
}

/* Bring the shadow up to the guest's tables; return whether it was. */
static int install(const fault *f, hv_handled *out)
{
    hv_mmu *m = f->mmu;
    hv_pages *pages = m->pages;
    const hv_walked *found = f->found;
    int relinked = 0;
    out->flush = make_room(m, ROOT_LEVEL);
    uint32_t page = descend(f, &relinked, &out->flush);
    uint32_t level = pages->pages[page].role & 7;
    uint64_t sptep = sptep_of(page, f->gva, level);
    uint64_t gpa = found->pa & -(1ull << shift_of(level));
    uint32_t access = wp_override(found->access, f->kind, &m->regs);
    int writable = found->dirty && !is_table(pages, gpa / PAGE);
    uint64_t spte = make_spte(gpa + pages->base, access, writable, level == 2, f->pkey);
    uint64_t old = read_entry(pages, sptep);
    int was_present = is_present(pages, old);
    int was_leaf = was_present && (level == 1 || (old & PTE_PS));
    int same = was_leaf && (old & ~(PTE_A | PTE_D)) == spte;
    if (!same) {
        hv_zap_entry(pages, sptep);
        hv_set_leaf(pages, sptep, spte);
        out->flush |= was_present;
    }
    settle(f, spte, was_leaf && !same, same && !relinked, out);
    return same && !relinked;
}

/* The guest's tables. */

static void look_at_regs(hv_mmu *m)
{
    hv_regs now[2] = {m->regs, m->hardware};
    now[0].cr3 = now[1].cr3 = 0;
    m->regs_changed = 0;
    if (!memcmp(now, m->looked_at, sizeof now))
        return;
    memcpy(m->looked_at, now, sizeof now);
    int shows = (m->regs.efer & EFER_NXE) || (m->regs.cr4 & CR4_SMEP);
    m->shown = shows ? ~0u : ~PF_ID;
    for (uint32_t access = 0; access < 32; access++) {
        m->allowed[access] = m->let[access] = 0;
        for (uint32_t kind = 0; kind < 32; kind++) {
            m->allowed[access] |= (uint32_t)!hv_permission_fault(&m->regs, access, 0, kind) << kind;
            m->let[access] |= (uint32_t)!hv_permission_fault(&m->hardware, access, 0, kind) << kind;
        }
    }
    forget_known(m);
}

/* Walk them with no effect, as hv_walk does, and say whether A and D are set as the access wants;
 * return -1 where more is to be looked at: reserved bits, keys, what is forbidden or outside. */
static inline int walk_plainly(const hv_mmu *m, uint64_t gva, uint32_t kind, hv_walked *out)
{
    const hv_formats *f = &m->formats;
    const uint8_t *ram = m->pages->ram;
    const uint64_t size = m->pages->ram_size;
    uint64_t table = m->regs.cr3 & PTE_ADDRESS, where, entry, all = PTE_A;
    uint32_t access = PF_W | PF_U | PF_ID, n = ROOT_LEVEL;
    hv_step *step = out->path;
    if ((gva + (1ull << 47)) >> 48 || (m->regs.cr4 & CR4_PKE)) /* not canonical, or keyed */
        return -1;
    for (;; n--, step++) {
        if (table >= size) /* both are multiples of a page */
            return -1;
        where = table + (gva >> 9 * n & 0xff8);
        memcpy(&entry, ram + where, 8);
        if (n == 1 || (entry & (f->reserved[n] | PTE_PS | PTE_P)) != PTE_P)
            break;
        *step = (hv_step){where, entry, access &= access_of(entry)};
        all &= entry;
        table = entry & PTE_ADDRESS;
    }
    out->ok = out->general_protection = 0;
    out->pfec = kind & m->shown;
    out->level = n;
    out->refs = ROOT_LEVEL + 1 - n;
    if (entry & PTE_P) {
        if (n > 1 && !(f->large[n] && (entry & PTE_PS)))
            return -1;
        if (entry & (n > 1 ? f->reserved_large : f->reserved)[n])
            return -1;
        access &= access_of(entry);
        if (!(m->allowed[access] >> kind & 1))
            return -1;
        uint64_t offset = (1ull << shift_of(n)) - 1;
        out->ok = 1;
        out->pfec = out->pkey = 0;
        out->pa = (entry & PTE_ADDRESS & ~offset) | (gva & offset);
        out->dirty = (entry & PTE_D) || (kind & PF_W);
    }
    *step = (hv_step){where, entry, access};
    out->access = access;
    return (all & entry & PTE_A) && ((entry & PTE_D) || !(kind & PF_W));
}

/* Any other walk. Return 0 if the fault is none that is handled here. */
static int walk_at_length(const hv_mmu *m, const hv_space *space, uint64_t gva, uint32_t kind,
                          hv_walked *out)
{
    hv_walk(space, &m->regs, &m->formats, gva, kind, out);
    int outside = 0;
    for (uint32_t i = 0; out->ok && i + 1 < out->refs; i++)
        outside |= (out->path[i].entry & PTE_ADDRESS) >= space->size;
    return !out->general_protection && !outside;
}

int hv_handle(hv_mmu *m, uint64_t gva, uint32_t pfec, hv_handled *out)
{
    if (m->regs_changed)
        look_at_regs(m);
    if (is_known(m, gva, pfec, out))
        return 1;
    const hv_space space = {.bytes = m->pages->ram, .size = m->pages->ram_size};
    uint32_t kind = pfec & (PF_W | PF_U | PF_ID);
    hv_walked found;
    int marked = walk_plainly(m, gva, kind, &found);
    if (marked < 0 && !walk_at_length(m, &space, gva, kind, &found))
        return 0;
    if (found.ok && found.pa >= space.size)
        return 0;
    *out = (hv_handled){.level = found.level, .walk_refs = found.refs, .pfec = pfec};
    if (!found.ok) {
        out->route = INJECT;
        out->cause = hv_guest_cause(found.pfec, found.access, kind, &m->regs);
        out->pfec = found.pfec;
        return 1;
    }
    if (marked <= 0)
        hv_set_accessed_dirty(&space, &m->formats, &found, kind);
    out->gpa = found.pa;
    uint64_t pkey = m->regs_role & HV_ROLE_PKE ? found.pkey : 0;
    fault f = {.mmu = m, .gva = gva, .pkey = pkey, .pfec = pfec, .kind = kind, .found = &found};
    int was_so = install(&f, out);
    if (was_so && marked > 0 && !out->flush && out->cause == TABLE_WRITE)
        know(m, gva, pfec, &found);
    return 1;
}

/* Page-table writes. */

/* Count a write, and say whether the guest seems to use the frame otherwise by now. */
static int is_flooded(const hv_mmu *m, hv_page *page)
{
    if (page->last_written) {
        uint64_t spte;
        memcpy(&spte, m->pages->memory + page->last_written, 8);
        if (spte & PTE_A)
            page->write_flooding = 0;
    }
    page->write_flooding++;
    return m->flood_threshold && m->flood_threshold <= page->write_flooding;
}

/* Build the leaf at once, if the page goes with the registers in force. */
static void update_on_write(const hv_mmu *m, hv_page *page, uint64_t sptep, uint64_t gpte)
{
    uint32_t access = page->role >> 4 & 31;
    uint64_t gpa = gpte & PTE_ADDRESS;
    if (page->role != (m->regs_role | 1 | access << 4) || (gpte & m->formats.reserved[1]) ||
        gpa >= m->pages->ram_size)
        return;
    int writable = (gpte & PTE_D) && !is_table(m->pages, gpa / PAGE);
    uint64_t pkey = page->role & HV_ROLE_PKE ? gpte >> PTE_PKEY_SHIFT & 15 : 0;
    access &= access_of(gpte);
    hv_set_leaf(m->pages, sptep, make_spte(gpa + m->pages->base, access, writable, 0, pkey));
    page->last_written = sptep;
}

static int follow_write(const hv_mmu *m, uint32_t frame, uint64_t gptep)
{
    hv_page *page = m->pages->pages + frame;
    uint64_t sptep = frame * PAGE + (gptep & 0xfff), gpte;
    int flush = hv_zap_entry(m->pages, sptep);
    page->last_written = 0;
    if ((page->role & 7) > 1)
        return flush;
    memcpy(&gpte, m->pages->ram + gptep, 8);
    if (!(gpte & PTE_P)) {
        if (page->role & HV_ROLE_QUIET)
            hv_set_notrap(m->pages, sptep);
    } else if ((gpte & PTE_A) && m->update_on_write) {
        update_on_write(m, page, sptep, gpte);
    }
    return flush;
}

int hv_emulate_store(hv_mmu *m, uint64_t gpa, uint64_t value)
{
    int flush = 0;
    memcpy(m->pages->ram + gpa, &value, 8);
    uint32_t next, page = m->pages->by_gfn[gpa / PAGE];
    for (; page; page = next) {
        next = m->pages->pages[page].next;
        if (m->pages->pages[page].role & HV_ROLE_DIRECT)
            continue;
        if (is_flooded(m, m->pages->pages + page)) {
            hv_zap_page(m->pages, page);
            flush = 1;
        } else {
            flush |= follow_write(m, page, gpa & ~7ull);
        }
    }
    return flush;
}
