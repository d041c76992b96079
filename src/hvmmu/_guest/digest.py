"""A digest of the guest's page tables as they lie in guest memory, read without side effects."""

from __future__ import annotations

import hashlib
import struct
from typing import TYPE_CHECKING

from hvmmu._guest.layout import KERNEL_BASE, ROOT_LEVEL, index, shift
from hvmmu.arch import pte
from hvmmu.types import PAGE_SHIFT

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from hvmmu._guest.process import Process

_PROCESS = struct.Struct("<Q")
_ENTRY = struct.Struct("<BQQ")


def page_tables_sha256(processes: Sequence[Process], read: Callable[[int], list[int]]) -> str:
    """Return the digest of the tables of *processes*, in the order given.

    Each entry that is not zero adds its level, the address it begins to translate (which is its
    index path), and its value with A and D; the shared kernel half counts once, with the first.
    *read* returns the 512 entries of the table in a guest frame.
    """
    digest = hashlib.sha256()
    kernel = index(KERNEL_BASE, ROOT_LEVEL)
    for nth, process in enumerate(processes):
        digest.update(_PROCESS.pack(process.pid))
        _add(digest.update, process.root, ROOT_LEVEL, 0, read, shared=None if nth == 0 else kernel)
    return digest.hexdigest()


def _add(
    update: Callable[[bytes], object],
    table: int,
    level: int,
    base: int,
    read: Callable[[int], list[int]],
    *,
    shared: int | None = None,
) -> None:
    """Add level, gva and value of each entry in order, not descending at index *shared* of this."""
    below = shift(level)
    for i, entry in enumerate(read(table >> PAGE_SHIFT)):
        if entry:
            gva = base + (i << below)
            update(_ENTRY.pack(level, gva, entry))
            if level > 1 and i != shared and not entry & pte.PS:
                _add(update, entry & pte.ADDRESS, level - 1, gva, read)
