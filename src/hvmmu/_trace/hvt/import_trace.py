"""Import a trace of another format into an .hvt file, which is written whole or not at all."""

from __future__ import annotations

import contextlib
import shutil
import tempfile
from typing import IO, TYPE_CHECKING

from hvmmu._trace.atomic_output import check_output, whole_file
from hvmmu._trace.codec import SUFFIXES, writer
from hvmmu._trace.grammar import STRADDLES
from hvmmu._trace.hvt.writer import HvtWriter
from hvmmu._trace.importers import importer_of
from hvmmu._trace.importers.foreign import explained
from hvmmu._trace.importers.stream import Stream
from hvmmu._trace.importers.valgrind import LackeyText
from hvmmu._trace.lackey import Parser
from hvmmu._trace.magic import is_hvt_head
from hvmmu.errors import InputError, TraceError
from hvmmu.params import printable

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from pathlib import Path

    from hvmmu._trace.hvt.layout import Header
    from hvmmu._trace.importers.importer import Importer

SUFFIX = ".hvt"


def is_hvt(output: Path) -> bool:
    """Return whether a file's name is that of an .hvt file, plain or compressed."""
    return output.suffix == SUFFIX or (
        output.suffix in SUFFIXES and output.with_suffix("").suffix == SUFFIX
    )


def check_hvt_output(output: Path, *, force: bool) -> None:
    """Raise InputError for a destination where no .hvt file can be written."""
    if not is_hvt(output):
        raise InputError(
            f"{printable(str(output))}: is no name of a reduced trace; end the name in {SUFFIX}, "
            f"or in {', '.join(SUFFIX + suffix for suffix in SUFFIXES)} to compress it"
        )
    check_output(output, force=force)


@contextlib.contextmanager
def hvt_file(output: Path, *, force: bool) -> Iterator[IO[bytes]]:
    """Open a seekable file that becomes *output* if the block succeeds.

    It is compressed as its name says. Raise InputError for a destination where no .hvt file can
    be written.
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

    *fmt* names its format; None recognises it by its start. *limit* ends it after that many
    references; *progress* is called with their number so far. Raise InputError, and leave no file,
    if it cannot be read or written.
    """
    check_hvt_output(output, force=force)  # before anything is read from a pipe
    stream = Stream(source, piped, "standard input" if source is None else printable(str(source)))
    if is_hvt_head(stream.head):
        raise stream.error(None, "is a reduced trace already", "run it; xz or zstd compress it")
    importer = importer_of(fmt, stream.head)
    with hvt_file(output, force=force) as file:
        made = HvtWriter(file, provenance_of(importer, stream.head))
        try:
            for gva, kind in importer.accesses(stream, limit):
                made.add(gva, kind)
                if progress is not None:
                    progress(made.references)
        except TraceError as error:
            if fmt is not None or importer.recognises(stream.head):
                raise
            raise explained(error, stream.head) from None
        made.close()
        if not made.references:
            raise stream.error(None, "holds no memory references", "check what made it")
    return made.header()


class LackeySink:
    """Write an .hvt file of lackey's lines; closing it completes the file."""

    def __init__(self, file: IO[bytes]) -> None:
        self._file, self._parser = file, Parser("valgrind", STRADDLES)
        self._made: HvtWriter | None = None

    def write(self, lines: bytes) -> int:
        """Take whole lines; the first ones name the command."""
        if self._made is None:
            self._made = HvtWriter(self._file, provenance_of(LackeyText(), lines))
        self._made.add(*self._parser.parse(lines))
        return len(lines)

    def close(self) -> None:
        """Write what is left, and the header."""
        if self._made is not None:
            self._made.close()


def provenance_of(importer: Importer, head: bytes) -> str:
    """Return the header's provenance of a trace that starts with *head*."""
    return f"format={importer.name}\n{importer.provenance(head)}"
