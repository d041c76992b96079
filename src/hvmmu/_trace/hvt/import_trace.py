"""Making .hvt files whole or not at all: from another trace, or from what valgrind prints."""

from __future__ import annotations

import contextlib
import shutil
import tempfile
from typing import IO, TYPE_CHECKING

from hvmmu._trace.atomic_output import check_output, whole_file
from hvmmu._trace.codec import SUFFIXES, writer
from hvmmu._trace.hvt.writer import HvtWriter
from hvmmu._trace.importers import source_of
from hvmmu._trace.importers.stream import Stream
from hvmmu._trace.importers.valgrind import LackeyText
from hvmmu._trace.lackey import Parser
from hvmmu._trace.magic import is_hvt_head
from hvmmu._trace.tokens import SECOND
from hvmmu.errors import InputError
from hvmmu.params import plain

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from pathlib import Path

    from hvmmu._trace.hvt.layout import Header
    from hvmmu._trace.importers.importer import Source

SUFFIX = ".hvt"


def is_hvt(output: Path) -> bool:
    """Return whether a file's name asks for a compact trace, plain or packed."""
    return output.suffix == SUFFIX or (
        output.suffix in SUFFIXES and output.with_suffix("").suffix == SUFFIX
    )


def check_hvt_output(output: Path, *, force: bool) -> None:
    """Raise InputError for a destination of a compact trace that will not do."""
    if not is_hvt(output):
        raise InputError(
            f"{plain(str(output))}: a compact trace is named so; end the name in {SUFFIX}, or in "
            f"{', '.join(SUFFIX + suffix for suffix in SUFFIXES)} to have it packed"
        )
    check_output(output, force=force)


@contextlib.contextmanager
def hvt_file(output: Path, *, force: bool) -> Iterator[IO[bytes]]:
    """Open a seekable file that becomes *output*, packed as its name says, if the block ends well.

    Raise InputError for a destination that will not do.
    """
    check_hvt_output(output, force=force)
    with whole_file(output, force=force) as file:
        if output.suffix == SUFFIX:
            yield file
            return
        with tempfile.TemporaryFile(dir=output.parent) as unpacked:
            yield unpacked
            unpacked.seek(0)
            packed = writer(file, output.suffix)
            assert packed is not None  # the suffix is one of those
            with packed:
                shutil.copyfileobj(unpacked, packed)


def import_trace(
    source: Path | None,
    piped: IO[bytes] | None,
    output: Path,
    *,
    fmt: str | None = None,
    limit: int | None = None,
    force: bool = False,
    progress: Callable[[int], None] | None = None,
) -> Header:
    """Read a trace from the file *source*, or from the pipe *piped*, and write it to *output*.

    *fmt* names its format, None leaves it to be told by its start. *limit* ends it after so many
    references; *progress* is told their number so far. Raise InputError, and leave no file, for
    what cannot be read or written.
    """
    check_hvt_output(output, force=force)  # else a bad name is only found when a pipe has begun
    stream = Stream(source, piped, "standard input" if source is None else plain(str(source)))
    if is_hvt_head(stream.head):
        raise stream.error(None, "is a compact trace already", "run it; xz or zstd pack it")
    found = source_of(fmt, stream.head)
    with hvt_file(output, force=force) as file:
        made = HvtWriter(file, words_of(found, stream.head))
        for gva, kind in found.accesses(stream, limit):
            made.add(gva, kind)
            if progress is not None:
                progress(made.references)
        made.close()
        if not made.references:
            raise stream.error(None, "holds no memory references", "check what made it")
    return made.header()


class LackeySink:
    """Take lackey's text by whole lines and write an .hvt file; closing it makes that whole."""

    def __init__(self, file: IO[bytes]) -> None:
        self._file, self._parser = file, Parser("valgrind", SECOND)
        self._made: HvtWriter | None = None

    def write(self, lines: bytes) -> int:
        """Take whole lines; the first of them say what is traced."""
        if self._made is None:
            self._made = HvtWriter(self._file, words_of(LackeyText(), lines))
        self._made.add(*self._parser.parse(lines))
        return len(lines)

    def close(self) -> None:
        """Write what is left, and the header."""
        if self._made is not None:
            self._made.close()


def words_of(source: Source, head: bytes) -> str:
    """Return what the header says of where a trace came from, of which *head* is the start."""
    return f"format={source.name}\n{source.words(head)}"
