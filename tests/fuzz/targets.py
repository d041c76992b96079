"""The fuzzing targets: each makes something of any bytes, and raises if it finds a mistake.

A mistake is that two engines disagree, that what was reduced does not come back, that anything but
one of hvmmu's own errors is raised, that a message has two lines, or that something half written
stays behind. The sanitizers find the mistakes of the C. Errors are kept for a while, so that their
frames are collected as they would be in a process that goes on.
"""

from __future__ import annotations

import gc
import importlib.util
import io
import random
import struct
import sys
import tempfile
import zlib
from array import array
from collections import deque
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING

from hvmmu._native import NativeBackend
from hvmmu._trace import codec
from hvmmu._trace.grammar import (
    MESSAGES,
    MOST_STORED,
    SPAN,
    SPAN_WINDOWS,
    STRADDLES,
    USER_END,
    USER_START,
    WINDOW,
)
from hvmmu._trace.hvt import HvtTrace
from hvmmu._trace.hvt.export import export
from hvmmu._trace.hvt.import_trace import import_trace
from hvmmu._trace.hvt.layout import CHUNK_SIZE, DamagedError
from hvmmu._trace.hvt.reader import opened
from hvmmu._trace.hvt.reducer import Reducer
from hvmmu._trace.hvt.writer import HvtWriter
from hvmmu._trace.page_slots import PageSlots
from hvmmu._trace.span import PackedSpan, Span
from hvmmu.arch.pfec import USER_FETCH, USER_READ, USER_WRITE
from hvmmu.costs import cost_model
from hvmmu.errors import HvmmuError
from hvmmu.machine import Machine, MachineConfig
from hvmmu.steps import Accesses, ReducedAccesses

if TYPE_CHECKING:
    from collections.abc import Callable
    from types import ModuleType

TESTS = Path(__file__).parents[1]
MODEL = cost_model("nehalem")
STEPS = 40
KINDS = (USER_READ, USER_WRITE, USER_FETCH)
KEPT_ERRORS: deque[BaseException] = deque(maxlen=40)
"""The last errors, with the frames they went through: a caller may hold on to them."""


class Drawn(random.Random):
    """Draws what bytes say, and zeros when there are none left: every program from any bytes."""

    def __init__(self, content: bytes) -> None:
        super().__init__()
        self._bytes = io.BytesIO(content)
        self.left = len(content)

    def take(self, size: int) -> bytes:
        """Return so many bytes."""
        self.left -= size
        return self._bytes.read(size).ljust(size, b"\0")

    def random(self) -> float:
        """Return a number below 1, of a byte."""
        return self.take(1)[0] / 256

    def getrandbits(self, k: int, /) -> int:
        """Return a number of *k* bits."""
        return int.from_bytes(self.take(-(-k // 8)), "little") & ((1 << k) - 1)

    def _randbelow(self, n: int) -> int:
        """Return a number below *n*, of as few bytes as can be; a remainder is never refused."""
        return int.from_bytes(self.take(-(-(n - 1).bit_length() // 8)), "little") % n


@cache
def tests(path: str) -> ModuleType:
    """Return another module of tests, which lie in no package."""
    name = f"hvmmu_fuzzed_{Path(path).stem}"
    spec = importlib.util.spec_from_file_location(name, TESTS / path)
    assert spec is not None
    assert spec.loader is not None
    made = sys.modules[name] = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(made)
    return made


@cache
def folder() -> Path:
    """Return a folder for this process's files."""
    made = tempfile.TemporaryDirectory()
    folder.held = made  # type: ignore[attr-defined] - removed with the process
    return Path(made.name)


def engines(content: bytes) -> None:
    """Write tables, load registers, flush and access, on both engines."""
    draw, made = Drawn(content), tests("hw/test_agreement.py")
    pair = made.Pair(draw, draw.choice(made.MODES), draw.choice(made.GEOMETRIES))
    for _ in range(STEPS):
        if draw.left <= 0:
            break
        pair.step()
    pair.close()


def guests(content: bytes) -> None:
    """Run a guest on both engines, with exits by the switch profile and one by one."""
    draw, made = Drawn(content), tests("core/test_one_loop.py")
    config = made.config_of(draw.choice(sorted(made.BACKENDS)), draw.randrange(1 << 16))
    steps, some = made.Steps(draw), []
    while draw.left > 0 and len(some) < STEPS:
        some.append(steps.one())
    made.agree(config, some or [steps.one()], every=STEPS)


@cache
def known() -> PageSlots:
    """Return page slots to write to: of the thousands, few are used."""
    return PageSlots.empty()


def written(draw: Drawn) -> PageSlots:
    """Return page slots of which eight are used, as chance will have it."""
    slots = known()
    for slot in range(8):
        slots.gva[slot] = USER_START + draw.getrandbits(46)
        slots.kind[slot] = draw.choice(KINDS)
    return slots


def unpacked(packed: PackedSpan) -> Span | None:
    """Return a span with its columns apart, or None if it is damaged."""
    try:
        return packed.unpacked()
    except DamagedError as error:
        assert str(error) in MESSAGES[1:]  # noqa: PT017 - some are good
        return None


def expanded(span: Span, window: int, at: int, slots: PageSlots) -> int | None:
    """Put a window's accesses back; return how many there are, or None if it is damaged."""
    try:
        gva, kind, where = span.expanded(window, at, STRADDLES)
    except DamagedError as error:
        assert str(error) in MESSAGES[1:]  # noqa: PT017 - some are good
        return None
    assert len(gva) == len(kind) > where
    assert {va >> 12 for va in gva} <= {va >> 12 for va in slots.gva[:8]}
    assert {k & ~STRADDLES for k in kind} <= set(KINDS)
    return len(gva)


def tokens(content: bytes) -> None:
    """Put back a window of tokens that nobody wrote."""
    draw = Drawn(content)
    slots = written(draw)
    near = array("H", (draw.randrange(8) for _ in range(1 + draw.randrange(9))))
    room, at = draw.choice((1, 7, 60, WINDOW)), draw.randrange(len(near))
    rest = draw.take(max(draw.left, 0))[:0xFFFF]
    stored = struct.pack("<2H", len(near), len(rest)) + bytes(-(-len(near) // 8)) + near.tobytes()
    span = unpacked(PackedSpan(stored + rest, array("H"), slots, room, DamagedError))
    assert span is not None
    assert expanded(span, 0, at, slots) in (None, room)
    listed = PageSlots(slots.gva, bytearray(slots.kind))
    listed.kind[draw.randrange(8)] = 0
    assert listed.count_listed(near) == sum(listed.kind[slot] != 0 for slot in near)


def frames(content: bytes) -> None:
    """Unpack a span that nobody wrote, or nearly nobody, and put all of it back."""
    draw = Drawn(content)
    slots = written(draw)
    windows, counts = 1 + draw.randrange(SPAN_WINDOWS), []
    for _ in range(windows):
        counts += [draw.choice((1, 1, 2, 5, 9, 0, 4096, 4097)), draw.choice((0, 1, 3, 9, 65535))]
    total, mask = sum(counts[::2]), draw.getrandbits(64)
    kept = array(
        "H", (draw.randrange(8) for _ in range((mask & (1 << min(total, 64)) - 1).bit_count()))
    )
    stored = struct.pack(f"<{2 * windows}H", *counts) + mask.to_bytes(8, "little")[: -(-total // 8)]
    for _ in range(total - len(kept)):
        stored += bytes((draw.randrange(8), draw.choice((0, 0, 0, 0, 1))))
    stored += draw.take(sum(counts[1::2]))
    for _ in range(draw.randrange(3)):
        at = draw.randrange(len(stored) + 1)
        stored = stored[:at] + draw.take(draw.randrange(3)) + stored[at + draw.randrange(3) :]
    accesses = (windows - 1) * WINDOW + draw.choice((1, 9, 80, WINDOW))
    span = unpacked(PackedSpan(stored, kept, slots, accesses, DamagedError))
    if span is None:
        return
    made = [expanded(span, window, span.kept_ends[window], slots) for window in range(windows)]
    if None not in made:
        assert sum(count or 0 for count in made) == accesses
    near, count = span.window_kept, span.kept_ends[-1]
    for nth in range(len(kept)):
        assert near[span.window_kept_of(nth)] == kept[nth]
    fixup = span.lru_fixup(count)
    latest = {(near[at], at) for at in range(count)}
    assert {va >> 12 for va in fixup.gva} <= {slots.gva[slot] >> 12 for slot, _ in latest}


def drawn(draw: Drawn) -> tuple[array[int], array[int]]:
    """Return accesses, of which many are to few pages."""
    gva, kind = array("Q"), array("B")
    while draw.left > 0:
        how = draw.randrange(256)
        page = how >> 3 & 15 if how & 128 else draw.randrange(1 << 34)
        page = page << 4 if how & 32 else page  # of one set
        again = draw.choice((1, 1, 1, 9, 800)) if how & 64 else 1
        gva.extend([(page + 1 << 12) + draw.randrange(4096)] * again)
        kind.extend([KINDS[how % 3] | (STRADDLES if how & 4 else 0)] * again)
    return gva[:WINDOW], kind[:WINDOW]


def reduce(content: bytes) -> None:
    """Reduce accesses, and put them back."""
    draw = Drawn(content)
    chunks = 1 + draw.randrange(3)
    gva, kind = drawn(draw)
    reducer, slots = Reducer(), PageSlots.empty()
    for _ in range(chunks if gva else 0):
        assert reducer.has_room
        reducer.add_window(gva, kind)
        span_kept, window_kept, stored = reducer.end_span()
        assert len(span_kept) <= window_kept
        assert len(stored) <= MOST_STORED
        slots.list_pairs(*reducer.listed)
        span = PackedSpan(stored, span_kept, slots, len(gva), DamagedError).unpacked()
        back_gva, back_kind, _ = span.expanded(0, 0, STRADDLES)
        assert [va >> 12 for va in back_gva] == [va >> 12 for va in gva]
        assert back_kind == kind
        assert reducer.tally == (
            sum(k & ~STRADDLES == USER_FETCH for k in kind),
            sum(k & ~STRADDLES == USER_WRITE for k in kind),
            sum(k & STRADDLES != 0 for k in kind),
        )
        reducer.next_chunk()


# Files.


@cache
def good(windows: int) -> bytes:
    """Return an .hvt file of so many windows, and no whole one at its end."""
    path = folder() / "good.hvt"
    gva, kind = array("Q"), array("B")
    for n in range((windows - 1) * WINDOW + 90):
        gva.append(0x40_0000 + n * n % 23 * 4096 + n % 4096)
        kind.append(KINDS[n * 7 % 11 % 3] | (STRADDLES if n % 50 == 49 else 0))
    with path.open("w+b") as file:
        writer = HvtWriter(file, "format=made\n")
        writer.add(gva, kind)
        writer.close()
    return path.read_bytes()


def damaged(content: bytes, draw: Drawn) -> bytes:
    """Change, drop, double and cut what bytes say, and mostly where the heads are."""
    made = bytearray(content)
    for _ in range(draw.randrange(4)):
        start = draw.choice((0, 0, max(content.find(b"HVTC"), 0)))
        near = draw.randrange(256) if draw.random() < 0.7 else draw.randrange(len(content) + 1)
        at, how = min(start + near, len(made)), draw.randrange(6)
        if how == 0:
            made[at : at + 1] = draw.take(1)
        elif how == 1:
            made[at : at + 4] = draw.choice((bytes(4), b"\xff" * 4, b"\0\0\0\x80", draw.take(4)))
        elif how == 2:
            made[at : at + 8] = draw.choice((bytes(8), b"\xff" * 8, draw.take(8)))
        elif how == 3:
            del made[at : at + draw.randrange(64)]
        elif how == 4:
            made[at:at] = made[at : at + draw.randrange(256)]
        else:
            del made[at:]
    return bytes(made)


def resealed(content: bytes) -> bytes:
    """Make the first chunk's CRCs right again, as an attacker would, over what its head tells."""
    start = content.find(b"HVTC")
    head = content[start : start + CHUNK_SIZE]
    if start < 0 or len(head) < CHUNK_SIZE:
        return content
    accesses, sites, kept = (struct.unpack_from("<I", head, 4 + 4 * at)[0] for at in (0, 4, 7))
    ends = 4 * -(-accesses // SPAN)
    size = sum(n + 7 & -8 for n in (2 * sites, 8 * sites, sites, ends, ends, ends, 2 * kept))
    body = content[start + CHUNK_SIZE :]
    (packed,) = struct.unpack_from("<I", head, 36)
    seals = zlib.crc32(body[: min(size, len(body))]), zlib.crc32(body[size:][:packed])
    return content[: start + 40] + struct.pack("<II", *seals) + content[start + 48 :]


def repacked(content: bytes, draw: Drawn) -> bytes:
    """Put another frame into the one chunk of a good file of one span, packed as it should be."""
    start = content.index(b"HVTC")
    head = list(struct.unpack_from("<10I", content, start + 4))
    sites, kept, packed = head[4], head[7], head[8]
    frames_at = len(content) - (packed + 7 & -8)
    frame = codec.zstd_unpack(content[frames_at : frames_at + packed], MOST_STORED)
    assert frame is not None
    if draw.random() < 0.3:
        frame = draw.take(max(1, draw.left))
    else:
        at = draw.randrange(len(frame) + 1)
        raw = draw.take(min(max(1, draw.left), draw.choice((1, 2, 8, 400))))
        frame = frame[:at] + raw + frame[at + draw.choice((0, len(raw), len(raw))) :]
    made = codec.zstd_pack(frame)
    head[8] = len(made)
    body = content[start + CHUNK_SIZE : frames_at]
    at = sum(n + 7 & -8 for n in (2 * sites, 8 * sites, sites, 4, 4))  # of the one frame's end
    body = body[:at] + struct.pack("<I", len(made)) + body[at + 4 :]
    whole = content[: start + 4] + struct.pack("<10I", *head) + content[start + 44 : start + 64]
    assert len(body) == at + 8 + (2 * kept + 7 & -8)
    return resealed(whole + body + made.ljust(len(made) + 7 & -8, b"\0"))


def problem(error: HvmmuError) -> str:
    """Return an error's message, which is one line, and keep the error for a while."""
    message = str(error)
    assert "\n" not in message, message
    error.kept = error  # type: ignore[attr-defined] - a cycle, as a frame that holds its error makes
    KEPT_ERRORS.append(error)
    if len(KEPT_ERRORS) == KEPT_ERRORS.maxlen:
        KEPT_ERRORS.clear()
        gc.collect()  # it breaks the cycles, and with them the frames
    return message


def read(path: Path) -> object:
    """Read a file as a run, `info` and `export` do; return what came of each."""
    came: list[object] = []
    try:
        for step in HvtTrace(path).steps():
            if not isinstance(step, ReducedAccesses):
                continue
            assert max(step.kept) < len(step.slot_gva) == len(step.slot_kind)
            assert all(step.slot_kind[slot] in KINDS for slot in step.kept)
            for part in step.whole():
                assert isinstance(part, Accesses)
                assert len(part.gva) == len(part.kind)
                assert not part.gva or USER_START <= min(part.gva) <= max(part.gva) < USER_END
                assert set(part.kind) <= set(KINDS)
                came.append((part.gva.tobytes(), part.kind.tobytes()))
    except HvmmuError as error:
        came.append(problem(error))
    try:
        with opened(path) as file:
            came.append(sum(chunk.head.accesses for chunk in file.verified()))
        text = io.BytesIO()
        with opened(path) as file:
            came.append(export(file, "lackey", text))
        came.append(text.getvalue())
    except HvmmuError as error:
        came.append(problem(error))
    return came


def run(path: Path) -> None:
    """Run a file on a bare machine, whose C handles stops inside spans."""
    machine = Machine(MachineConfig(NativeBackend, NativeBackend.params()))
    try:
        for step in HvtTrace(path).steps():
            machine.step(step)
    except HvmmuError as error:
        problem(error)
    finally:
        machine.close()


def hvt(content: bytes) -> None:
    """Read a damaged .hvt file, and run what can be read of it."""
    draw, path = Drawn(content), folder() / "damaged.hvt"
    how = draw.randrange(5)
    if how == 0:
        made = draw.take(max(draw.left, 0))
    elif how == 1:
        made = repacked(good(draw.choice((1, 1, 1, 1, 1, 1, 1, 3))), draw)
    else:
        made = damaged(good(draw.choice((1, 1, 1, 1, 1, 1, 1, 2))), draw)
        made = made if how == 2 else resealed(made)
    path.write_bytes(made)
    came = read(path)
    assert read(path) == came
    run(path)


TEXTS = {
    "lackey": b"==7== Command: /bin/x y\nI  00401000,3\n L 1fff000d78,8\n M 0421d008,4\n"
    b"I  00401ffe,5\n S 1fff000d78,8\n",
    "dynamorio": b"Output format:\n<--record#-> <--instr#->: <---tid---> <record details>\n----\n"
    b"           1           0:     3264837 <marker: version 6>\n"
    b"           2           1:     3264837 ifetch       3 byte(s) @ 0x0000000000401000 48\n"
    b"           3           1:     3264837 read         8 byte(s) @ 0x0000001fff000d78 by PC 0x4\n"
    b"View tool results:\n               2 : total instructions\n",
    "csv": b"kind,address,size\nfetch,0x401000,3\nread,0x1fff000d78,8\nM,0x421d008,4\nx, 42, 5\n",
    "champsim": struct.pack("<Q8x2Q4Q", 0x401000, 0x421D008, 0, 0x1FFF000D78, 0, 0, 0) * 3,
}
ODDS = (b",", b"\n", b"0x", b"-1", b"\r\n", b"99999999999999999999", b"\0", b"\xff", b"_", b" ",
        b"== ", b"7fffffffffff", b"1000", b"fff,", b"4096", b"00000000", b"I  ", b" S ", b"byte(s)",
        b"7ffffffff000,1", b"F", b"\xd9\xa1")  # fmt: skip


def text(draw: Drawn, name: str) -> bytes:
    """Return bytes that are nearly of a format."""
    lines = TEXTS[name].splitlines(keepends=True)
    made = b"".join(draw.choice(lines) for _ in range(draw.randrange(6)))
    for _ in range(draw.randrange(6)):
        at = draw.randrange(len(made) + 1)
        made = made[:at] + draw.choice(ODDS) + made[at + draw.randrange(3) :]
    return made


def packed(content: bytes, suffix: str) -> bytes:
    """Return content compressed as a name's ending says."""
    out = io.BytesIO()
    file = codec.writer(out, suffix)
    if file is None:
        return content
    with file:
        file.write(content)
    return out.getvalue()


def imported(path: Path, name: str | None) -> object:
    """Import a file; return the .hvt file's bytes, or what was wrong."""
    out = folder() / "imported"
    out.mkdir(exist_ok=True)
    made = out / "x.hvt"
    try:
        import_trace(path, None, made, fmt=name)
    except HvmmuError as error:
        assert not list(out.iterdir())
        return problem(error)
    came = made.read_bytes()
    with opened(made) as file:
        assert sum(chunk.head.accesses for chunk in file.verified()) == file.header.accesses
    made.unlink()
    return came


def imports(content: bytes) -> None:
    """Import nearly a trace, packed or not, by name or as it is recognised."""
    draw, path = Drawn(content), folder() / "foreign"
    name = draw.choice(sorted(TEXTS))
    how, suffix = draw.randrange(8), draw.choice(("", "", "", *codec.SUFFIXES))
    made = draw.take(max(draw.left, 0)) if how & 1 else text(draw, name)
    made = packed(made, suffix)
    path.write_bytes(damaged(made, draw) if how & 2 and made else made)
    explicit = None if how & 4 else name
    assert imported(path, explicit) == imported(path, explicit)


TARGETS: dict[str, Callable[[bytes], None]] = {
    target.__name__: target for target in (engines, guests, tokens, frames, reduce, hvt, imports)
}
