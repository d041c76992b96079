"""Mistakes in the C of the guest's kernel: each must fail a test of its behaviour."""

from __future__ import annotations

import os
from typing import TYPE_CHECKING

import pytest

if TYPE_CHECKING:
    from collections.abc import Callable

NIGHTLY = os.environ.get("HYPOTHESIS_PROFILE") == "nightly"
ALWAYS = ("a frame goes out twice", "a table's entries are never counted out")
"""Those that are planted in every run."""

BOOKS, FAULTS = "guest/test_books.py", "guest/test_faults.py"
SYSCALLS, MACHINES = "guest/test_syscalls.py", "guest/test_machines.py"
MISTAKES: dict[str, tuple[str, str, str, str]] = {
    # Frames.
    "a frame goes out twice": (
        "guest_frames.c",
        "zone->free[--zone->free_count]",
        "zone->free[zone->free_count -= zone->free_count > 3]",
        BOOKS,
    ),
    "a frame is free while it is held": (
        "guest_frames.c",
        "if (!--*held)\n        give(",
        "if (--*held == 1)\n        give(",
        BOOKS,
    ),
    "a frame is never free": ("guest_frames.c", "if (!--*held)", "if (0)", SYSCALLS),
    "a used frame is not cleared": (
        "guest_frames.c",
        "return is_fresh ? HV_GUEST_DONE",
        "return 1 ? HV_GUEST_DONE",
        SYSCALLS,
    ),
    "a copy is of nothing": (
        "guest.c",
        "return hv_take_copy(g, cpu, cached, frame);",
        "return hv_take_data(g, cpu, frame);",
        FAULTS,
    ),
    # Page tables.
    "a table's entries are never counted out": (
        "guest_tables.c",
        "(*used + !!new - !!old)",
        "(*used + !!new)",
        SYSCALLS,
    ),
    "a table in use is unlinked": (
        "guest_tables.c",
        "if (!used || *used != 1)\n        return HV_GUEST_DONE;",
        "if (!used || *used > 2)\n        return HV_GUEST_DONE;",
        SYSCALLS,
    ),
    "leaves behind an absent table are skipped": (
        "guest_tables.c",
        "(w->gva & -span) + span",
        "w->gva + span",
        SYSCALLS,
    ),
    "page tables are never unlinked": ("guest_tables.c", "level > 2", "level > 3", SYSCALLS),
    # The page cache.
    "a page is lost when the cache grows": (
        "page_cache.c",
        "*place(c, pages[nth].gva) = (uint32_t)nth + 1;",
        "*place(c, pages[nth].gva) = (uint32_t)nth + (nth != 20);",
        BOOKS,
    ),
    "two pages share a frame of the cache": (
        "guest.c",
        "hv_cached(file, f->gva)",
        "hv_cached(file, f->gva & ~PAGE)",
        BOOKS,
    ),
    # The pager and the handler.
    "no flush when the frame changes": (
        "guest.c",
        "hv_guest_ran(g, cpu->invlpg(cpu->self, f->gva))",
        "HV_GUEST_DONE",
        FAULTS,
    ),
    "the old frame keeps a holder": ("guest.c", "wrong = hv_drop(g, old);", "wrong = 0;", FAULTS),
    "a copy loses the right to execute": ("guest.c", "!!(entry & PTE_NX)", "1", FAULTS),
    "a fault that failed is counted": (
        "guest.c",
        "g->causes[cause] += !wrong;",
        "g->causes[cause]++;",
        BOOKS,
    ),
    "one fault more is endured": (
        "guest.c",
        "g->repeats < GUEST_MOST_REPEATS",
        "g->repeats <= GUEST_MOST_REPEATS",
        FAULTS,
    ),
    "the log runs over": (
        "guest.c",
        "g->log_bytes + GUEST_RECORD > sizeof g->log",
        "g->log_bytes > sizeof g->log",
        BOOKS,
    ),
    "regions of long ago": (
        "guest.c",
        "g->regions->is_stale && ",
        "!g->regions->sorted && ",
        SYSCALLS,
    ),
    "A and D whatever the parameter": (
        "guest.c",
        "if (g->params.set_accessed_dirty)",
        "if (1)",
        FAULTS,
    ),
    # The instructions.
    "a copy is half a page": (
        "guest_cpu.c",
        "return hv_fill_page(v, gva, hpa);",
        "return hv_fill_page(v, gva + 2048, hpa);",
        MACHINES,
    ),
    "the end of a page is left as it was": (
        "guest_cpu.c",
        "return hv_fill_page(self, gva, HV_NO_TRANSLATION);",
        "return hv_fill_page(self, gva + 2048, HV_NO_TRANSLATION);",
        MACHINES,
    ),
    "faults go to Python": ("guest_cpu.c", "if (!v->guest)", "if (1)", MACHINES),
    "loads are not counted": (
        "guest_cpu.c",
        "v->ledger->accesses += done;",
        ";",
        "core/test_one_loop.py",
    ),
}


@pytest.mark.parametrize("name", MISTAKES)
def test_a_mistake_in_the_guests_kernel_is_caught(name: str, caught: Callable[..., str]) -> None:
    """If wrong, the tests of the guest pass whatever its kernel does there."""
    if name not in ALWAYS and not NIGHTLY:
        pytest.skip("more mistakes: HYPOTHESIS_PROFILE=nightly")
    output = caught(*MISTAKES[name])
    assert output, f"{name}: {MISTAKES[name][3]} passes"
