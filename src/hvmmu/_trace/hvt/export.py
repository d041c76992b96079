"""Export an .hvt file as lackey's text or CSV: every reference in order, by page."""

from __future__ import annotations

from typing import IO, TYPE_CHECKING

from hvmmu._trace.grammar import STRADDLES
from hvmmu.arch.pfec import USER_FETCH, USER_READ, USER_WRITE
from hvmmu.types import PAGE_SIZE

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from hvmmu._trace.hvt.reader import HvtFile

FORMATS = ("lackey", "csv")
_LACKEY = {USER_FETCH: "I  %08x,%d\n", USER_READ: " L %08x,%d\n", USER_WRITE: " S %08x,%d\n"}
_CSV = {USER_FETCH: "fetch,%#x,%d\n", USER_READ: "read,%#x,%d\n", USER_WRITE: "write,%#x,%d\n"}


def export(
    file: HvtFile, fmt: str, out: IO[bytes], progress: Callable[[int], None] | None = None
) -> int:
    """Write every reference of *file* to *out* and return their number; raise TraceError.

    A page's first access of a kind has its original address, later ones some address in the page.
    Sizes are 1, or reach one byte into the next page where the reference straddled two.
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
    """Yield the text of each window; a reference that may straddle two windows is held back."""
    held: tuple[int, int] | None = None
    for gva, kind in file.windows():
        lines = []
        for va, k in zip(gva, kind, strict=True):
            if k & STRADDLES and held is not None:
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
