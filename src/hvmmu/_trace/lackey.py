"""Traces of Valgrind's lackey: what `valgrind --tool=lackey --trace-mem=yes` prints.

A line is a reference (a kind, a hexadecimal address, a decimal size), a superblock, or Valgrind's
own (``==3367== ...``). C parses references; each line of another sort is judged here.
"""

from __future__ import annotations

import contextlib
import re
from array import array
from typing import TYPE_CHECKING

from attrs import frozen

from hvmmu._core.binding import ffi, lib
from hvmmu._trace.codec import BOM, blocks
from hvmmu._trace.tracefile import WHOLE, TraceFile, reference_error
from hvmmu.errors import TraceError
from hvmmu.params import printable
from hvmmu.steps import Accesses, Step

if TYPE_CHECKING:
    from collections.abc import Generator, Iterable, Iterator

BATCH = 1 << 16
"""Accesses in one step, at most."""

_REFERENCE = re.compile(rb"(I | [SLM]) ([0-9a-f]+),([0-9]+)")
_VALGRINDS = re.compile(rb"(==|--|\*\*)([0-9:.]+ )?([0-9]+)\1( .*)?")
_LONGEST = 256
"""Bytes of a reference line, at most."""
_LONGEST_VALGRINDS = 128 << 10
"""Bytes of a line of Valgrind's, at most: "Command:" is as long as one argument may be on Linux."""
_PARSED = 1 << 13
"""References that C parses at a time."""

_MIXED = (
    "if the program's own output got in, record with valgrind's --log-file=FILE or `hvmmu record`"
)


@frozen(eq=False)
class LackeyTrace(TraceFile):
    """The lackey trace in the file *path*, plain or compressed, up to *limit* references."""

    def check(self) -> None:
        """Read as far as the first batch; raise TraceError for a line that lackey never prints."""
        steps = self._accesses()
        next(steps, None)
        steps.close()

    def steps(self) -> Iterator[Step]:
        """Yield one mapping of the whole user half, then the accesses in order.

        Raise TraceError at the first line that lackey never prints, naming its number.
        """
        yield WHOLE
        yield from self._accesses()

    def _accesses(self) -> Generator[Accesses, None, None]:
        with contextlib.closing(blocks(self.path)) as text:
            for gva, kind in references(text, printable(str(self.path)), self.limit):
                for start in range(0, len(gva), BATCH):
                    yield Accesses(gva[start : start + BATCH], kind[start : start + BATCH])


def references(
    text: Iterable[bytes], name: str, limit: int | None = None, *, second: int = 0
) -> Iterator[tuple[array[int], array[int]]]:
    """Yield the accesses in *text*, which comes in blocks, as addresses and kinds.

    *second* is set in the kind of a reference's second page. Raise TraceError, which calls the
    trace *name*, at the first line that lackey never prints.
    """
    parser = Parser(name, second)
    for lines in _whole_lines(text, parser):
        left = None if limit is None else limit - parser.references
        yield parser.parse(lines, left)
        if parser.references == limit:
            return
    parser.end()


class Parser:
    """Parses lackey's lines; counts them, to name the number of a wrong one."""

    def __init__(self, name: str, second: int = 0) -> None:
        self.references = 0
        self._name, self._second, self._number = name, second, 1
        self._pid: bytes | None = None
        # Large new arrays cost page faults: these are used again and again.
        self._gva, self._kind = (
            ffi.new("uint64_t[]", 2 * _PARSED),
            ffi.new("uint8_t[]", 2 * _PARSED),
        )

    def parse(self, text: bytes, limit: int | None = None) -> tuple[array[int], array[int]]:
        """Return the accesses in whole lines, at most *limit* references; raise TraceError."""
        gva, kind, start, size = array("Q"), array("B"), ffi.from_buffer("char[]", text), len(text)
        at, left = 0, size if limit is None else limit
        while at < size and left:
            most = min(left, _PARSED)
            done = lib.hvt_parse_lackey(
                start + at, size - at, most, self._second, self._gva, self._kind
            )
            gva.frombytes(ffi.buffer(self._gva, 8 * done.accesses))
            kind.frombytes(ffi.buffer(self._kind, done.accesses))
            at, left = at + done.read, left - done.references
            self.references += done.references
            self._number += done.lines
            if at < size and done.references < most:
                end = text.index(b"\n", at)
                self._judge(text[at:end].removesuffix(b"\r"))
                at, self._number = end + 1, self._number + 1
        return gva, kind

    def _judge(self, line: bytes) -> None:
        """Accept a line of Valgrind's own; raise TraceError for any other."""
        match = _VALGRINDS.fullmatch(line)
        if match is None:
            raise self._error(*_wrong(line))
        pid = match[3]
        if pid != (self._pid or pid):
            what = f"a line of process {_number(pid)} in the trace of process {_number(self._pid)}"
            todo = "record one process in a file, as with valgrind's --log-file=FILE.%p"
            raise self._error(what, todo)
        self._pid = pid

    def end(self, tail: bytes = b"") -> None:
        """Raise TraceError if the text ends with half a line, *tail*, or held no reference."""
        if tail:
            what, todo = "the last line is cut off", "remove that line, or record again"
            if not tail.startswith((b"I", b" ", b"=", b"-", b"*", b"S")):
                what, todo = _wrong(tail)
            raise self._error(what, todo)
        if not self.references:
            todo = "record with valgrind --tool=lackey --trace-mem=yes, or `hvmmu record`"
            raise TraceError(self._name, None, "holds no memory references", todo)

    def refuse_endless(self, tail: bytes) -> None:
        """Raise TraceError for a line without end, which stands after all that was parsed."""
        if len(tail) > (_LONGEST_VALGRINDS if _VALGRINDS.match(tail) else _LONGEST):
            what, todo = _wrong(tail)
            raise self._error(f"a line of over {_LONGEST} bytes: {what}", todo)

    def _error(self, what: str, todo: str) -> TraceError:
        return TraceError(self._name, self._number, what, todo)


def _whole_lines(text: Iterable[bytes], parser: Parser) -> Iterator[bytes]:
    """Yield the whole lines of each block; one that goes on in the next block is kept for it."""
    tail, first = b"", True
    for block in text:
        cut = block.rfind(b"\n") + 1
        whole, tail = (tail + block[:cut], block[cut:]) if cut else (b"", tail + block)
        if whole:
            yield whole.removeprefix(BOM) if first else whole
            first = False
        parser.refuse_endless(tail)
    if tail:
        parser.end(tail)


def _wrong(line: bytes) -> tuple[str, str]:
    """Return what is wrong with a line that is no reference of a program, and what to do."""
    match = _REFERENCE.fullmatch(line[: _LONGEST + 1])
    problem = reference_error(int(match[2], 16), int(match[3])) if match else None
    if problem is not None:
        return problem
    text = line[:40].decode("ascii", "replace")
    if not text.isprintable() or not text.isascii():
        return "not text that lackey prints", "give the output of valgrind --tool=lackey"
    dots = "..." if len(line) > len(text) else ""
    return f"lackey never prints '{text}{dots}'", _MIXED


def _number(pid: bytes | None) -> str:
    return (pid or b"").decode()
