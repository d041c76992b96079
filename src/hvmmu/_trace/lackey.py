"""The memory trace of a real program as a workload: what valgrind's lackey tool printed.

A line is either valgrind's own (``==3367== ...``) or one reference: a kind, a hexadecimal address,
a decimal size. Programs repeat themselves, so each distinct line is parsed once and then looked up;
memory stays the same however long the trace is.
"""

from __future__ import annotations

import contextlib
import re
from array import array
from typing import TYPE_CHECKING

from attrs import frozen

from hvmmu._trace.codec import blocks
from hvmmu._trace.tracefile import USER_END, USER_START, WHOLE, TraceFile
from hvmmu.arch import pfec as pf
from hvmmu.errors import TraceError
from hvmmu.params import plain
from hvmmu.steps import Accesses, Step
from hvmmu.types import PAGE_SIZE

try:
    from hvmmu._trace.reduce import PlainLines
except ImportError:  # no compiler where this was installed
    PlainLines = None  # type: ignore[assignment, misc]

if TYPE_CHECKING:
    from collections.abc import Generator, Iterable, Iterator

BATCH = 1 << 16
"""Accesses in one step, at most."""

# A modify reads and writes one address in one instruction. x86 translates it once, as a write,
# so it is one access and faults once: SDM "Page-Fault Exceptions", error code bit W/R.
_KIND = {
    b"I ": pf.U | pf.ID,
    b" L": pf.U,
    b" S": pf.U | pf.W,
    b" M": pf.U | pf.W,
}
_SPLIT = 0x80
"""Set in a parsed line's kind: the reference goes on in the next page."""
_SILENT = 0xFF
"""Stands for the kind of a line that is no reference."""
_ODD = re.compile(b"[^%s]" % re.escape(bytes(sorted(set(_KIND.values())))))

# One reference never spans three pages. lackey's own bound is 512 bytes.
_MOST_SIZE = PAGE_SIZE
_REFERENCE = re.compile(rb"(I | [SLM]) ([0-9a-f]+),([0-9]+)")
_SAID = re.compile(rb"(==|--|\*\*)([0-9:.]+ )?[0-9]+\1( .*)?")
_LONGEST = 256
"""Bytes of the longest reference line that is looked at."""
# Only "Command:" can be long: as long as one argument may be on Linux.
_LONGEST_SAID = 128 << 10
_SEEN = 1 << 16
"""Distinct lines remembered before they are forgotten and parsed anew."""

_AGAIN = "the trace is damaged: record it again"
_MIXED = (
    "if the program's own output got in, record with valgrind's --log-file=FILE or `hvmmu record`"
)
_CUT = "cut the trace before this line"


class _LineError(Exception):
    """A line lackey never prints, blamed on its line number by the reader."""

    def __init__(self, line: bytes, what: str, todo: str) -> None:
        self.line, self.what, self.todo = line, what, todo


class _Lines(dict[bytes, int]):
    """Address by line, parsed at the first lookup; `kinds` holds the kind of the same lines."""

    def __init__(self) -> None:
        self.kinds: dict[bytes, int] = {}

    def __missing__(self, line: bytes) -> int:
        match = _REFERENCE.fullmatch(line)
        if match is None and _SAID.fullmatch(line):
            gva, kind = 0, _SILENT
        elif match is None or len(line) > _LONGEST:
            raise _LineError(line, *_blame(line))
        else:
            gva, size = _checked(line, int(match[2], 16), int(match[3]))
            crosses = gva % PAGE_SIZE + size > PAGE_SIZE
            kind = _KIND[match[1]] | (_SPLIT if crosses else 0)
        self[line], self.kinds[line] = gva, kind
        return gva

    def forget(self, line: bytes) -> None:
        """Drop a line; valgrind's own may be long and come once."""
        self.pop(line, None)
        self.kinds.pop(line, None)

    def forget_all(self) -> None:
        """Start again, so that memory is bounded."""
        self.clear()
        self.kinds.clear()


def _checked(line: bytes, gva: int, size: int) -> tuple[int, int]:
    if not 0 < size <= _MOST_SIZE:
        what = f"a reference of {size} bytes (1 to {_MOST_SIZE} can be)"
        raise _LineError(line, what, _AGAIN)
    if gva >> 64:
        raise _LineError(line, "an address of more than 64 bits", _AGAIN)
    if 1 << 47 <= gva < (1 << 64) - (1 << 47):
        raise _LineError(line, f"the address {gva:#x} is not canonical", _AGAIN)
    if gva < USER_START:
        what = f"the address {gva:#x} is in page zero, which Linux maps for nobody"
        raise _LineError(line, what, f"the program may have crashed here: {_CUT}")
    if gva + size > USER_END:
        # Among them the vsyscall page: the kernel's mapping, so not a page of the program's own.
        what = f"the address {gva:#x} is not in the user half"
        raise _LineError(line, what, f"only a program's own pages are simulated: {_CUT}")
    return gva, size


def _blame(line: bytes) -> tuple[str, str]:
    """Say what is wrong with a line that is no reference and not valgrind's own."""
    text = line[:40].decode("ascii", "replace")
    if not text.isprintable() or not text.isascii():
        return "not text that lackey prints", "give the output of valgrind --tool=lackey"
    dots = "..." if len(line) > len(text) else ""
    return f"lackey never prints '{text}{dots}'", _MIXED


@frozen(eq=False)
class LackeyTrace(TraceFile):
    """The lackey trace in the file *path*, plain or compressed, up to *limit* references."""

    def check(self) -> None:
        """Read as far as the first batch; raise TraceError if this is no trace."""
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
            for gva, kind in references(text, plain(str(self.path)), self.limit):
                yield from _batches(gva, kind)


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
    """Lackey's lines made into accesses; counts the lines, to blame one by its number."""

    def __init__(self, name: str, second: int = 0) -> None:
        self.references = 0
        self._name, self._second = name, second
        self._seen, self._number = _Lines(), 1
        self._plain = None if PlainLines is None else PlainLines(second)

    def parse(self, text: bytes, limit: int | None = None) -> tuple[array[int], array[int]]:
        """Return the accesses in whole lines, at most *limit* references; raise TraceError."""
        if self._plain is None:
            return self._parse_lines(text, limit)
        left = len(text) if limit is None else limit
        rest, whole_gva, whole_kind = memoryview(text), array("Q"), array("B")
        while True:
            read, lines, gva, kind = self._plain.read(rest, left)
            whole_gva += gva
            whole_kind += kind
            rest, left = rest[read:], left - lines
            self.references += lines
            self._number += lines
            if not rest or not left:
                return whole_gva, whole_kind
            # One line that is more than a plain reference.
            at = len(text) - len(rest)
            end = text.index(b"\n", at) + 1
            before = self.references
            gva, kind = self._parse_lines(text[at:end], left)
            whole_gva += gva
            whole_kind += kind
            rest, left = rest[end - at :], left - (self.references - before)

    def _parse_lines(self, text: bytes, limit: int | None = None) -> tuple[array[int], array[int]]:
        lines = text.split(b"\n")
        lines.pop()
        if limit is not None:
            del lines[_end_of(lines, limit) :]
        seen = self._seen
        try:
            gva = array("Q", map(seen.__getitem__, lines))
        except _LineError as error:
            raise self._blamed(lines.index(error.line), error.what, error.todo) from None
        kind = bytes(map(seen.kinds.__getitem__, lines))
        self.references += len(kind) - kind.count(_SILENT)
        self._number += len(lines)
        made = _spliced(gva, kind, lines, seen, self._second)
        if len(seen) > _SEEN:
            seen.forget_all()
        return made

    def end(self, tail: bytes = b"") -> None:
        """Raise TraceError if the text ends with half a line, *tail*, or held no reference."""
        if tail:
            what, todo = "the last line is cut off", "remove that line, or record again"
            if not tail.startswith((b"I", b" ", b"=", b"-", b"*")):
                what, todo = _blame(tail)
            raise self._blamed(0, what, todo)
        if not self.references:
            todo = "record with valgrind --tool=lackey --trace-mem=yes, or `hvmmu record`"
            raise TraceError(self._name, None, "holds no memory references", todo)

    def refuse_endless(self, tail: bytes) -> None:
        """Raise TraceError for a line without end, which stands after all that was parsed."""
        if len(tail) > (_LONGEST_SAID if _SAID.match(tail) else _LONGEST):
            what, todo = _blame(tail)
            raise self._blamed(0, f"a line of over {_LONGEST} bytes: {what}", todo)

    def _blamed(self, line: int, what: str, todo: str) -> TraceError:
        return TraceError(self._name, self._number + line, what, todo)


def _whole_lines(text: Iterable[bytes], parser: Parser) -> Iterator[bytes]:
    """Yield the whole lines of each block; one that goes on in the next block is kept for it."""
    tail = b""
    for block in text:
        cut = block.rfind(b"\n") + 1
        whole, tail = (tail + block[:cut], block[cut:]) if cut else (b"", tail + block)
        if whole:
            yield whole
        parser.refuse_endless(tail)
    if tail:
        parser.end(tail)


def _end_of(lines: list[bytes], references: int) -> int:
    """Return the index after the first *references* references, or the number of lines."""
    if len(lines) <= references:
        return len(lines)
    for index, line in enumerate(lines):
        if not references:
            return index
        references -= line[:2] in _KIND
    return len(lines)


def _spliced(
    gva: array[int], kind: bytes, lines: list[bytes], seen: _Lines, second: int
) -> tuple[array[int], array[int]]:
    """Drop valgrind's own lines, and make two accesses of a reference that crosses pages."""
    whole_gva, whole_kind, start = array("Q"), bytearray(), 0
    for match in _ODD.finditer(kind):
        index = match.start()
        whole_gva += gva[start:index]
        whole_kind += kind[start:index]
        start = index + 1
        if kind[index] == _SILENT:
            seen.forget(lines[index])
            continue
        first = gva[index]
        whole_gva.extend((first, (first | (PAGE_SIZE - 1)) + 1))
        k = kind[index] & ~_SPLIT
        whole_kind += bytes((k, k | second))
    whole_gva += gva[start:]
    whole_kind += kind[start:]
    return whole_gva, array("B", bytes(whole_kind))


def _batches(gva: array[int], kind: array[int]) -> Iterator[Accesses]:
    for start in range(0, len(gva), BATCH):
        yield Accesses(gva[start : start + BATCH], kind[start : start + BATCH])
