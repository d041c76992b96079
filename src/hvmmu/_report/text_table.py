"""The renderer of every table: columns as wide as their texts, folded only to fit a terminal.

rich renders tables too; importing it takes longer than a small run.
"""

import os
from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import NamedTuple

PLAIN, STRONG, FAINT = "", "1", "2"
"""The style of a text on a terminal, as SGR has it."""

StyledText = tuple[str, str]
"""A text and its style."""

_GAP = "  "
_NARROWEST = 8  # columns that a folded column keeps
_FIRST_THAT_MAY_BE_WIDE = "\u0300"


class TextTable(NamedTuple):
    """Columns with a head each; newlines split a head into lines."""

    heads: Sequence[str]
    sides: str
    """For each column < or >: the side on which its texts are aligned."""
    rows: Sequence[Sequence[StyledText]]
    """A row that is too short is empty in its last columns."""

    @classmethod
    def plain(cls, heads: Sequence[str], rows: Iterable[Sequence[str]]) -> "TextTable":
        """Return a table of plain texts, aligned on the left."""
        return cls(heads, "<" * len(heads), [[(text, PLAIN) for text in row] for row in rows])

    @property
    def width(self) -> int:
        """Return how many columns of a terminal it takes."""
        return _total(self._widths())

    def text(self, *, styled: bool, most: int | None = None) -> str:
        """Return it as lines without spaces at their ends, none wider than *most*."""
        widths = self._widths()
        while most is not None and _total(widths) > most and max(widths) > _NARROWEST:
            widths[widths.index(max(widths))] -= 1
        rows = [*self._head(), *self.rows]
        return "\n".join(line for row in rows for line in self._lines(row, widths, styled))

    def _widths(self) -> list[int]:
        texts: list[list[str]] = [head.split("\n") for head in self.heads]
        for row in self.rows:
            for column, (text, _) in zip(texts, row, strict=False):
                column.append(text)
        return [max(map(columns, column)) for column in texts]

    def _head(self) -> Iterator[list[StyledText]]:
        parts = [head.split("\n") for head in self.heads]
        for nth in range(max(map(len, parts))):
            yield [(part[nth] if nth < len(part) else "", STRONG) for part in parts]

    def _lines(
        self, row: Sequence[StyledText], widths: Sequence[int], styled: bool
    ) -> Iterator[str]:
        """Yield the lines of one row: more than one where a text is folded."""
        folded = [_fold(text, width) for (text, _), width in zip(row, widths, strict=False)]
        for nth in range(max(map(len, folded))):
            parts = []
            columned = zip(folded, row, self.sides, widths, strict=False)
            for lines, (_, style), side, width in columned:
                text = lines[nth] if nth < len(lines) else ""
                shown = f"\x1b[{style}m{text}\x1b[0m" if styled and style and text else text
                space = " " * (width - columns(text))
                parts.append(shown + space if side == "<" else space + shown)
            yield _GAP.join(parts).rstrip()


def render(parts: Iterable[str | TextTable], width: int | None) -> str:
    """Return *parts* one below the other; *width* None: no terminal, so no styles and no folds."""
    styled = width is not None and takes_styles()
    texts = (
        part.text(styled=styled, most=width) if isinstance(part, TextTable) else part
        for part in parts
    )
    return "\n".join(texts) + "\n"


def columns(text: str) -> int:
    """Return how many columns of a terminal a text takes."""
    if max(text, default="") < _FIRST_THAT_MAY_BE_WIDE:
        return len(text)
    from unicodedata import combining, east_asian_width  # noqa: PLC0415 - next to never

    return sum(0 if combining(c) else 1 + (east_asian_width(c) in ("W", "F")) for c in text)


def takes_styles(environ: Mapping[str, str] = os.environ) -> bool:
    """Return whether a terminal of this environment shows more than plain text."""
    return environ.get("TERM", "").lower() not in ("dumb", "unknown")


def _total(widths: Sequence[int]) -> int:
    return sum(widths) + len(_GAP) * (len(widths) - 1)


def _fold(text: str, width: int) -> list[str]:
    """Return a text as lines of at most *width* columns, split at spaces where there are any."""
    if columns(text) <= width:
        return [text]
    room = width if len(text) == columns(text) else max(width // 2, 1)  # wide characters take two
    lines = wrap(text, room).split("\n")
    return [line[at : at + room] for line in lines for at in range(0, len(line), room)]


def wrap(text: str, width: int) -> str:
    """Return a text in lines of at most *width* characters, unless a word is longer.

    Lines after the first are indented twice as far as it.
    """
    indent = " " * (len(text) - len(text.lstrip()))
    first, *words = text.split() or [""]
    lines = [indent + first]
    for word in words:
        longer = f"{lines[-1]} {word}"
        if len(longer) <= width:
            lines[-1] = longer
        else:
            lines.append(2 * indent + word)
    return "\n".join(lines)
