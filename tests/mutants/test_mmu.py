"""Mistakes in the shadow MMU's C: each must fail a test of its behaviour."""

from __future__ import annotations

import os
from typing import TYPE_CHECKING

import pytest

if TYPE_CHECKING:
    from collections.abc import Callable

NIGHTLY = os.environ.get("HYPOTHESIS_PROFILE") == "nightly"
ALWAYS = ("large pages whatever the parameter", "tables stay writable")
"""Those that are planted in every run."""

PAGE, MMU = "shadow_page.c", "shadow_mmu.c"
MISTAKES: dict[str, tuple[str, str, str, str]] = {
    # The books.
    "tables stay writable": (
        PAGE,
        "spte & ~PTE_W)",
        "spte)",
        "mmu/test_pages.py::test_every_mapping_of_a_table_is_write_protected",
    ),
    "large leaves over a table stay": (
        PAGE,
        "level_of(p, entry / ENTRIES) == 2",
        "0",
        "mmu/test_large.py",
    ),
    "absent entries are trap": (
        PAGE,
        "gpte & PTE_P ? &p->trap : &p->notrap",
        "&p->trap",
        "mmu/test_values.py",
    ),
    "an entry is zapped without a flush": (
        PAGE,
        "forget(p, sptep, spte);\n        p->flushes++;",
        "forget(p, sptep, spte);",
        "mmu/test_values.py",
    ),
    "a page is zapped without a flush": (
        PAGE,
        "p->zapped++;\n    p->flushes++;",
        "p->zapped++;",
        "mmu/test_pages.py",
    ),
    "a zapped page keeps its parents": (
        PAGE,
        "while (page->parents)",
        "while (0)",
        "mmu/test_pages.py",
    ),
    "a region is full of tables for ever": (
        PAGE,
        "p->regions[index / ENTRIES]--;",
        ";",
        "mmu/test_large.py",
    ),
    "one page for all roles": (PAGE, "p->pages[page].role == role && ", "", "mmu/test_pages.py"),
    "a frame comes back full": (
        PAGE,
        "memset(p->memory + frame * PAGE, 0, PAGE);",
        "",
        "mmu/test_pages.py",
    ),
    "a list loses its end": (PAGE, "*first = node->next;", "*first = 0;", "mmu/test_books.py"),
    "data under a large page is a table": (
        PAGE,
        "is_first = !(role & HV_ROLE_DIRECT) && ",
        "is_first = ",
        "mmu/test_large.py",
    ),
    "the last frame and one more": (
        PAGE,
        "if (frame == p->end_frame)",
        "if (0)",
        "mmu/test_failures.py",
    ),
    "engines are passed over": (PAGE, "if (p->write)", "if (0)", "mmu/test_failures.py"),
    # Parameters that are not obeyed.
    "large pages whatever the parameter": (
        MMU,
        " || !f->mmu->vm->params.large_pages",
        "",
        "mmu/test_large.py",
    ),
    "update on write whatever the parameter": (
        MMU,
        " && m->vm->params.update_on_write",
        "",
        "mmu/test_values.py",
    ),
    "no flood": (MMU, "return threshold && threshold <=", "return 0 * ", "mmu/test_pages.py"),
    "no limit": (MMU, "> vm->params.shadow_pages", "> 1u << 20", "mmu/test_pages.py"),
    # Registers and roots.
    "a lifted page stays the user's": (
        MMU,
        "        lifted &= ~PF_U;\n",
        "",
        "mmu/test_supervisor.py",
    ),
    "SMEP is forgotten": (MMU, "            lifted &= ~PF_ID;\n", "", "mmu/test_supervisor.py"),
    "fetches show": (
        MMU,
        "(hides_fetches(regs) ? 0 : HV_ROLE_BYPASSABLE)",
        "HV_ROLE_BYPASSABLE",
        "mmu/test_values.py",
    ),
    "hardware without CR0.WP": (
        MMU,
        "        m->hardware.cr0 |= CR0_WP;\n",
        "",
        "mmu/test_supervisor.py",
    ),
    "the guest's PGE": (MMU, "        m->hardware.cr4 &= ~CR4_PGE;\n", "", "mmu/test_routes.py"),
    "roots make room": (MMU, "page && is_root(vm, page)", "0", "mmu/test_pages.py"),
    "a new root without a flush": (
        MMU,
        "return fresh || users ? HV_FLUSH_ALL : flush;",
        "return flush;",
        "mmu/test_routes.py",
    ),
    "a root for all registers": (MMU, " || role != m->role", "", "mmu/test_supervisor.py"),
    "a root that was zapped": (
        MMU,
        "p->pages[root.page].serial == root.serial",
        "1",
        "mmu/test_pages.py",
    ),
    "another vCPU's flush": (
        MMU,
        "int behind = m->flushes != m->vm->pages->flushes;",
        "int behind = m->flushes != m->vm->pages->flushes && m == m->vm->mmus;",
        "mmu/test_vcpus.py",
    ),
    # Faults.
    "A is not set": (
        MMU,
        "if (out->ok && marked <= 0)",
        "if (out->ok && marked < 0)",
        "mmu/test_routes.py",
    ),
    "the plain walk sees no reserved bits": (
        MMU,
        "if (entry & (n > 1 ? f->reserved_large : f->reserved)[n])",
        "if (0)",
        "mmu/test_routes.py",
    ),
    "a path's permissions": (
        MMU,
        "access &= access_of(entry)};",
        "access_of(entry)};",
        "mmu/test_values.py",
    ),
    "pieces of a clean page are those of a dirty one": (
        MMU,
        "(found->dirty ? HV_ROLE_DIRTY : 0)",
        "HV_ROLE_DIRTY",
        "mmu/test_large.py",
    ),
    "a large page over a table": (
        MMU,
        "p->regions[index_of(p, f->hpa) / ENTRIES] ? 1 : 2",
        "2",
        "mmu/test_large.py",
    ),
    "a large page askew": (MMU, " || (s->hpa - s->gpa) % LARGE", "", "mmu/test_large.py"),
    "a clean page is writable": (
        MMU,
        "f->found->dirty && !is_table",
        "!is_table",
        "mmu/test_routes.py",
    ),
    "a fault for nothing": (MMU, "same && !relinked, out", "same, out", "mmu/test_routes.py"),
    "no memory is memory": (
        MMU,
        "out->route = MMIO;",
        "out->route = INSTALL;",
        "mmu/test_routes.py",
    ),
    # Stores.
    "all stores are of 8 bytes": (
        MMU,
        "memcpy(p->memory + hpa, &value, size);",
        "memcpy(p->memory + hpa, &value, 8);",
        "mmu/test_routes.py",
    ),
    "an unused entry is built": (
        MMU,
        "else if ((gpte & PTE_A) && ",
        "else if (",
        "mmu/test_values.py",
    ),
    "an upper entry is left to the guest": (
        MMU,
        "if (level_of(p, frame) > 1)\n        return;",
        "",
        "mmu/test_values.py",
    ),
    "other registers' pages": (MMU, "page->role != mine || ", "", "mmu/test_values.py"),
    "use does not end a flood": (
        MMU,
        "        page->write_flooding = 0;\n    page->write_flooding++",
        ";page->write_flooding++",
        "mmu/test_pages.py",
    ),
    "stores are unseen, and the kit finds it": (
        MMU,
        "            sync_entry(m, page, gpa & ~7ull);",
        "            ;",
        "conformance/test_mutants.py::test_the_right_backend_passes",
    ),
    # Guests without privilege.
    "one root for both privileges": (
        MMU,
        "is_users(m, kind) ? m->user_root : m->root",
        "m->root",
        "core/test_deprivileged.py",
    ),
    "the kernel's pages are the user's": (
        MMU,
        "if (user && !(access & PF_U))\n        return 0;",
        "",
        "core/test_deprivileged.py",
    ),
}


@pytest.mark.parametrize("name", MISTAKES)
def test_a_mistake_in_the_mmu_is_caught(name: str, caught: Callable[..., str]) -> None:
    """If wrong, the tests of the MMU pass whatever the MMU does there."""
    if name not in ALWAYS and not NIGHTLY:
        pytest.skip("more mistakes: HYPOTHESIS_PROFILE=nightly")
    output = caught(*MISTAKES[name])
    assert output, f"{name}: {MISTAKES[name][3]} passes"
