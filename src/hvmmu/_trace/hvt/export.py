"""An .hvt file as text again: every reference in its order, by page, as lackey's text or CSV."""

from __future__ import annotations

from typing import IO, TYPE_CHECKING

from hvmmu._trace.tokens import FETCH, READ, SECOND, WRITE
from hvmmu.types import PAGE_SIZE

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from hvmmu._trace.hvt.reader import HvtFile

FORMATS = ("lackey", "csv")
_LACKEY = {FETCH: "I  %08x,%d\n", READ: " L %08x,%d\n", WRITE: " S %08x,%d\n"}
_CSV = {FETCH: "fetch,%#x,%d\n", READ: "read,%#x,%d\n", WRITE: "write,%#x,%d\n"}


def export(
    file: HvtFile, fmt: str, out: IO[bytes], progress: Callable[[int], None] | None = None
) -> int:
    """Write every reference of *file* to *out* and return their number; raise TraceError.

    A page's first access of a kind has the address it had, others any address in the page. Sizes
    are 1, and where a reference went on in the next page what reaches one byte into it.
    """
    shapes = _LACKEY if fmt == "lackey" else _CSV
    if fmt == "csv":
        out.write(b"kind,address,size\n")
    count = 0
    for lines in _lines(file, shapes):
        out.write("".join(lines).encode())
        count += len(lines)
        if progress is not None:
            progress(count)
    return count


def _lines(file: HvtFile, shapes: dict[int, str]) -> Iterator[list[str]]:
    """Yield the text of each window; a reference that goes on in the next window is held back."""
    held: tuple[int, int] | None = None
    for gva, kind in file.windows():
        lines = []
        for va, k in zip(gva, kind, strict=True):
            if k & SECOND and held is not None:
                first = held[0] if held[0] % PAGE_SIZE else held[0] | (PAGE_SIZE - 1)
                size = PAGE_SIZE - first % PAGE_SIZE + 1
                lines.append(shapes[held[1]] % (first, size))
                held = None
                continue
            if held is not None:
                lines.append(shapes[held[1]] % (held[0], 1))
            held = va, k
        yield lines
    if held is not None:
        yield [shapes[held[1]] % (held[0], 1)]
