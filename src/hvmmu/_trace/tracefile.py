"""A trace file as a workload: one mapping of all that a program may map, then its accesses."""

from __future__ import annotations

from typing import TYPE_CHECKING

from attrs import frozen

from hvmmu._trace.grammar import USER_END, USER_START
from hvmmu.steps import PROT_EXEC, PROT_READ, PROT_WRITE, Backing, Mmap
from hvmmu.types import PAGE_SHIFT, PAGE_SIZE, Gva

if TYPE_CHECKING:
    from pathlib import Path

WHOLE = Mmap(
    Gva(USER_START),
    (USER_END - USER_START) >> PAGE_SHIFT,
    PROT_READ | PROT_WRITE | PROT_EXEC,
    Backing.INFERRED,
)
"""The mapping: a trace holds accesses and no mappings."""

_DAMAGED = "the trace is damaged: record it again"
_CUT = "cut the trace before this line"


def reference_error(gva: int, size: int) -> tuple[str, str] | None:
    """Return what is wrong with a reference of *size* bytes, and what to do; None for neither."""
    if not 0 < size <= PAGE_SIZE:  # no reference spans three pages
        return f"a reference of {size} bytes (1 to {PAGE_SIZE} are possible)", _DAMAGED
    if gva < 0:
        return f"the address {gva:#x} is negative", _DAMAGED
    if gva >> 64:
        return "an address of more than 64 bits", _DAMAGED
    if 1 << 47 <= gva < (1 << 64) - (1 << 47):
        return f"the address {gva:#x} is not canonical", _DAMAGED
    if gva < USER_START:
        what = f"the address {gva:#x} is in page zero, which Linux maps for no program"
        return what, f"the program may have crashed here: {_CUT}"
    if gva + size > USER_END:
        # Among them the vsyscall page: the kernel's mapping, so not a page of the program's own.
        what = f"the address {gva:#x} is not in the user half, the only one that is simulated"
        return what, _CUT
    return None


@frozen(eq=False)
class TraceFile:
    """The trace in the file *path*, up to *limit* references."""

    path: Path
    limit: int | None = None

    @property
    def name(self) -> str:
        """Return the file's name, without the folders it lies in."""
        return self.path.name

    def facts(self) -> dict[str, str | int | float | bool]:
        """Return what identifies the workload, for the result document."""
        facts: dict[str, str | int | float | bool] = {"name": self.name, "kind": "trace"}
        return facts if self.limit is None else facts | {"limit": self.limit}
