"""The compact trace as a file: what comes back, what is refused, and how much memory it takes."""

from __future__ import annotations

import lzma
import os
import struct
import subprocess
import sys
import tracemalloc
import zlib
from array import array
from itertools import chain
from pathlib import Path
from typing import TYPE_CHECKING, Any

import attrs
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from hvmmu import _plugins as plugins
from hvmmu._core.engine import CompiledEngine
from hvmmu._mmu_params import MmuParams
from hvmmu._trace import codec
from hvmmu._trace.grammar import MOST_STORED, SPAN, SPAN_WINDOWS, STRADDLES, WINDOW
from hvmmu._trace.hvt import HvtTrace
from hvmmu._trace.hvt.import_trace import import_trace
from hvmmu._trace.hvt.layout import CHUNK_SIZE, HEADER_SIZE, read_chunk_head
from hvmmu._trace.hvt.reader import opened
from hvmmu._trace.hvt.writer import HvtWriter
from hvmmu._trace.lackey import LackeyTrace
from hvmmu._trace.magic import HVT_MAGIC as MAGIC
from hvmmu._trace.page_slots import PageSlots, all_within
from hvmmu._trace.trace_formats import Hvt
from hvmmu.arch.pfec import USER_FETCH, USER_READ, USER_WRITE
from hvmmu.costs import cost_model
from hvmmu.errors import InputError, TraceError
from hvmmu.machine import Machine, MachineConfig
from hvmmu.spec.engine import ReferenceEngine
from hvmmu.steps import Accesses, ReducedAccesses
from hvmmu.types import PAGE_SLOTS
from hvmmu.workloads import open_workload

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

SHIPPED = Path(open_workload().path)  # type: ignore[attr-defined]
DIGEST = "cf0babad01e6f4b8616366f6f1b3bca1257711f618cc7636ad00bd9c48f45141"
"""The sha256 in the header of the bundled trace, format version 3."""
NIGHTLY = os.environ.get("HYPOTHESIS_PROFILE") == "nightly"
PART = None if NIGHTLY else 60_000
"""References of the longer traces."""
ENGINES = [ReferenceEngine, CompiledEngine]
KINDS = (USER_READ, USER_WRITE, USER_FETCH)
CRC = 40
PACKED_CRC = 44
"""Where in a chunk's head its CRC is; before it are ten numbers, from 4 on."""


@pytest.fixture(scope="module")
def shipped(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return the trace that comes with hvmmu as an .hvt file."""
    path = tmp_path_factory.mktemp("shipped") / "dd.hvt"
    import_trace(SHIPPED, None, path)
    return path


def small(path: Path, windows: int = 3) -> bytes:
    """Write a file of a few windows, and return its bytes."""
    gva, kind = array("Q"), array("B")
    for n in range(windows * WINDOW - 7):
        gva.append(0x40_0000 + n * n % 23 * 4096 + n % 4096)
        kind.append(KINDS[n * 7 % 11 % 3])
    with path.open("w+b") as file:
        writer = HvtWriter(file, "format=made\n")
        writer.add(gva, kind)
        writer.close()
    return path.read_bytes()


def whole(path: Path, limit: int | None = None) -> tuple[list[int], list[int]]:
    """Read pages and kinds of all accesses, those left out among them."""
    pages: list[int] = []
    kinds: list[int] = []
    for step in Hvt.open(path, limit).steps():
        parts = step.whole() if isinstance(step, ReducedAccesses) else [step]
        for part in parts:
            if isinstance(part, Accesses):
                pages += [gva >> 12 for gva in part.gva]
                kinds += part.kind
    return pages, kinds


def lackey(path: Path, limit: int | None = None) -> tuple[list[int], list[int]]:
    """Read the same of a lackey trace."""
    pages: list[int] = []
    kinds: list[int] = []
    for step in LackeyTrace(path, limit).steps():
        if isinstance(step, Accesses):
            pages += [gva >> 12 for gva in step.gva]
            kinds += step.kind
    return pages, kinds


def configs() -> Iterator[Any]:
    """Yield all backends, with vpid and update_on_write on and off."""
    for name, backend in plugins.load().backends.items():
        for on in (False, True):
            values = {"vpid": on} if hasattr(backend.params(), "vpid") else {}
            mmu = MmuParams(update_on_write=on)
            yield pytest.param(
                MachineConfig(backend, backend.params(**values), mmu), id=f"{name}-{on:d}"
            )


def result(config: MachineConfig, path: Path, limit: int | None) -> dict[str, Any]:
    """Run a trace; return all that the result document has."""
    machine = Machine(config)
    try:
        for step in open_workload(str(path), limit=limit).steps():
            machine.step(step)
        return machine.result(cost_model("nehalem")).to_json()
    finally:
        machine.close()


@pytest.mark.parametrize("config", list(configs()))
@pytest.mark.parametrize("name", ["dd", "python", "sort"])
def test_same_results_as_the_lackey_trace(
    config: MachineConfig, name: str, traces: Path, shipped: Path, tmp_path: Path
) -> None:
    """A real program's counters, cycles or digests depend on the form of its trace."""
    source = SHIPPED if name == "dd" else traces / f"{name}.lackey.xz"
    made, limit = shipped, None if name == "dd" else PART
    if name != "dd":
        made = tmp_path / f"{name}.hvt"
        import_trace(source, None, made, limit=limit)
    assert result(config, made, limit) == result(config, source, limit)


@pytest.mark.parametrize("limit", [1, 4096, 100_000, 214_401, 217_895, 1 << 40])
def test_limits_count_references(shipped: Path, limit: int) -> None:
    """A limit cuts a compact trace elsewhere than the trace it was made of."""
    assert whole(shipped, limit) == lackey(SHIPPED, limit)


@pytest.mark.parametrize("after", [0, 1, 9])
def test_a_reference_across_chunks(
    tmp_path: Path, after: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A file cannot be read, or a limit loses a page, where a chunk begins inside a reference."""
    monkeypatch.setattr("hvmmu._trace.hvt.writer.SPANS", 2)
    source, made = tmp_path / "x.lackey", tmp_path / "x.hvt"
    first = 2 * SPAN - 1
    lines = b" L 00405000,4\n" * first + b" S 00401ffe,4\n" + b" L 00601ffc,8\n" * after
    source.write_bytes(lines)
    import_trace(source, None, made)
    with opened(made) as file:
        assert sum(len(kind) for _, kind in file.windows()) == file.header.accesses
        assert file.header.chunks == 2
    for limit in (first, first + 1, first + 2, None):
        assert whole(made, limit) == lackey(source, limit)


def test_size(shipped: Path) -> None:
    """The file takes more than was promised: 0.3 bytes a reference, 0.11 if it is packed."""
    references = 217_895
    content = shipped.read_bytes()
    assert len(content) < 0.3 * references
    assert len(lzma.compress(content)) < 0.11 * references


def test_same_input_same_bytes(shipped: Path, tmp_path: Path) -> None:
    """The file depends on its name, the time, or how it was read."""
    again = tmp_path / "other.hvt"
    with lzma.open(SHIPPED) as file:
        import_trace(None, file, again)  # type: ignore[arg-type]
    assert again.read_bytes() == shipped.read_bytes()


def test_the_format_stays(shipped: Path) -> None:
    """The same trace has another digest than in earlier versions: the reduction has changed."""
    with opened(shipped) as file:
        assert file.header.sha256.hex() == DIGEST


@pytest.mark.parametrize("suffix", codec.SUFFIXES)
def test_packed_files(shipped: Path, tmp_path: Path, suffix: str) -> None:
    """A compact trace that was packed is no trace any more, or is packed as something else."""
    packed = tmp_path / f"dd.hvt{suffix}"
    import_trace(SHIPPED, None, packed)
    assert b"".join(codec.blocks(packed)) == shipped.read_bytes()
    assert whole(packed, 5000) == lackey(SHIPPED, 5000)


def test_header(shipped: Path) -> None:
    """What is told about a trace is not what is in it."""
    with opened(shipped) as file:
        chunks = list(file.verified())
        head = file.header
    pages, kinds = lackey(SHIPPED)
    assert (head.references, head.accesses) == (217_895, len(pages))
    assert (head.fetches, head.reads, head.writes) == tuple(map(kinds.count, (0x14, 4, 6)))
    assert head.pages == len(set(pages)) == 216
    assert head.span_kept == sum(len(chunk.reduced().kept) for chunk in chunks)
    assert head.most_chunk == shipped.stat().st_size - HEADER_SIZE - 72
    assert "format=lackey\ncommand=/bin/dd if=/dev/zero" in head.provenance


def refused(path: Path) -> TraceError:
    """Read a file to its end as a run and as `info` do; return the one-line error."""
    with pytest.raises(TraceError) as caught:  # noqa: PT012 - either may find it
        whole(path)
        with opened(path) as file:
            for _ in file.windows():
                pass
    assert "\n" not in str(caught.value)
    return caught.value


def resealed(content: bytes, at: int, change: bytes) -> bytes:
    """Change bytes of a file's first chunk and make its CRC right again, as an attacker would."""
    start = content.index(b"HVTC")
    changed = bytearray(content)
    changed[start + at : start + at + len(change)] = change
    reseal(changed, start)
    return bytes(changed)


def reseal(content: bytearray, start: int) -> None:
    """Make the CRC of the chunk at *start* right: that of the columns before the frames."""
    accesses, _, _, _, sites, _, _, kept, _ = struct.unpack_from("<9I", content, start + 4)
    ends = 4 * -(-accesses // SPAN)
    size = sum(n + 7 & -8 for n in (2 * sites, 8 * sites, sites, ends, ends, ends, 2 * kept))
    body = memoryview(content)[start + CHUNK_SIZE :][: min(size, len(content))]
    struct.pack_into("<I", content, start + CRC, zlib.crc32(body))
    packed = struct.unpack_from("<I", content, start + 36)[0]
    frames = memoryview(content)[start + CHUNK_SIZE + size :][: min(packed, len(content))]
    struct.pack_into("<I", content, start + PACKED_CRC, zlib.crc32(frames))


def columns(content: bytes) -> list[int]:
    """Return where each column of a file's first chunk starts in the chunk, and the last ends."""
    start = content.index(b"HVTC")
    head = read_chunk_head(content[start : start + CHUNK_SIZE])
    sizes = *head.columns, head.packed
    starts = [CHUNK_SIZE]
    for size in sizes:
        starts.append(starts[-1] + (size + 7 & -8))
    return [*starts[:-1], starts[-2] + sizes[-1]]


SLOTS, GVA, KIND, REFERENCE_ENDS, KEPT_ENDS, FRAME_ENDS, KEPT, FRAMES, FRAMES_END = range(9)
"""The columns, in their order."""


def test_damaged_files(tmp_path: Path) -> None:
    """A file that was cut, changed, or goes on after its end is run as if it were whole."""
    path = tmp_path / "x.hvt"
    content = small(path)
    start, at_column = content.index(b"HVTC"), columns(content)
    for cut in (9, HEADER_SIZE - 1, start - 1, start + 5, start + CHUNK_SIZE + 9, len(content) - 1):
        path.write_bytes(content[:cut])
        assert "cut short" in refused(path).what or cut < HEADER_SIZE
    path.write_bytes(content + b"\0")
    assert "goes on" in refused(path).what
    for at in range(CHUNK_SIZE, at_column[FRAMES_END], 97):
        path.write_bytes(flipped(content, start + at))
        assert "chunk 1" in str(refused(path))
        assert ("CRC" if at < at_column[FRAMES] else "span") in refused(path).what


def flipped(content: bytes, at: int) -> bytes:
    """Return content with one bit of it changed."""
    return content[:at] + bytes([content[at] ^ 1]) + content[at + 1 :]


CHANGES = [
    (0, b"XXXX", "head is damaged"),
    (4, struct.pack("<I", 1 << 31), "head is damaged"),
    (4, struct.pack("<I", WINDOW), "too few accesses"),
    (4, struct.pack("<II", WINDOW - 8, WINDOW - 8), "out of order"),
    (20, struct.pack("<I", 1 << 31), "head is damaged"),
    (28, struct.pack("<I", 1 << 31), "head is damaged"),
    (28, struct.pack("<I", 9), "head is damaged"),
    (32, struct.pack("<I", 1 << 31), "head is damaged"),
    (36, struct.pack("<I", 1 << 31), "head is damaged"),
    (32, struct.pack("<I", 9), "out of order"),
    (36, struct.pack("<I", 9), "out of order"),
]


def read_within(path: Path, memory: int = 16 << 20) -> str:
    """Read a file that is refused; return what is wrong with it."""
    tracemalloc.start()
    said = refused(path).what
    most = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert most < memory
    return said


@pytest.mark.parametrize(("at", "change", "said"), CHANGES)
def test_hostile_chunks(tmp_path: Path, at: int, change: bytes, said: str) -> None:
    """A made-up count takes memory, or is believed."""
    path = tmp_path / "x.hvt"
    path.write_bytes(resealed(small(path, 1), at, change))
    assert said in read_within(path)


COLUMNS = [
    (SLOTS, bytes(8), "not listed"),
    (GVA, struct.pack("<Q", 0), "not in the user half"),
    (GVA, struct.pack("<Q", 1 << 63), "not in the user half"),
    (GVA, struct.pack("<Q", (1 << 47) - 4096), "not in the user half"),
    (KIND, b"\x07", "unknown kind"),
    (KIND, b"\0", "unknown kind"),
    (KEPT_ENDS, b"\xff\xff\xff\xff", "out of order"),
    (KEPT_ENDS, bytes(4), "keeps no access"),
    (KEPT_ENDS + 0.5, bytes(4), "out of order"),
    (FRAME_ENDS, b"\xff\xff\xff\xff", "out of order"),
    (FRAME_ENDS, bytes(4), "does not decompress"),
    (FRAME_ENDS, b"\1\0\0\0", "does not decompress"),
    (KEPT, b"\xff\xff", "not listed"),
    (FRAMES, bytes(16), "does not decompress"),
]


@pytest.mark.parametrize(("at", "change", "said"), COLUMNS)
def test_hostile_columns(tmp_path: Path, at: float, change: bytes, said: str) -> None:
    """An address of nobody's reaches the guest, or a column that is none ends in a traceback."""
    path = tmp_path / "x.hvt"
    content = small(path, SPAN_WINDOWS + 2)
    start = columns(content)[int(at)] + (4 if at % 1 else 0)  # of two spans
    path.write_bytes(resealed(content, start, change))
    assert said in read_within(path)


def reframed(content: bytes, change: Callable[[bytes], bytes]) -> bytes:
    """Put another frame into a file of one span, packed and sealed as it should be."""
    start, at = content.index(b"HVTC"), columns(content)
    frame = codec.zstd_unpack(content[start + at[FRAMES] : start + at[FRAMES_END]], MOST_STORED)
    assert frame is not None
    packed = codec.zstd_pack(change(frame))
    made = bytearray(content[: start + at[FRAMES]] + packed.ljust(len(packed) + 7 & -8, b"\0"))
    struct.pack_into("<I", made, start + 36, len(packed))
    struct.pack_into("<I", made, start + at[FRAME_ENDS], len(packed))
    reseal(made, start)
    return bytes(made)


WINDOWS = 3
MASK = 4 * WINDOWS


def one_more(frame: bytes) -> bytes:
    """Return a frame whose first window tells of one more near access."""
    (near,) = struct.unpack_from("<H", frame)
    return struct.pack("<H", near + 1) + frame[2:]


def tokens_of(frame: bytes) -> int:
    """Return where a frame's tokens start."""
    return len(frame) - sum(struct.unpack_from("<6H", frame)[1::2])


def with_tokens(first: bytes) -> Callable[[bytes], bytes]:
    """Return what puts tokens in front of a window that begins with a kept access."""

    def change(frame: bytes) -> bytes:
        at = tokens_of(frame)
        assert frame[at] == 7 * 32  # near, and no fetch before it
        return frame[:at] + first + frame[at + len(first) :]

    return change


FRAME_CHANGES: dict[str, tuple[Callable[[bytes], bytes], str]] = {
    "empty": (lambda _: b"", "another size than its counts say"),
    "counts alone": (lambda frame: frame[:MASK], "another size than its counts say"),
    "cut": (lambda frame: frame[:-1], "another size than its counts say"),
    "longer": (lambda frame: frame + b"\0", "another size than its counts say"),
    "too long": (lambda frame: frame + bytes(MOST_STORED), "does not decompress"),
    "a bomb": (lambda _: bytes(256 << 20), "does not decompress"),
    "no near access": (lambda frame: bytes(2) + frame[2:], "keeps no access"),
    "too many near ones": (lambda frame: b"\1\x10" + frame[2:], "keeps no access"),
    "one more near access": (one_more, "another size than its counts say"),
    "none is kept": (
        lambda frame: frame[:MASK] + bytes(200) + frame[MASK + 200 :],
        "another size than its counts say",
    ),
    "all are kept": (
        lambda frame: frame[:MASK] + b"\xff" * 200 + frame[MASK + 200 :],
        "another size than its counts say",
    ),
    "a site that is not listed": (
        lambda frame: frame[: tokens_of(frame) - 2] + b"\xff\xff" + frame[tokens_of(frame) :],
        "not listed",
    ),
    "a fetch of nothing": (with_tokens(bytes([7 * 32 + 1])), "a fetch repeats none"),
    "a turn to nothing": (with_tokens(bytes([240])), "a fetch repeats none"),
    "a read of nothing": (with_tokens(bytes(1)), "a data access repeats none"),
    "nothing": (with_tokens(bytes([239])), "too few accesses"),
}


@pytest.mark.parametrize("name", FRAME_CHANGES)
def test_hostile_frames(tmp_path: Path, name: str) -> None:
    """A span that no reduction made gives accesses out of nowhere, or takes memory."""
    path, (change, said) = tmp_path / "x.hvt", FRAME_CHANGES[name]
    path.write_bytes(reframed(small(path, WINDOWS), change))
    assert said in read_within(path)
    config = next(configs()).values[0]
    for engine in ENGINES:
        with pytest.raises(TraceError, match=said) as caught:
            result(attrs.evolve(config, engine=engine), path, None)
        assert "chunk 1" in str(caught.value)


def test_a_damaged_frame_never_changes_a_result(tmp_path: Path) -> None:
    """A bit that flipped on a disk changes what is counted, or `trace info` overlooks it.

    The frames of spans where nothing stops are not looked at by a run.
    """
    path, config = tmp_path / "x.hvt", next(configs()).values[0]
    content = small(path, 3 * SPAN_WINDOWS)
    good, at = result(config, path, None), columns(content)
    start, came = content.index(b"HVTC"), set()
    for byte in range(at[FRAMES], at[FRAMES_END], 1 + (at[FRAMES_END] - at[FRAMES]) // 40):
        path.write_bytes(flipped(content, start + byte))
        with pytest.raises(TraceError, match="the CRC of its spans"), opened(path) as file:
            list(file.windows())
        try:
            came.add("the same")
            assert result(config, path, None) == good
        except TraceError as error:
            came.add("refused")
            assert "\n" not in str(error)  # noqa: PT017 - not every run looks there
    assert came == {"the same", "refused"}


GOES_ON = """
import gc, sys
from pathlib import Path
from hvmmu._core.engine import CompiledEngine
from hvmmu._native import NativeBackend
from hvmmu.errors import TraceError
from hvmmu.machine import Machine, MachineConfig
from hvmmu.spec.engine import ReferenceEngine
from hvmmu.workloads import open_workload

def run(engine, path):
    machine = Machine(MachineConfig(NativeBackend, NativeBackend.params(), engine=engine))
    for step in open_workload(path).steps():
        machine.step(step)

def read(path):
    for step in open_workload(path).steps():
        list(getattr(step, "whole", list)())

def fail(do, *args):
    try:
        do(*args)
    except TraceError as error:
        kept = error  # a cycle: error, traceback, frame
    return kept is None

for path in sys.argv[1:]:
    for engine in (CompiledEngine, ReferenceEngine):
        fail(run, engine, path)
        gc.collect()
    fail(read, path)
    gc.collect()
"""


def test_the_process_goes_on_after_damaged_files(tmp_path: Path) -> None:
    """CPython before 3.12.4 dies when it collects a memoryview that C still has a buffer of."""
    paths = [tmp_path / f"{nth}.hvt" for nth in range(len(FRAME_CHANGES))]
    for path, (change, _) in zip(paths, FRAME_CHANGES.values(), strict=True):
        path.write_bytes(reframed(small(path, WINDOWS), change))
    command = [sys.executable, "-c", GOES_ON, *map(str, paths)]
    ended = subprocess.run(command, capture_output=True, text=True, check=False)
    assert (ended.returncode, ended.stderr) == (0, "")


def test_second_pages_that_are_none(tmp_path: Path) -> None:
    """An access that claims to go on from another ends an export in a traceback, or is believed."""
    path = tmp_path / "x.hvt"
    page = 0x40_0000
    for gva, kind in (
        ([page], [KINDS[0] | STRADDLES]),
        ([page, page + 8192], [KINDS[0], KINDS[0] | STRADDLES]),
        ([page, page + 4096], [KINDS[0], KINDS[1] | STRADDLES]),
        ([page, page + 4096, page + 8192], [KINDS[0]] + [KINDS[0] | STRADDLES] * 2),
    ):
        with path.open("w+b") as file:
            writer = HvtWriter(file, "")
            writer.add(array("Q", gva), array("B", kind))
            writer.close()
        assert "first" in refused(path).what or not writer.references


@pytest.mark.parametrize(
    ("at", "of_all", "less", "said"),
    [
        (12, 72, 1, "other kinds than its head says"),  # fetches
        (16, 80, 1, "other kinds than its head says"),  # writes
        (8, 40, 1, "its spans are out of order"),  # references
        (28, 56, -1, "its windows keep other accesses than its head says"),  # near accesses
    ],
)
def test_counts_that_are_others(tmp_path: Path, at: int, of_all: int, less: int, said: str) -> None:
    """`hvmmu trace info` tells what is not so, though header and head agree on it."""
    path = tmp_path / "x.hvt"
    content = bytearray(small(path, 1))
    for form, place in (("<I", content.index(b"HVTC") + at), ("<Q", of_all)):
        (told,) = struct.unpack_from(form, content, place)
        struct.pack_into(form, content, place, told - less)
    path.write_bytes(content)
    assert said in read_to_the_end(path)


def test_references_that_are_others(tmp_path: Path) -> None:
    """A limit is cut by what a span tells, and nobody finds that it is not so."""
    path = tmp_path / "x.hvt"
    content = bytearray(resealed(small(path, 1), 4, struct.pack("<II", WINDOW - 8, WINDOW - 8)))
    place = content.index(b"HVTC") + columns(bytes(content))[REFERENCE_ENDS]
    for told, said in ((WINDOW - 8, "too many accesses"), (WINDOW - 7, "out of order")):
        struct.pack_into("<I", content, place, told)
        reseal(content, content.index(b"HVTC"))
        path.write_bytes(content)
        assert said in refused(path).what
    content = bytearray(small(path, 1))
    start = content.index(b"HVTC")
    for at in (start + 8, start + columns(bytes(content))[REFERENCE_ENDS]):
        (told,) = struct.unpack_from("<I", content, at)
        struct.pack_into("<I", content, at, told - 1)
    struct.pack_into("<Q", content, 40, told - 1)
    reseal(content, start)
    path.write_bytes(content)
    assert "a span has other references than its chunk says" in read_to_the_end(path)


def read_to_the_end(path: Path) -> str:
    """Read all of a file, but not its digest; return what is wrong with it."""
    with pytest.raises(TraceError) as caught, opened(path) as file:
        list(chain.from_iterable(chunk.windows() for chunk in file.chunks()))
    return caught.value.what


HEADERS = [
    (0, b"\x09", "changed on its way"),
    (4, b"\n\x1a\n", "changed on its way"),
    (8, b"\2\0", "version 2, and this hvmmu reads version 3"),
    (8, b"\4\0", "version 4"),
    (10, b"\1\2", "order"),
    (12, b"\1", "damaged header"),
    (16, bytes(4), "with other filters"),
    (20, b"\3", "with other filters"),
    (24, b"\3", "with other filters"),
    (26, b"\2", "with other filters"),
    (28, b"\2", "damaged header"),
    (28, b"\xff\xff", "damaged header"),
    (32, b"\2", "cut short"),
    (40, b"\1", "other counts"),
    (40, bytes(8), "no references"),
    (56, b"\1", "other counts"),
    (64, b"\1", "other counts"),
]


@pytest.mark.parametrize(("at", "change", "said"), HEADERS)
def test_headers(tmp_path: Path, at: int, change: bytes, said: str) -> None:
    """A header from elsewhere, or of a later version, is believed."""
    path = tmp_path / "x.hvt"
    content = bytearray(small(path))
    content[at : at + len(change)] = change
    path.write_bytes(content)
    assert said in refused(path).what


def test_a_wrong_digest(tmp_path: Path) -> None:
    """`hvmmu trace info` calls a file good that holds other accesses than were imported."""
    path = tmp_path / "x.hvt"
    content = bytearray(small(path))
    content[HEADER_SIZE - 1] ^= 1
    path.write_bytes(content)
    assert "sha256" in refused(path).what


@settings(deadline=None, max_examples=150)
@given(data=st.data())
def test_noise(data: st.DataObject, tmp_path_factory: pytest.TempPathFactory) -> None:
    """Some file ends the reader in a traceback instead of one line."""
    path = tmp_path_factory.getbasetemp() / "noise.hvt"
    good = tmp_path_factory.getbasetemp() / "good.hvt"
    content = bytearray(good.read_bytes() if good.exists() else small(good, 1))
    start = content.index(b"HVTC")
    for _ in range(data.draw(st.integers(1, 4))):
        at = data.draw(st.integers(0, len(content) - 1))
        content[at] = data.draw(st.integers(0, 255))
    if data.draw(st.booleans()):
        content[: len(MAGIC)] = MAGIC
        reseal(content, start)
    path.write_bytes(content[: data.draw(st.integers(0, len(content)))])
    try:
        whole(path)
        with opened(path) as file:
            for _ in file.windows():
                pass
    except TraceError as error:
        assert "\n" not in str(error)  # noqa: PT017 - some noise is a good file


@given(gva=st.lists(st.integers(0, (1 << 64) - 1) | st.sampled_from([9, 10, 19, 20]), max_size=9))
def test_addresses_within(gva: list[int]) -> None:
    """An address of the kernel's half is taken from a file."""
    assert all_within(array("Q", gva), 10, 20) == all(10 <= va < 20 for va in gva)


@given(
    kept=st.lists(st.integers(0, PAGE_SLOTS - 1) | st.integers(0, 9), max_size=40),
    unlisted=st.lists(st.integers(0, PAGE_SLOTS - 1) | st.integers(0, 9), max_size=40),
)
def test_sites_that_are_listed(kept: list[int], unlisted: list[int]) -> None:
    """A chunk with a site that is not listed is read."""
    slots = PageSlots(array("Q"), bytearray(b"\x04") * PAGE_SLOTS)
    for slot in unlisted:
        slots.kind[slot] = 0
    assert slots.count_listed(array("H", kept)) == sum(slot not in unlisted for slot in kept)


def test_chunks_go_on_with_the_sites_of_those_before(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A long trace lists its pages again and again, or a chunk is read with another's pages."""
    monkeypatch.setattr("hvmmu._trace.hvt.writer.SPANS", 8)
    path = tmp_path / "x.hvt"
    content = small(path, 140)
    with opened(path) as file:
        heads = [chunk.head for chunk in file.verified()]
    assert [head.listed_before for head in heads] == [0, heads[0].listed, heads[0].listed]
    assert [head.listed for head in heads[1:]] == [0, 0]
    pages, kinds = whole(path)
    assert pages == [0x400 + n * n % 23 for n in range(140 * WINDOW - 7)]
    assert kinds == [KINDS[n * 7 % 11 % 3] for n in range(140 * WINDOW - 7)]
    second = content.index(b"HVTC", content.index(b"HVTC") + 1)
    for known in (0, 1, heads[0].listed + 1):
        changed = bytearray(content)
        changed[second + 24 : second + 28] = struct.pack("<I", known)
        path.write_bytes(changed)
        assert refused(path).what in ("its head is damaged", "a chunk before it is missing")


def test_chunks_end_when_their_sites_do(tmp_path: Path) -> None:
    """A trace that touches ever new pages does not fit its columns."""
    path = tmp_path / "x.hvt"
    count = 30 * WINDOW
    gva = array("Q", (0x1000_0000 + n * 4096 for n in range(count)))
    with path.open("w+b") as file:
        writer = HvtWriter(file, "x" * 5000)
        writer.add(gva, array("B", [6] * count))
        writer.close()
    with opened(path) as file:
        sites = [chunk.head.listed for chunk in file.verified()]
        assert file.header.pages == count
        assert file.header.provenance == "x" * 4096
    assert len(sites) == 2
    assert max(sites) <= 1 << 16
    assert whole(path)[0] == [va >> 12 for va in gva]


def test_memory_does_not_grow_with_the_trace(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A long trace fills the memory of who writes or reads it."""
    monkeypatch.setattr("hvmmu._trace.hvt.writer.SPANS", 2)

    def peak(windows: int) -> int:
        path = tmp_path / "long.hvt"
        gva = array("Q", (0x40_0000 + n * n % 977 * 4096 for n in range(WINDOW)))
        kind = array("B", [4] * WINDOW)
        tracemalloc.start()
        with path.open("w+b") as file:
            writer = HvtWriter(file, "")
            for _ in range(windows):
                writer.add(gva, kind)
            writer.close()
        for _ in HvtTrace(path).steps():
            pass
        most = tracemalloc.get_traced_memory()[1]
        tracemalloc.stop()
        return most

    assert peak(512) < peak(128) * 1.1


@pytest.mark.parametrize("name", ["x.trace", "x", "x.hvt.bz2", "x.xz"])
def test_names(tmp_path: Path, name: str) -> None:
    """A reduced trace is written under a name that promises another format."""
    with pytest.raises(InputError, match=r"end the name in \.hvt"):
        import_trace(SHIPPED, None, tmp_path / name)
    assert not list(tmp_path.iterdir())
