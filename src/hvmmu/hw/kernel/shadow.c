/* The shadow MMU in C: mmu/shadow.py, mmu/spte.py and mmu/fault.py, function by function. */

#include <stdint.h>
#include <stdlib.h>
#include <string.h>

#include "bits.h"
#include "kernel.h"
#include "pages.h"
#include "shadow.h"

#include "handled.h"
#include "walk.h"
#include "trail.h"

#define PAGE 4096ull
#define FRAMES 512u /* in a 2 MiB page */
#define ROOT_LEVEL 4u

static uint32_t shift_of(uint32_t level) { return 3 + 9 * level; }

static uint64_t sptep_of(uint32_t page, uint64_t gva, uint32_t level)
{
    return page * PAGE + 8 * (gva >> shift_of(level) & 511);
}

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

/* Entries: mmu/spte.py. */

static uint32_t access_of(uint64_t entry)
{
    return (uint32_t)(entry & (PTE_W | PTE_U)) | (entry & PTE_NX ? 0 : PF_ID);
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

static uint32_t lift_write_protection(uint32_t access, uint32_t kind, const hv_regs *regs)
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
        child = hv_child(pages, sptep);
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

static void settle(const fault *f, uint64_t spte, int changed, int spurious, hv_handled *out)
{
    const hv_walked *found = f->found;
    out->route = INSTALL;
    out->cause = UNBUILT;
    if (hv_permission_fault(&f->mmu->hardware, access_of(spte), (uint32_t)f->pkey, f->kind)) {
        out->route = EMULATE;
        out->cause = hv_is_table(f->mmu->pages, found->pa / PAGE) ? TABLE_WRITE : WRITE_PROTECT_OFF;
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

static void install(const fault *f, hv_handled *out)
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
    uint32_t access = lift_write_protection(found->access, f->kind, &m->regs);
    int writable = found->dirty && !hv_is_table(pages, gpa / PAGE);
    uint64_t spte = make_spte(gpa + pages->base, access, writable, level == 2, f->pkey);
    uint64_t old;
    memcpy(&old, pages->memory + sptep, 8);
    int was_present = old != pages->trap && old != pages->notrap;
    int was_leaf = was_present && !hv_child(pages, sptep);
    int same = was_leaf && (old & ~(PTE_A | PTE_D)) == spte;
    if (!same) {
        hv_zap_entry(pages, sptep);
        hv_set_leaf(pages, sptep, spte);
        out->flush |= was_present;
    }
    settle(f, spte, was_leaf && !same, same && !relinked, out);
}

/* Walk the guest's tables with no effect. */
static const hv_trail *walk(hv_mmu *m, const hv_space *space, uint64_t gva, uint32_t kind)
{
    if (m->regs_changed)
        hv_forget_trails(m->pages->trails);
    m->regs_changed = 0;
    hv_trail *trail = hv_last_trail(m->pages->trails, gva);
    hv_walk_again(space, &m->regs, &m->formats, gva, kind, trail);
    return trail;
}

int hv_handle(hv_mmu *m, uint64_t gva, uint32_t pfec, hv_handled *out)
{
    hv_space space = {.bytes = m->pages->ram, .size = m->pages->ram_size};
    uint32_t kind = pfec & (PF_W | PF_U | PF_ID);
    const hv_trail *trail = walk(m, &space, gva, kind);
    const hv_walked *found = &trail->walked;
    if (found->general_protection || (found->ok && found->pa >= space.size))
        return 0;
    for (uint32_t i = 0; found->ok && i + 1 < found->refs; i++)
        if ((found->path[i].entry & PTE_ADDRESS) >= space.size)
            return 0;
    *out = (hv_handled){.level = found->level, .walk_refs = found->refs, .pfec = pfec};
    if (!found->ok) {
        out->route = INJECT;
        out->cause = hv_guest_cause(found->pfec, found->access, kind, &m->regs);
        out->pfec = found->pfec;
        return 1;
    }
    hv_mark_again(&space, &m->formats, trail, kind);
    out->gpa = found->pa;
    uint64_t pkey = m->regs_role & HV_ROLE_PKE ? found->pkey : 0;
    fault f = {.mmu = m, .gva = gva, .pkey = pkey, .pfec = pfec, .kind = kind, .found = found};
    install(&f, out);
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
    int writable = (gpte & PTE_D) && !hv_is_table(m->pages, gpa / PAGE);
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
