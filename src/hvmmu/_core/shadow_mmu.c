/* The shadow MMU.
 *
 * A fault is first walked through the guest's own tables, with the guest's registers. Either they forbid the
 * access, and the fault is the guest's; or they allow it, and the shadow is brought up to them along the
 * same path.
 */

#include <stddef.h>
#include <stdint.h>
#include <stdlib.h>
#include <string.h>

#include "arch.h"
#include "thread.h"
#include "walk_inline.h"
#include "shadow_page.h"
#include "spte_inline.h"
#include "events_inline.h"
#include "shadow_mmu.h"

#define LARGE (ENTRIES * PAGE) /* bytes of a large page: 2 MiB */

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

/* Entries. */

/* A is left to hardware, so that it shows whether the entry was ever used. */
uint64_t hv_make_spte(uint64_t hpa, uint32_t access, int32_t writable, int32_t large, uint32_t pkey)
{
    uint64_t spte = hpa | PTE_P | (uint64_t)pkey << PTE_PKEY_SHIFT;
    if ((access & PF_W) && writable)
        spte |= PTE_W;
    if (access & PF_U)
        spte |= PTE_U;
    if (!(access & PF_ID))
        spte |= PTE_NX;
    return spte | (large ? PTE_PS : 0);
}

/* A supervisor's write to a read-only user page is legal while the guest's CR0.WP is clear: the page becomes a
 * writable supervisor page, not executable if SMEP would have forbidden the kernel to run it. The user's
 * next access faults and takes the page back. Where NX is not to be had the access is left as it is, and the
 * write is emulated; so it is where SMAP or protection keys guard user pages: AC and PKRU change unseen, and
 * would guard a supervisor page no longer. */
uint32_t hv_wp_override(uint32_t access, uint32_t kind, const hv_regs *regs)
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

/* Either privilege has entries of its own. Those of the user mode allow what the guest's tables allow the user;
 * where that is nothing (no U) none may be built. Those of the kernel allow what they allow a supervisor,
 * which SMEP, SMAP and protection keys do not restrict here: every page, and writes to all of them while the
 * guest's CR0.WP is clear. */
uint32_t hv_deprivileged_access(uint32_t access, int32_t user, int32_t cr0_wp)
{
    return user ? access : access | PF_U | (cr0_wp ? 0 : PF_W);
}

/* Registers. */

/* SMAP and protection keys spare fetches, but an error code shows ID only under NXE or SMEP. Hardware then runs
 * with NXE set, so that the hypervisor can tell, and the guest must not see its error codes. */
static int hides_fetches(const hv_regs *regs)
{
    return (regs->cr4 & (CR4_SMAP | CR4_PKE)) && !(regs->efer & EFER_NXE) &&
           !(regs->cr4 & CR4_SMEP);
}

static uint32_t role_of(const hv_regs *regs)
{
    int wp = !!(regs->cr0 & CR0_WP);
    return (regs->efer & EFER_NXE ? HV_ROLE_NXE : 0) | (wp ? HV_ROLE_CR0_WP : 0) |
           ((regs->cr4 & CR4_SMEP) && !wp ? HV_ROLE_SMEP_ANDNOT_WP : 0) |
           ((regs->cr4 & CR4_SMAP) && !wp ? HV_ROLE_SMAP_ANDNOT_WP : 0) |
           (regs->cr4 & CR4_PKE ? HV_ROLE_PKE : 0) |
           (hides_fetches(regs) ? 0 : HV_ROLE_BYPASSABLE);
}

static uint32_t child_role_of(uint32_t role, uint32_t level, uint32_t access)
{
    return role | level | access << HV_ROLE_ACCESS_SHIFT;
}

/* Work out what the registers grant, unless CR3 alone has changed. */
static void set_regs(hv_mmu *m, const hv_regs *regs)
{
    hv_regs old = m->regs;
    m->regs = m->hardware = *regs;
    if (m->paging) {
        m->hardware.cr0 |= CR0_WP;
        m->hardware.cr4 &= ~CR4_PGE;
        m->hardware.efer |= hides_fetches(regs) ? EFER_NXE : 0;
    }
    old.cr3 = regs->cr3;
    if (!memcmp(&old, regs, sizeof old))
        return;
    hv_grants_of(&m->regs, m->guest_allows);
    hv_grants_of(&m->hardware, m->hardware_allows);
}

/* Roots. */

static int is_live(const hv_pages *p, hv_root root)
{
    return root.page && p->pages[root.page].serial == root.serial;
}

/* Say whether an access is by the user mode of a deprivileged guest, which has a root to itself. */
static int is_users(const hv_mmu *m, uint32_t kind) { return m->vm->deprivileged && (kind & PF_U); }

static hv_root root_for(const hv_mmu *m, uint32_t kind)
{
    return is_users(m, kind) ? m->user_root : m->root;
}

static int is_root(const hv_vm *vm, uint32_t page)
{
    for (const hv_mmu *m = vm->mmus; m; m = m->next)
        if ((page == m->root.page && is_live(vm->pages, m->root)) ||
            (page == m->user_root.page && is_live(vm->pages, m->user_root)))
            return 1;
    return 0;
}

int32_t hv_mmu_lost_root(const hv_mmu *m)
{
    const hv_pages *p = m->vm->pages;
    return m->paging && (!is_live(p, m->root) || (m->vm->deprivileged && !is_live(p, m->user_root)));
}

int32_t hv_mmu_is_behind(const hv_mmu *m)
{
    return m->paging && (m->flushes != m->vm->pages->flushes || hv_mmu_lost_root(m));
}

/* Zap the oldest shadow pages until others fit: roots stay. */
static int32_t make_room(const hv_vm *vm, uint64_t wanted)
{
    hv_pages *p = vm->pages;
    uint32_t page = p->oldest;
    while (p->count + wanted > vm->params.shadow_pages) {
        while (page && is_root(vm, page))
            page = p->pages[page].newer;
        if (!page)
            return HV_NO_ROOM;
        uint32_t newer = p->pages[page].newer;
        hv_zap_page(p, page);
        page = newer;
    }
    return 0;
}

/* Return the flush that this vCPU owes: for all changes since it was last told, its own among them. */
static int32_t owed(hv_mmu *m)
{
    int behind = m->flushes != m->vm->pages->flushes;
    m->flushes = m->vm->pages->flushes;
    return behind ? HV_FLUSH_ALL : HV_FLUSH_NOTHING;
}

/* Return whether there was none; a failure is negative. */
static int32_t ensure_root(hv_mmu *m, hv_root *root, uint32_t role)
{
    hv_pages *p = m->vm->pages;
    if (is_live(p, *root))
        return 0;
    int32_t error = make_room(m->vm, 1);
    if (error)
        return error;
    uint32_t all = child_role_of(role, ROOT_LEVEL, PF_W | PF_U | PF_ID);
    int32_t page = hv_page_get(p, (m->regs.cr3 & PTE_ADDRESS) / PAGE, all);
    if (page < 0)
        return page;
    *root = (hv_root){(uint32_t)page, p->pages[page].serial};
    return 1;
}

int32_t hv_mmu_reload(hv_mmu *m)
{
    if (!m->paging)
        return HV_FLUSH_NOTHING;
    int32_t fresh = ensure_root(m, &m->root, m->role), users = 0;
    if (fresh < 0)
        return fresh;
    if (m->vm->deprivileged)
        users = ensure_root(m, &m->user_root, m->user_role);
    if (users < 0)
        return users;
    m->hardware.cr3 = m->root.page * PAGE;
    int32_t flush = owed(m);
    return fresh || users ? HV_FLUSH_ALL : flush;
}

int32_t hv_mmu_load_guest(hv_mmu *m, const hv_regs *regs, const hv_formats *formats)
{
    uint32_t role = role_of(regs) | (m->vm->deprivileged ? HV_ROLE_DEPRIVILEGED : 0);
    if (regs->cr3 != m->regs.cr3 || role != m->role || !formats)
        m->root = m->user_root = (hv_root){0};
    m->role = role;
    m->user_role = role | HV_ROLE_USER;
    m->paging = formats != NULL;
    if (formats)
        m->formats = *formats;
    set_regs(m, regs);
    return hv_mmu_reload(m);
}

/* Walks of the guest's tables. */

/* Walk as hardware does: with A and D set in the guest's entries where the walk succeeds. */
static void walk_guest(const hv_mmu *m, uint64_t gva, uint32_t kind, hv_walked *out)
{
    const hv_space *space = &m->vm->space;
    if (space->through || m->formats.depth != 4)
        hv_walk(space, &m->regs, &m->formats, gva, kind, out);
    else
        hv_walk_long4(space, &m->regs, &m->formats, m->guest_allows, gva, kind, out);
    if (out->ok && !out->marked)
        hv_set_accessed_dirty(space, &m->formats, out, kind);
}

static uint64_t load_slots(hv_way *way, uint64_t gpa, int32_t size)
{
    const hv_pages *p = ((hv_slots_way *)way)->pages;
    uint64_t hpa = hpa_of(p, gpa), value = 0;
    if (hpa == NOWHERE || hpa + (uint64_t)size > p->memory_size)
        return size == 8 ? ~0ull : 0xffffffffull;
    memcpy(&value, p->memory + hpa, (size_t)size);
    return value;
}

static void store_slots(hv_way *way, uint64_t gpa, uint64_t value, int32_t size)
{
    const hv_pages *p = ((hv_slots_way *)way)->pages;
    uint64_t hpa = hpa_of(p, gpa);
    if (hpa != NOWHERE && hpa + (uint64_t)size <= p->memory_size)
        memcpy(p->memory + hpa, &value, (size_t)size);
}

/* Installing. */

/* A fault that the guest's tables do not explain: their walk, and the page and key that it leads to. */
typedef struct {
    hv_mmu *mmu;
    uint64_t gva, hpa;
    uint32_t kind, pkey;
    int users; /* by the user mode of a deprivileged guest */
    const hv_walked *found;
} fault;

/* Return 2 if one large entry may map the page, else 1: it would let writes through to every page table in it. */
static uint32_t leaf_level(const fault *f)
{
    const hv_pages *p = f->mmu->vm->pages;
    if (f->found->level == 1 || !f->mmu->vm->params.large_pages)
        return 1;
    uint64_t start = f->found->pa & -LARGE;
    const hv_memslot *s = slot_of(p, start);
    if (!s || s->size - (start - s->gpa) < LARGE || (s->hpa - s->gpa) % LARGE)
        return 1;
    return p->regions[index_of(p, f->hpa) / ENTRIES] ? 1 : 2;
}

/* Return what the entry at level must link to: guest frame and role. Below a guest large page that is a direct page,
 * another one while the large page's D is clear: nothing writable must survive in it when the guest clears D. */
static uint64_t child_of(const fault *f, uint32_t level, uint32_t *role)
{
    const hv_walked *found = f->found;
    *role = f->users ? f->mmu->user_role : f->mmu->role;
    if (level > found->level) {
        const hv_step *step = &found->path[ROOT_LEVEL - level];
        *role = child_role_of(*role, level - 1, step->access);
        return (step->entry & PTE_ADDRESS) / PAGE;
    }
    *role = child_role_of(*role, level - 1, found->access) | HV_ROLE_DIRECT |
            f->pkey << HV_ROLE_PKEY_SHIFT | (found->dirty ? HV_ROLE_DIRTY : 0);
    return (found->pa & -(1ull << shift_of(level))) / PAGE;
}

/* Follow the shadow from its root, and return the page that the leaf belongs to; a failure is negative. Whether a
 * large leaf will do is asked on arrival: shadowing the tables on the way may have put one of them into the
 * very page. */
static int32_t walk_shadow(const fault *f, int *relinked)
{
    hv_pages *p = f->mmu->vm->pages;
    uint32_t page = root_for(f->mmu, f->kind).page;
    p->pages[page].write_flooding = 0;
    for (uint32_t level = ROOT_LEVEL; level > 1; level--) {
        if (level == 2 && leaf_level(f) == 2)
            break;
        uint32_t role;
        uint64_t gfn = child_of(f, level, &role), sptep = sptep_of(page, f->gva, level);
        uint64_t spte = read_entry(p, sptep);
        uint32_t child = is_present(p, spte) && !(spte & PTE_PS) ? page_of(spte) : 0;
        if (!child || p->pages[child].gfn != gfn || p->pages[child].role != role) {
            int32_t found = hv_page_get(p, gfn, role);
            if (found < 0)
                return found;
            child = (uint32_t)found;
            hv_zap_entry(p, sptep);
            hv_link(p, sptep, child);
            *relinked = 1;
        }
        page = child;
        p->pages[page].write_flooding = 0;
    }
    return (int32_t)page;
}

/* Say whether hardware refuses the access by an entry. That it makes all accesses of a deprivileged guest as the
 * user's is no matter: its entries all have U. */
static int is_refused(const fault *f, uint64_t spte)
{
    const hv_mmu *m = f->mmu;
    if (m->hardware.cr4 & CR4_PKE)
        return !!hv_permission_fault(&m->hardware, access_of(spte), f->pkey, f->kind);
    return !(m->hardware_allows[access_of(spte)] >> f->kind & 1);
}

/* Name the route, now that the entry is written. */
static void classify(const fault *f, uint64_t spte, int changed, int spurious, hv_fault_outcome *out)
{
    const hv_walked *found = f->found;
    out->route = INSTALL;
    out->cause = UNBUILT;
    if (is_refused(f, spte)) {
        out->route = EMULATE;
        out->cause = is_table(f->mmu->vm->pages, f->hpa) ? TABLE_WRITE : WRITE_PROTECT_OFF;
    } else if (spurious) {
        out->route = SPURIOUS;
        out->cause = STALE;
    } else if (changed && (f->kind & PF_W)) {
        int was_clean = !(found->path[found->refs - 1].entry & PTE_D);
        if (was_clean || (!f->mmu->vm->deprivileged && !(found->access & PF_W))) {
            out->route = ACCESSED_DIRTY;
            out->cause = was_clean ? DIRTY : WRITE_PROTECT_OFF;
        }
    }
}

/* Return what the leaf must be, at this level. */
static uint64_t leaf_for(const fault *f, uint32_t level)
{
    const hv_mmu *m = f->mmu;
    uint64_t hpa = f->hpa & -(1ull << shift_of(level));
    uint32_t access = m->vm->deprivileged
        ? hv_deprivileged_access(f->found->access, f->users, !!(m->regs.cr0 & CR0_WP))
        : hv_wp_override(f->found->access, f->kind, &m->regs);
    int writable = f->found->dirty && !is_table(m->vm->pages, hpa);
    return hv_make_spte(hpa, access, writable, level == 2, f->pkey);
}

/* Build the leaf of a guest entry that is present and accessed, if the page goes with the registers in
 * force; return whether it was built. */
static int build_leaf(const hv_mmu *m, const hv_page *page, uint64_t sptep, uint64_t gpte)
{
    hv_pages *p = m->vm->pages;
    uint32_t access = (page->role & HV_ROLE_ACCESS) >> HV_ROLE_ACCESS_SHIFT;
    int user = !!(page->role & HV_ROLE_USER);
    uint32_t mine = child_role_of(user ? m->user_role : m->role, 1, access);
    uint64_t hpa = hpa_of(p, gpte & PTE_ADDRESS);
    if (!m->paging || page->role != mine || (gpte & m->formats.reserved[1]) || hpa == NOWHERE)
        return 0;
    access &= access_of(gpte);
    if (user && !(access & PF_U))
        return 0; /* the user's own root maps no supervisor page */
    if (m->vm->deprivileged)
        access = hv_deprivileged_access(access, user, !!(page->role & HV_ROLE_CR0_WP));
    int writable = (gpte & PTE_D) && !is_table(p, hpa);
    uint32_t pkey = page->role & HV_ROLE_PKE ? gpte >> PTE_PKEY_SHIFT & 15 : 0;
    hv_set_leaf(p, sptep, hv_make_spte(hpa, access, writable, 0, pkey));
    return 1;
}

/* Build those leaves of an aligned group that the guest uses already and that are unbuilt. KVM has groups of 8. */
static void prefetch(const hv_mmu *m, uint32_t frame, uint64_t sptep)
{
    hv_pages *p = m->vm->pages;
    const hv_page *page = p->pages + frame;
    uint64_t group = m->vm->params.prefetch, at = sptep % PAGE / 8;
    if (!group || (page->role & HV_ROLE_DIRECT) || level_of(p, frame) > 1)
        return;
    uint64_t first = at - at % group, end = first + group < ENTRIES ? first + group : ENTRIES;
    for (at = first; at < end; at++) {
        uint64_t where = frame * PAGE + 8 * at, gpte = hv_load(&m->vm->space, page->gfn * PAGE + 8 * at, 8);
        if (read_entry(p, where) == p->trap && (gpte & PTE_P) && (gpte & PTE_A))
            build_leaf(m, page, where, gpte);
    }
}

/* Bring the shadow up to the guest's tables; return 0 or a failure. */
static int32_t install(const fault *f, hv_fault_outcome *out)
{
    hv_pages *p = f->mmu->vm->pages;
    int relinked = 0;
    int32_t error = make_room(f->mmu->vm, ROOT_LEVEL);
    int32_t page = error ? error : walk_shadow(f, &relinked);
    if (page < 0)
        return page;
    uint32_t level = level_of(p, (uint32_t)page);
    uint64_t sptep = sptep_of((uint32_t)page, f->gva, level);
    uint64_t spte = leaf_for(f, level), old = read_entry(p, sptep);
    int was_leaf = is_present(p, old) && (level == 1 || (old & PTE_PS));
    int same = was_leaf && (old & ~(PTE_A | PTE_D)) == spte;
    if (!same) {
        hv_zap_entry(p, sptep);
        hv_set_leaf(p, sptep, spte);
    }
    prefetch(f->mmu, (uint32_t)page, sptep);
    classify(f, spte, was_leaf && !same, same && !relinked, out);
    return 0;
}

/* The guest's tables allow the access. */
static int32_t resolve(hv_mmu *m, uint64_t gva, uint32_t kind, const hv_walked *found,
                       hv_fault_outcome *out)
{
    fault f = {.mmu = m, .gva = gva, .kind = kind, .found = found,
               .hpa = hpa_of(m->vm->pages, found->pa),
               .pkey = m->role & HV_ROLE_PKE ? found->pkey : 0,
               .users = is_users(m, kind)};
    out->gpa = found->pa;
    if (f.hpa != NOWHERE)
        return install(&f, out);
    out->route = MMIO;
    out->cause = NO_MEMORY;
    return 0;
}

static void inject(const hv_mmu *m, uint32_t kind, const hv_walked *found, hv_fault_outcome *out)
{
    out->route = INJECT;
    out->cause = hv_guest_cause(found->pfec, found->access, kind, &m->regs);
    out->pfec = found->pfec;
}

int32_t hv_mmu_handle(hv_mmu *m, uint64_t gva, uint32_t pfec, hv_fault_outcome *out,
                      hv_walked *walked)
{
    uint32_t kind = pfec & PF_KIND;
    if (!m->paging)
        return HV_NO_PAGING;
    if (!is_live(m->vm->pages, root_for(m, kind)))
        return HV_NO_ROOT;
    walk_guest(m, gva, kind, walked);
    const hv_walked *found = walked;
    HV_EMIT(m->vm->pages->events, HV_EVENT_WALK, .gva = gva, .gpa = found->ok ? found->pa : 0,
            .pfec = found->ok ? 0 : found->pfec, .level = found->level, .number = found->refs);
    *out = (hv_fault_outcome){.level = found->level, .walk_refs = found->refs, .pfec = pfec};
    int32_t error = 0;
    if (found->general_protection)
        error = HV_NOT_CANONICAL;
    else if (!found->ok)
        inject(m, kind, found, out);
    else
        error = resolve(m, gva, kind, found, out);
    out->flush = owed(m);
    return error;
}

uint32_t hv_shadow_path(const hv_mmu *m, uint64_t gva, int32_t users, hv_step *path)
{
    const hv_pages *p = m->vm->pages;
    uint32_t page = (users ? m->user_root : m->root).page, refs = 0;
    for (uint32_t level = ROOT_LEVEL; page; level--) {
        uint64_t sptep = sptep_of(page, gva, level), spte = read_entry(p, sptep);
        path[refs++] = (hv_step){.pa = sptep, .entry = spte, .access = access_of(spte)};
        page = hv_child(p, sptep);
    }
    return refs;
}

/* Page-table writes. */

/* Count a write, and say whether the guest seems to use the frame otherwise by now. The count starts again when a
 * fault is resolved through the page, or when hardware has used the entry that the last write built. */
static int is_flooded(const hv_mmu *m, hv_page *page)
{
    if (page->last_written && (read_entry(m->vm->pages, page->last_written) & PTE_A))
        page->write_flooding = 0;
    page->write_flooding++;
    uint64_t threshold = m->vm->params.flood_threshold;
    return threshold && threshold <= page->write_flooding;
}

/* Update one shadow entry after the guest's entry at gptep was written. It first becomes trap. A leaf then becomes
 * notrap if the guest's entry is not present, or the real entry if it is present and accessed; above the leaf it
 * stays trap. */
static void sync_entry(const hv_mmu *m, uint32_t frame, uint64_t gptep)
{
    hv_pages *p = m->vm->pages;
    hv_page *page = p->pages + frame;
    uint64_t sptep = frame * PAGE + (gptep & (PAGE - 1)), gpte;
    hv_zap_entry(p, sptep);
    page->last_written = 0;
    if (level_of(p, frame) > 1)
        return;
    gpte = hv_load(&m->vm->space, gptep, 8);
    if (!(gpte & PTE_P)) {
        if (page->role & HV_ROLE_BYPASSABLE)
            hv_set_notrap(p, sptep);
    } else if ((gpte & PTE_A) && m->vm->params.update_on_write && build_leaf(m, page, sptep, gpte)) {
        page->last_written = sptep;
    }
}

int32_t hv_mmu_store(hv_mmu *m, uint64_t gpa, uint64_t value, uint32_t size)
{
    hv_pages *p = m->vm->pages;
    uint64_t gfn = gpa / PAGE, hpa = hpa_of(p, gpa);
    if (hpa != NOWHERE && hpa + size <= p->memory_size)
        memcpy(p->memory + hpa, &value, size);
    uint32_t next, page = hv_next_shadow(p, gfn, 0);
    for (; page; page = next) {
        next = hv_next_shadow(p, gfn, page);
        if (is_flooded(m, p->pages + page))
            hv_zap_page(p, page);
        else
            sync_entry(m, page, gpa & ~7ull);
    }
    return owed(m);
}

/* Making and freeing. */

void hv_vm_free(hv_vm *vm)
{
    if (!vm)
        return;
    for (hv_mmu *m = vm->mmus, *next; m; m = next) {
        next = m->next;
        free(m);
    }
    hv_pages_free(vm->pages);
    free(vm);
}

hv_vm *hv_vm_new(uint8_t *memory, uint64_t memory_size, const hv_memslot *slots, uint32_t slot_count,
                 uint32_t end_frame)
{
    hv_vm *vm = calloc(1, sizeof *vm);
    hv_pages *p = vm ? hv_pages_new(memory, memory_size, slots, slot_count, end_frame) : NULL;
    if (!p) {
        free(vm);
        return NULL;
    }
    vm->pages = p;
    vm->way = (hv_slots_way){{load_slots, store_slots}, p};
    if (slot_count == 1 && !slots->gpa)
        vm->space = (hv_space){.bytes = memory + slots->hpa, .size = slots->size};
    else
        vm->space = (hv_space){.through = &vm->way.way};
    return vm;
}

hv_mmu *hv_mmu_new(hv_vm *vm)
{
    hv_mmu *m = calloc(1, sizeof *m);
    if (!m)
        return NULL;
    m->vm = vm;
    m->next = vm->mmus;
    m->flushes = vm->pages->flushes;
    vm->mmus = m;
    return m;
}
