"""A table of short texts side by side, never folded.

A table that may have to be folded is rich's; loading that takes longer than a small run does.
"""

import os
from collections.abc import Iterator, Mapping, Sequence
from typing import NamedTuple

PLAIN, STRONG, FAINT = "", "1", "2"
"""How a cell stands out on a terminal: as SGR has it."""

Cell = tuple[str, str]
"""A text, and how it stands out."""

_GAP = "  "
_FIRST_THAT_MAY_BE_WIDE = "\u0300"


class Grid(NamedTuple):
    """Columns as wide as what is in them, with a head each, whose lines are split by newlines."""

    heads: Sequence[str]
    sides: str
    """For each column < or >: the side that its texts stand on."""
    rows: Sequence[Sequence[Cell]]
    """One that is too short has nothing in its last columns."""

    @property
    def width(self) -> int:
        """Return how many columns of a terminal it takes."""
        return sum(self._widths()) + len(_GAP) * (len(self.heads) - 1)

    def text(self, *, styled: bool) -> str:
        """Return it as lines, without spaces at their ends."""
        widths = self._widths()
        return "\n".join(self._line(cells, widths, styled) for cells in (*self._head(), *self.rows))

    def _widths(self) -> list[int]:
        texts: list[list[str]] = [head.split("\n") for head in self.heads]
        for row in self.rows:
            for column, (text, _) in zip(texts, row, strict=False):
                column.append(text)
        return [max(map(columns, column)) for column in texts]

    def _head(self) -> Iterator[list[Cell]]:
        parts = [head.split("\n") for head in self.heads]
        for nth in range(max(map(len, parts))):
            yield [(part[nth] if nth < len(part) else "", STRONG) for part in parts]

    def _line(self, cells: Sequence[Cell], widths: Sequence[int], styled: bool) -> str:
        parts = []
        for (text, style), side, width in zip(cells, self.sides, widths, strict=False):
            shown = f"\x1b[{style}m{text}\x1b[0m" if styled and style and text else text
            space = " " * (width - columns(text))
            parts.append(shown + space if side == "<" else space + shown)
        return _GAP.join(parts).rstrip()


def columns(text: str) -> int:
    """Return how many columns of a terminal a text takes."""
    if max(text, default="") < _FIRST_THAT_MAY_BE_WIDE:
        return len(text)
    from unicodedata import combining, east_asian_width  # noqa: PLC0415 - next to never

    return sum(0 if combining(c) else 1 + (east_asian_width(c) in ("W", "F")) for c in text)


def takes_styles(environ: Mapping[str, str] = os.environ) -> bool:
    """Say whether a terminal of this environment shows more than plain text."""
    return environ.get("TERM", "").lower() not in ("dumb", "unknown")
