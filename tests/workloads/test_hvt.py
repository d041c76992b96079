"""The compact trace as a file: what comes back, what is refused, and how much memory it takes."""

from __future__ import annotations

import lzma
import os
import struct
import tracemalloc
import zlib
from array import array
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from hvmmu import plugins
from hvmmu.costs import cost_model
from hvmmu.errors import InputError, TraceError
from hvmmu.guest.steps import Accesses, Reduced
from hvmmu.machine import Machine, MachineConfig
from hvmmu.mmu.params import MmuParams
from hvmmu.workloads import codec, open_workload
from hvmmu.workloads.formats import Hvt
from hvmmu.workloads.hvt import HvtTrace, fastest
from hvmmu.workloads.hvt.layout import CHUNK_SIZE, HEADER_SIZE, WINDOWS
from hvmmu.workloads.hvt.making import import_trace
from hvmmu.workloads.hvt.reading import opened
from hvmmu.workloads.hvt.reduction import (
    KINDS,
    MOST_SITES,
    SECOND,
    WINDOW,
    DamagedError,
    PythonReducer,
    Sites,
    python_expand,
)
from hvmmu.workloads.hvt.writing import HvtWriter
from hvmmu.workloads.lackey import LackeyTrace
from hvmmu.workloads.magic import HVT_MAGIC as MAGIC

if TYPE_CHECKING:
    from collections.abc import Iterator

SHIPPED = Path(open_workload().path)  # type: ignore[attr-defined]
NIGHTLY = os.environ.get("HYPOTHESIS_PROFILE") == "nightly"
PART = None if NIGHTLY else 60_000
"""References of the longer traces."""


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
        parts = step.whole() if isinstance(step, Reduced) else [step]
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
def test_a_reference_across_chunks(tmp_path: Path, after: int) -> None:
    """A file cannot be read, or a limit loses a page, where a chunk begins inside a reference."""
    source, made = tmp_path / "x.lackey", tmp_path / "x.hvt"
    first = WINDOWS * WINDOW - 1
    lines = b" L 00405000,4\n" * first + b" S 00401ffe,4\n" + b" L 00601ffc,8\n" * after
    source.write_bytes(lines)
    import_trace(source, None, made)
    with opened(made) as file:
        assert sum(len(kind) for _, kind in file.windows()) == file.header.accesses
        assert file.header.chunks == 2
    for limit in (first, first + 1, first + 2, None):
        assert whole(made, limit) == lackey(source, limit)


def test_size(shipped: Path) -> None:
    """The file takes more than was promised: 0.3 bytes a reference, 0.1 if it is packed."""
    references = 217_895
    content = shipped.read_bytes()
    assert len(content) < 0.3 * references
    assert len(lzma.compress(content)) < 0.1 * references


def test_same_input_same_bytes(shipped: Path, tmp_path: Path) -> None:
    """The file depends on its name, the time, how it was read, or whether C or Python made it."""
    again = tmp_path / "other.hvt"
    with lzma.open(SHIPPED) as file:
        import_trace(None, file, again)  # type: ignore[arg-type]
    assert again.read_bytes() == shipped.read_bytes()


@pytest.mark.skipif(fastest.compiled is None, reason="no compiler where this was installed")
def test_python_makes_the_same_bytes(
    shipped: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A file made where there is no compiler is another, or reads otherwise."""
    monkeypatch.setattr(fastest, "compiled", None)
    monkeypatch.setattr("hvmmu.workloads.lackey.plain_lines", None)
    again = tmp_path / "again.hvt"
    import_trace(SHIPPED, None, again)
    assert again.read_bytes() == shipped.read_bytes()
    assert whole(again) == lackey(SHIPPED)


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
    assert head.kept == sum(len(chunk.reduced().kept) for chunk in chunks)
    assert head.most_chunk == shipped.stat().st_size - HEADER_SIZE - 72
    assert "format=lackey\ncommand=/bin/dd if=/dev/zero" in head.words


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
    body = bytes(changed[start + CHUNK_SIZE :])
    changed[start + 36 : start + 40] = struct.pack("<I", zlib.crc32(body))
    return bytes(changed)


def test_damaged_files(tmp_path: Path) -> None:
    """A file that was cut, changed, or goes on after its end is run as if it were whole."""
    path = tmp_path / "x.hvt"
    content = small(path)
    start = content.index(b"HVTC")
    for cut in (9, HEADER_SIZE - 1, start - 1, start + 5, start + CHUNK_SIZE + 9, len(content) - 1):
        path.write_bytes(content[:cut])
        assert "cut short" in refused(path).what or cut < HEADER_SIZE
    path.write_bytes(content + b"\0")
    assert "goes on" in refused(path).what
    for at in range(start + CHUNK_SIZE, len(content), 97):
        path.write_bytes(content[:at] + bytes([content[at] ^ 1]) + content[at + 1 :])
        assert "chunk 1" in str(refused(path))
        assert "CRC" in refused(path).what


CHANGES = [
    (0, b"XXXX", "head is damaged"),
    (4, struct.pack("<I", 1 << 31), "head is damaged"),
    (4, struct.pack("<I", WINDOW), "too few accesses"),
    (20, struct.pack("<I", 1 << 31), "head is damaged"),
    (28, struct.pack("<I", 1 << 31), "head is damaged"),
    (32, struct.pack("<I", 1 << 31), "head is damaged"),
    (28, struct.pack("<I", 9), "out of order"),
    (CHUNK_SIZE, struct.pack("<Q", 0), "not in the user half"),
    (CHUNK_SIZE, struct.pack("<Q", 1 << 63), "not in the user half"),
]


@pytest.mark.parametrize(("at", "change", "said"), CHANGES)
def test_hostile_chunks(tmp_path: Path, at: int, change: bytes, said: str) -> None:
    """A made-up count takes memory, or a made-up address reaches the guest."""
    path = tmp_path / "x.hvt"
    path.write_bytes(resealed(small(path, 1), at, change))
    tracemalloc.start()
    assert said in refused(path).what
    most = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert most < 16 << 20


def test_hostile_columns(tmp_path: Path) -> None:
    """A site that is none, a kind that is none, or tokens that fit nothing, end in a traceback."""
    path = tmp_path / "x.hvt"
    content = small(path)
    start = content.index(b"HVTC")
    head = struct.unpack_from("<11I", content, start + 4)
    sites, kept = head[4], head[5]
    kinds = CHUNK_SIZE + 8 * sites
    ends = kinds + (sites + 7 & -8)
    order = ends + 2 * 16
    tokens = order + (2 * kept + 7 & -8)
    for at, change, said in (
        (kinds, b"\x07", "no known kind"),
        (ends, b"\xff\xff\xff\xff", "out of order"),
        (ends, bytes(4), "keeps no access"),
        (order, b"\xff\xff", "not listed"),
        (tokens, bytes(16), "do not unpack"),
    ):
        path.write_bytes(resealed(content, at, change))
        assert said in refused(path).what


def test_second_pages_that_are_none(tmp_path: Path) -> None:
    """An access that claims to go on from another ends an export in a traceback, or is believed."""
    path = tmp_path / "x.hvt"
    page = 0x40_0000
    for gva, kind in (
        ([page], [KINDS[0] | SECOND]),
        ([page, page + 8192], [KINDS[0], KINDS[0] | SECOND]),
        ([page, page + 4096], [KINDS[0], KINDS[1] | SECOND]),
        ([page, page + 4096, page + 8192], [KINDS[0]] + [KINDS[0] | SECOND] * 2),
    ):
        with path.open("w+b") as file:
            writer = HvtWriter(file, "")
            writer.add(array("Q", gva), array("B", kind))
            writer.close()
        assert "first" in refused(path).what or not writer.references
    for at in (12, 16):  # fetches, writes
        content = small(path, 1)
        count = content.index(b"HVTC") + at
        (told,) = struct.unpack_from("<I", content, count)
        changed = bytearray(content)
        changed[count : count + 4] = struct.pack("<I", told - 1)
        (whole_count,) = struct.unpack_from("<Q", content, 32 + at + at)
        struct.pack_into("<Q", changed, 32 + at + at, whole_count - 1)
        path.write_bytes(changed)
        assert "other kinds" in refused(path).what


HEADERS = [
    (0, b"\x09", "changed on its way"),
    (4, b"\n\x1a\n", "changed on its way"),
    (8, b"\2\0", "version 2"),
    (10, b"\1\2", "order"),
    (12, b"\1", "damaged header"),
    (16, bytes(4), "does not know"),
    (20, b"\3", "does not know"),
    (20, b"\1", "does not know"),
    (24, b"\2", "cut short"),
    (32, b"\1", "other counts"),
    (32, bytes(8), "no references"),
    (HEADER_SIZE - 8, b"\xff\xff", "damaged header"),
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
    content[100] ^= 1
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
        crc = zlib.crc32(bytes(content[start + CHUNK_SIZE :]))
        content[start + 36 : start + 40] = struct.pack("<I", crc)
    path.write_bytes(content[: data.draw(st.integers(0, len(content)))])
    try:
        whole(path)
        with opened(path) as file:
            for _ in file.windows():
                pass
    except TraceError as error:
        assert "\n" not in str(error)  # noqa: PT017 - some noise is a good file


@pytest.mark.skipif(fastest.compiled is None, reason="no compiler where this was installed")
@settings(deadline=None)
@given(
    stream=st.lists(
        st.tuples(
            st.sampled_from([1, 2, 3, 17, 18, 33, (1 << 35) - 2]),
            st.integers(0, 4095),
            st.sampled_from(KINDS),
            st.booleans(),
        ),
        min_size=1,
        max_size=300,
    ),
    again=st.booleans(),
)
def test_compiled_reduces_as_python(stream: list[tuple[int, int, int, bool]], again: bool) -> None:
    """C and Python disagree about what may be left out, or forget what a chunk before held."""
    gva = array("Q", (page << 12 | offset for page, offset, _, _ in stream))
    kind = array("B", (k | (SECOND if second else 0) for _, _, k, second in stream))
    one, two = PythonReducer(), fastest.make_reducer()
    if again:
        two.window(array("Q", [4096 * n for n in range(1, 3000)]), array("B", [4] * 2999))
        two.next(anew=True)
    for part in range(3):
        for made in (one, two):
            if part == 2:
                made.next(anew=False)
            made.window(gva, kind)
    assert one.site_gva == two.site_gva
    assert one.site_kind == two.site_kind
    assert one.kept == two.kept
    assert one.tokens == two.tokens
    assert (one.counts, one.tally) == (two.counts, two.tally)


@pytest.mark.skipif(fastest.compiled is None, reason="no compiler where this was installed")
@given(
    tokens=st.binary(max_size=40),
    kept=st.lists(st.tuples(st.integers(1, 40), st.sampled_from(KINDS)), max_size=4),
    room=st.integers(1, 40),
)
def test_compiled_expands_as_python(tokens: bytes, kept: list[tuple[int, int]], room: int) -> None:
    """C believes tokens that Python refuses, writes past its arrays, or makes other accesses."""
    sites = Sites()
    for at, (page, k) in enumerate(kept):
        sites.gva[at], sites.kind[at] = page << 12, k
    listed = array("H", range(len(kept)))
    made: list[Any] = []
    for expand in (python_expand, fastest.expand):
        try:
            made.append(expand(tokens, listed, sites, room, first=1, mark=SECOND))
        except DamagedError as error:
            made.append(str(error))
    assert made[0] == made[1]


@given(gva=st.lists(st.integers(0, (1 << 64) - 1) | st.sampled_from([9, 10, 19, 20]), max_size=9))
def test_addresses_within(gva: list[int]) -> None:
    """An address of the kernel's half is taken from a file."""
    assert fastest.within(array("Q", gva), 10, 20) == all(10 <= va < 20 for va in gva)


@given(kept=st.lists(st.integers(0, MOST_SITES - 1), max_size=40))
def test_the_highest_site(kept: list[int]) -> None:
    """A chunk with a site that is not listed is read."""
    assert fastest.most(array("H", kept)) == max(kept, default=0)


def test_chunks_go_on_with_the_sites_of_those_before(tmp_path: Path) -> None:
    """A long trace lists its pages again and again, or a chunk is read with another's pages."""
    path = tmp_path / "x.hvt"
    content = small(path, 140)
    with opened(path) as file:
        heads = [chunk.head for chunk in file.verified()]
    assert [head.known for head in heads] == [0, heads[0].sites, heads[0].sites]
    assert [head.sites for head in heads[1:]] == [0, 0]
    pages, kinds = whole(path)
    assert pages == [0x400 + n * n % 23 for n in range(140 * WINDOW - 7)]
    assert kinds == [KINDS[n * 7 % 11 % 3] for n in range(140 * WINDOW - 7)]
    second = content.index(b"HVTC", content.index(b"HVTC") + 1)
    for known in (0, 1, heads[0].sites + 1):
        changed = bytearray(content)
        changed[second + 40 : second + 44] = struct.pack("<I", known)
        path.write_bytes(changed)
        assert refused(path).what in ("its head is damaged", "a chunk before it is not there")


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
        sites = [chunk.head.sites for chunk in file.verified()]
        assert file.header.pages == count
        assert file.header.words == "x" * 4096
    assert len(sites) == 2
    assert max(sites) <= 1 << 16
    assert whole(path)[0] == [va >> 12 for va in gva]


def test_memory_does_not_grow_with_the_trace(tmp_path: Path) -> None:
    """A long trace fills the memory of who writes or reads it."""

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
    """A compact trace is written under a name that promises another format."""
    with pytest.raises(InputError, match=r"end the name in \.hvt"):
        import_trace(SHIPPED, None, tmp_path / name)
    assert not list(tmp_path.iterdir())
