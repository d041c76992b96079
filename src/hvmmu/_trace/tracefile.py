"""A trace's file as a workload: one mapping of all that a program may map, and its accesses."""

from __future__ import annotations

from typing import TYPE_CHECKING

from attrs import frozen

from hvmmu.steps import PROT_EXEC, PROT_READ, PROT_WRITE, Backing, Mmap
from hvmmu.types import PAGE_SHIFT, PAGE_SIZE, Gva

if TYPE_CHECKING:
    from pathlib import Path

USER_START, USER_END = 1 << 12, (1 << 47) - PAGE_SIZE
"""Where Linux lets a program map pages: not page zero, not the last page of the lower half."""

WHOLE = Mmap(
    Gva(USER_START),
    (USER_END - USER_START) >> PAGE_SHIFT,
    PROT_READ | PROT_WRITE | PROT_EXEC,
    Backing.INFERRED,
)
"""The mapping: a trace tells of accesses and never of mappings."""


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
