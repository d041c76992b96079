"""Tables of kind, address and, optionally, size: CSV text, and Parquet through pyarrow."""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

from hvmmu._trace.importers.importer import Importer
from hvmmu._trace.importers.stream import BATCH, References
from hvmmu.arch.pfec import USER_FETCH, USER_READ, USER_WRITE
from hvmmu.errors import InputError

if TYPE_CHECKING:
    from array import array
    from collections.abc import Iterable, Iterator

    from hvmmu._trace.importers.stream import Stream

_WORDS = {
    USER_READ: ("r", "read", "l", "load", "0"),
    USER_WRITE: ("w", "write", "s", "store", "m", "modify", "1"),
    USER_FETCH: ("x", "f", "i", "fetch", "ifetch", "instruction", "2"),
}
_KINDS = {word: kind for kind, words in _WORDS.items() for word in words}
_TODO = "give rows of kind and address: read, write or fetch, and 0x... or a decimal number"
_FILE = "give a Parquet file, not packed, with columns kind and address"
Row = tuple[str, int, int]


class Csv(Importer):
    """Lines of kind,address or kind,address,size; a first line of those words is skipped."""

    name = "csv"
    summary = "lines of kind,address[,size]; kinds are read, write, fetch (r w x, l s i, 0 1 2)"

    def recognises(self, head: bytes) -> bool:
        """Return whether the first line is a row, or the names of the columns."""
        first = head.split(b"\n", 1)[0][:256].decode("ascii", "replace")
        try:
            return _is_heading(first) or bool(_row(first))
        except ValueError:
            return False

    def accesses(
        self, stream: Stream, limit: int | None
    ) -> Iterator[tuple[array[int], array[int]]]:
        """Yield the rows as accesses; raise TraceError at the first line that is none."""
        return _made(self._rows(stream), stream, limit)

    def _rows(self, stream: Stream) -> Iterator[tuple[int, Row]]:
        for first, lines in stream.lines():
            for number, line in enumerate(lines, first):
                text = line.decode("ascii", "replace")
                if number == 1 and _is_heading(text):
                    continue
                try:
                    yield number, _row(text)
                except ValueError as error:
                    raise stream.error(number, str(error), _TODO) from None


class Parquet(Importer):
    """Columns kind and address, and size if there is one, in a Parquet file."""

    name = "parquet"
    summary = "columns kind, address[, size] in a Parquet file; needs hvmmu[parquet]"

    def recognises(self, head: bytes) -> bool:
        """Return whether the file starts as one does."""
        return head.startswith(b"PAR1")

    def accesses(
        self, stream: Stream, limit: int | None
    ) -> Iterator[tuple[array[int], array[int]]]:
        """Yield the rows as accesses; raise TraceError for other columns and for bad rows."""
        return _made(self._rows(stream), stream, limit)

    def _rows(self, stream: Stream) -> Iterator[tuple[int, Row]]:
        if stream.path is None:
            raise stream.error(None, "Parquet has its index at the end", "save it to a file first")
        parquet: Any = _pyarrow()
        number = 0
        try:
            with parquet.ParquetFile(stream.path) as file:
                names = [n for n in ("kind", "address", "size") if n in file.schema_arrow.names]
                if names[:2] != ["kind", "address"]:
                    raise stream.error(None, "has no columns kind and address", _TODO)
                for batch in file.iter_batches(batch_size=BATCH, columns=names):
                    rows = [batch.column(name).to_pylist() for name in names]
                    for row in zip(*rows, strict=True):
                        number += 1
                        yield number, _checked(*row)
        # pyarrow's own errors are these, by what they inherit from.
        except (ValueError, TypeError, OSError, LookupError, NotImplementedError) as error:
            what = " ".join(str(error).split())
            raise stream.error(number or None, what, _TODO if number else _FILE) from None


def _pyarrow() -> Any:  # noqa: ANN401 - a module that need not be there
    try:
        return importlib.import_module("pyarrow.parquet")
    except ImportError:
        raise InputError(
            "Parquet needs pyarrow, which is not installed; pip install hvmmu[parquet]"
        ) from None


def _is_heading(line: str) -> bool:
    return [word.strip().lower() for word in line.split(",")][:2] == ["kind", "address"]


def _row(line: str) -> Row:
    words = [word.strip() for word in line.split(",")]
    if len(words) not in (2, 3):
        raise ValueError(f"{len(words)} columns where 2 or 3 can be")
    try:
        numbers = [int(word, 0) for word in words[1:]]
    except ValueError:
        raise ValueError(f"no number in {line[:40]!r}") from None
    return _checked(words[0], *numbers)


def _checked(kind: object, address: object, size: object = 1) -> Row:
    if not isinstance(address, int) or not isinstance(size, int):
        raise ValueError("an address or a size is no whole number")  # noqa: TRY004 - bad input
    word = kind.decode("ascii", "replace") if isinstance(kind, bytes) else str(kind)
    return word.lower(), address, size


def _made(
    rows: Iterable[tuple[int, Row]], stream: Stream, limit: int | None
) -> Iterator[tuple[array[int], array[int]]]:
    made, found = References(), 0
    for number, (word, gva, size) in rows:
        kind = _KINDS.get(word)
        if kind is None:
            raise stream.error(number, f"{word[:40]!r} is no kind of access", _TODO)
        try:
            made.add(kind, gva, size)
        except ValueError as error:
            raise stream.error(number, str(error), "leave that row out") from None
        found += 1
        if found == limit:
            break
        if not found % BATCH:
            yield made.gva, made.kind
            made = References()
    if not found:
        raise stream.error(None, "holds no rows", _TODO)
    yield made.gva, made.kind
