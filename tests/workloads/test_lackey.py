"""Reading lackey traces: real bytes, every line that can be, and every line that cannot."""

from __future__ import annotations

import gzip
import lzma
import re
import tracemalloc
from array import array
from itertools import product
from pathlib import Path
from typing import TYPE_CHECKING

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from hvmmu._trace import codec, lackey
from hvmmu._trace.grammar import USER_END, USER_START
from hvmmu._trace.lackey import BATCH, LackeyTrace
from hvmmu.errors import TraceError
from hvmmu.steps import Accesses, Backing, Mmap

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

READ, WRITE, FETCH = 4, 6, 0x14


HEAD = b"""==3367== Lackey, an example Valgrind tool
==3367== Command: /bin/ls /usr/share
==3367==
==3367== Parent: \xc3\xa9
--3367-- warning: something valgrind says
**3367** a client's own remark
==00:00:00:01.250 3367== with --time-stamp=yes
"""
TEXT = (
    HEAD
    + b"""I  0401ab70,3
 S 1fff000d78,8
 L 04a17de0,8
 M 0421d008,4
I  0401affe,5
==3367==
==3367== Exit code:       0
"""
)
READ_AS = [
    (0x401AB70, FETCH),
    (0x1FFF000D78, WRITE),
    (0x4A17DE0, READ),
    (0x421D008, WRITE),
    (0x401AFFE, FETCH),
    (0x401B000, FETCH),
]


def pairs(path: Path, limit: int | None = None) -> list[tuple[int, int]]:
    """Read a trace as (gva, kind)."""
    found: list[tuple[int, int]] = []
    for step in LackeyTrace(path, limit).steps():
        if isinstance(step, Accesses):
            found.extend(zip(step.gva, step.kind, strict=True))
    return found


def refused(path: Path) -> TraceError:
    """Read a trace to its end and return the error, which is one line."""
    with pytest.raises(TraceError) as caught:
        pairs(path)
    assert "\n" not in str(caught.value)
    return caught.value


def test_each_kind_of_line(trace_file: Callable[[bytes], Path]) -> None:
    """A kind, an address or a page crossing is misread, or valgrind's own lines are accesses."""
    assert pairs(trace_file(TEXT)) == READ_AS


def test_first_step_maps_the_user_half(trace_file: Callable[[bytes], Path]) -> None:
    """The guest would fault on pages that the program had, or believe to know what they are."""
    mapping = next(LackeyTrace(trace_file(TEXT)).steps())
    assert isinstance(mapping, Mmap)
    assert mapping.start == USER_START
    assert mapping.start + mapping.pages * 4096 == USER_END
    assert (mapping.prot, mapping.backing) == (7, Backing.INFERRED)


@pytest.mark.parametrize("suffix", ["", *codec.SUFFIXES])
def test_compression_is_told_by_magic_bytes(tmp_path: Path, suffix: str) -> None:
    """A packed trace under another name is refused, or read as text."""
    path = tmp_path / "trace.of-another-name"
    with path.open("wb") as file:
        sink = codec.writer(file, suffix)
        (sink or file).write(TEXT)
        if sink is not None:
            sink.close()
    assert pairs(path) == READ_AS


def test_streams_behind_each_other(tmp_path: Path) -> None:
    """`cat a.xz b.xz`, and the padding that xz and tapes leave, end the trace too early."""
    path = tmp_path / "two"
    path.write_bytes(lzma.compress(TEXT) + bytes(8) + lzma.compress(TEXT) + bytes(4))
    assert pairs(path) == READ_AS * 2
    path.write_bytes(gzip.compress(TEXT) + gzip.compress(TEXT))
    assert pairs(path) == READ_AS * 2


REFERENCES = st.lists(
    st.tuples(
        st.sampled_from(["I ", " S", " L", " M"]),
        st.integers(USER_START, USER_END - 4096)
        | st.integers(4096 - 8, 4096 + 8).map(lambda low: 0x40_0000 + low),
        st.integers(1, 64) | st.sampled_from([512, 4096]),
    ),
    min_size=1,
)


@settings(deadline=None)
@given(references=REFERENCES, block=st.integers(1, 64), limit=st.none() | st.integers(1, 8))
def test_round_trip(
    references: list[tuple[str, int, int]],
    block: int,
    limit: int | None,
    tmp_path_factory: pytest.TempPathFactory,
) -> None:
    """Text cut into blocks anywhere is read otherwise than line by line."""
    lines = [f"{mark} {gva:08x},{size}" for mark, gva, size in references]
    text = "\n".join(["==1== said", *lines, ""]).encode()
    kinds = {"I ": FETCH, " S": WRITE, " L": READ, " M": WRITE}
    expected = []
    for mark, gva, size in references[:limit]:
        last = (gva + size - 1) & ~0xFFF
        expected += [(at, kinds[mark]) for at in {gva: 0, max(gva, last): 0}]
    path = tmp_path_factory.getbasetemp() / "round-trip"
    path.write_bytes(text)

    def small(_: Path) -> Iterator[bytes]:
        for start in range(0, len(text), block):
            yield text[start : start + block]

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(lackey, "blocks", small)
        assert pairs(path, limit) == expected


def test_windows_line_ends(trace_file: Callable[[bytes], Path]) -> None:
    """A trace that was edited or copied on Windows is refused as no text."""
    assert pairs(trace_file(TEXT.replace(b"\n", b"\r\n"))) == READ_AS
    assert pairs(trace_file(b"\xef\xbb\xbf" + TEXT)) == READ_AS


def test_superblocks(trace_file: Callable[[bytes], Path]) -> None:
    """A trace with --trace-superblocks=yes is refused, or a superblock is an access."""
    text = TEXT.replace(b"I ", b"SB 0401ab70\nI ") + b"SB 1\n"
    assert pairs(trace_file(text)) == READ_AS
    assert refused(trace_file(text + b"oops\n")).line == text.count(b"\n") + 1


@pytest.mark.parametrize(
    "said", [b"==3368==", b"--3368-- x", b"**3368** x", b"==00:00:01 3368== x"]
)
def test_two_processes(trace_file: Callable[[bytes], Path], said: bytes) -> None:
    """Two address spaces are read as one: a child's first touches are no faults."""
    error = refused(trace_file(TEXT + said + b"\n" + TEXT))
    assert error.line == TEXT.count(b"\n") + 1
    assert "process 3368 in the trace of process 3367" in error.what
    assert "--log-file=FILE.%p" in error.todo


def test_batches_are_bounded(trace_file: Callable[[bytes], Path]) -> None:
    """An engine would get more accesses at once than it was promised."""
    # The shortest lines give the most references a block, and each crosses a page.
    path = trace_file(b" L 1fff,2\n" * 100_000)
    sizes = [len(step) for step in LackeyTrace(path).steps() if isinstance(step, Accesses)]
    assert sum(sizes) == 200_000
    assert max(sizes) <= BATCH


def test_kinds_and_addresses_are_arrays(trace_file: Callable[[bytes], Path]) -> None:
    """A compiled engine reads these buffers by their format."""
    (batch,) = [s for s in LackeyTrace(trace_file(TEXT)).steps() if isinstance(s, Accesses)]
    assert isinstance(batch.gva, array)
    assert isinstance(batch.kind, array)
    assert (batch.gva.typecode, batch.kind.typecode) == ("Q", "B")


BAD_LINES = [
    (b"/usr/share/doc", "lackey never prints '/usr/share/doc'", "hvmmu record"),
    (b"", "lackey never prints ''", "--log-file"),
    (b"I  0401ab70", "lackey never prints", "--log-file"),
    (b"I 0401ab70,3", "lackey never prints", "--log-file"),
    (b" X 0401ab70,3", "lackey never prints", "--log-file"),
    (b" L 0401ab70,3 ", "lackey never prints", "--log-file"),
    (b" L 0401AB70,3", "lackey never prints", "--log-file"),
    (b" L 0401ab70,-3", "lackey never prints", "--log-file"),
    (b" L 0401ab70,3\r\r", "not text", "--tool=lackey"),
    (b"SB 0401ab7g", "lackey never prints 'SB", "--log-file"),
    (b"SB  0401ab70", "lackey never prints 'SB", "--log-file"),
    (b"\x00\x01\x02\x03", "not text", "--tool=lackey"),
    ("é".encode(), "not text", "--tool=lackey"),
    (b" L " + b"0" * 300 + b"1000,8", "lackey never prints", "--log-file"),
    (b" L 1ffffffffffffffff,8", "more than 64 bits", "record it again"),
    (b" L 800000000000,8", "0x800000000000 is not canonical", "record it again"),
    (b" L ffff7fffffffffff,8", "not canonical", "record it again"),
    (b"I  ffffffffff600000,7", "0xffffffffff600000 is not in the user half", "cut the trace"),
    (b" L 7ffffffff000,8", "not in the user half", "cut the trace"),
    (b" L 7fffffffeffc,8", "not in the user half", "cut the trace"),
    (b" S 00000008,8", "page zero", "crashed here"),
    (b" L 0401ab70,0", "a reference of 0 bytes", "record it again"),
    (b" L 0401ab70,4097", "a reference of 4097 bytes", "record it again"),
    (b" L 0401ab70," + b"9" * 90, "a reference of 9999", "record it again"),
]


@pytest.mark.parametrize(("line", "what", "todo"), BAD_LINES)
def test_lines_lackey_never_prints(
    trace_file: Callable[[bytes], Path], line: bytes, what: str, todo: str
) -> None:
    """A damaged trace is read as if it were whole, or the message does not help."""
    path = trace_file(TEXT + line + b"\n" + TEXT)
    error = refused(path)
    assert what in error.what
    assert todo in error.todo
    assert error.line == TEXT.count(b"\n") + 1
    assert str(error).startswith(f"{path}:{error.line}: ")


@pytest.mark.parametrize("digits", [b"4a0f9", b"0401ab7f", b"1fff09fdf8", b"00007fff12345678"])
def test_any_byte_in_a_line(digits: bytes) -> None:
    """What is no digit is told from one wherever it stands, and a digit has its value."""
    line = b" L " + digits + b",8\n"
    for at, byte in product(range(len(digits)), range(256)):
        text = line[: 3 + at] + bytes([byte]) + line[4 + at :]
        address = text[3 : 3 + len(digits)]
        value = int(address, 16) if re.fullmatch(rb"[0-9a-f]+", address) else 0
        try:
            ((gva, kind),) = lackey.references([text], "t")
        except TraceError:
            assert not USER_START <= value <= USER_END - 8, text
        else:
            assert (gva[0], kind[0]) == (value, READ), text


def test_line_number_counts_every_block(trace_file: Callable[[bytes], Path]) -> None:
    """The message sends the reader to another line than the bad one."""
    many = b"I  0401ab70,3\n" * 50_000
    assert refused(trace_file(many + b"oops\n" + many + b"oops\n")).line == 50_001


def test_a_refused_file_is_closed(trace_file: Callable[[bytes], Path]) -> None:
    """A file stays open as long as the error about it is kept: Windows cannot replace it."""
    with pytest.raises(TraceError) as caught:
        pairs(trace_file(TEXT + b"oops\n"))
    tb, opened = caught.tb, []
    while tb is not None:
        opened += [one for one in tb.tb_frame.f_locals.values() if hasattr(one, "gi_frame")]
        tb = tb.tb_next
    assert [one for one in opened if one.gi_code.co_name == "blocks"]
    assert not [one for one in opened if one.gi_code.co_name == "blocks" and one.gi_frame]


def test_a_line_without_end(trace_file: Callable[[bytes], Path]) -> None:
    """A file without line ends fills the memory."""
    error = refused(trace_file(b"I  0401ab70,3\n" + b"x" * 1_000_000))
    assert error.line == 2
    assert "over 256 bytes" in error.what


def test_a_long_command_is_read(trace_file: Callable[[bytes], Path]) -> None:
    """A trace of `python3 -c` with a long program is refused."""
    assert pairs(trace_file(b"==3367== Command: " + b"x" * 100_000 + b"\n" + TEXT)) == READ_AS


@pytest.mark.parametrize("cut", [1, 2, 12])
def test_half_a_line(trace_file: Callable[[bytes], Path], cut: int) -> None:
    """The address of a line cut short is taken for a whole one."""
    error = refused(trace_file(b"I  0401ab70,3\nI  0401ab73,15\n"[:-cut]))
    assert error.line == 2
    assert "cut off" in error.what


def test_a_trace_cut_between_lines_is_fine(trace_file: Callable[[bytes], Path]) -> None:
    """A recording that was stopped cannot be used."""
    assert pairs(trace_file(TEXT[: TEXT.index(b" L ")])) == READ_AS[:2]


def test_no_reference(trace_file: Callable[[bytes], Path]) -> None:
    """A run of lackey without --trace-mem=yes is taken for an idle program, without a hint."""
    error = refused(trace_file(HEAD))
    assert "no memory references" in error.what
    assert "--trace-mem=yes" in error.todo


FOREIGN = [
    (b"", "is empty"),
    (b"\x7fELF\x02\x01\x01" + bytes(64), "ELF"),
    (b"BZh91AY&SY" + bytes(64), "bzip2"),
    (b"PK\x03\x04" + bytes(64), "zip"),
    (bytes(64), "not text"),
    (b"GIF89a" + bytes(64), "not text"),
    (b"a few words\n", "lackey never prints"),
]


@pytest.mark.parametrize(("content", "what"), FOREIGN)
def test_files_of_another_kind(
    trace_file: Callable[[bytes], Path], content: bytes, what: str
) -> None:
    """A file that is no trace is taken for one."""
    assert what in str(refused(trace_file(content)))


@pytest.mark.parametrize("suffix", codec.SUFFIXES)
def test_damaged_streams(tmp_path: Path, suffix: str) -> None:
    """A packed trace cut short or with a flipped bit is read as a shorter or another one."""
    path = tmp_path / "packed"
    with path.open("w+b") as file:
        sink = codec.writer(file, suffix)
        assert sink is not None
        sink.write(b"".join(b"I  %08x,3\n" % (n * n * 4096) for n in range(1, 5000)))
        sink.close()
        file.seek(0)
        whole = file.read()
    for cut in (7, len(whole) // 2, len(whole) - 1):
        path.write_bytes(whole[:cut])
        assert "cut short" in refused(path).what
    at = len(whole) // 2
    path.write_bytes(whole[:at] + bytes([whole[at] ^ 0x55]) + whole[at + 1 :])
    if suffix != ".zst":  # zstd's checksum is off unless asked for
        assert "damaged" in refused(path).what
    path.write_bytes(whole + b"more" * 16)
    assert "stream is damaged" in refused(path).what


@settings(deadline=None)
@given(noise=st.binary(max_size=200), suffix=st.sampled_from(codec.SUFFIXES))
def test_noise_is_an_error_and_never_a_crash(
    noise: bytes, suffix: str, tmp_path_factory: pytest.TempPathFactory
) -> None:
    """Some file makes the reader raise what is not a TraceError."""
    path = tmp_path_factory.getbasetemp() / "noise"
    magic = {".xz": b"\xfd7zXZ\0\0\4\xe6\xd6\xb4F", ".gz": b"\x1f\x8b\x08", ".zst": b"(\xb5/\xfd"}
    for text in (noise, magic[suffix] + noise):
        path.write_bytes(text)
        refused(path)


def test_a_dictionary_beyond_reason(trace_file: Callable[[bytes], Path]) -> None:
    """A packed file makes its reader allocate gigabytes."""
    filters = [{"id": lzma.FILTER_LZMA2, "preset": 0, "dict_size": 1 << 29}]
    # Packing with a large dictionary takes memory that is never touched.
    packed = lzma.compress(TEXT, lzma.FORMAT_XZ, filters=filters)
    assert "damaged" in refused(trace_file(packed)).what


def test_paths_that_are_no_file(tmp_path: Path) -> None:
    """A folder, a device or a missing file gives a traceback, or a wait for ever."""
    assert "is a directory" in refused(tmp_path).what
    assert "No such file" in refused(tmp_path / "missing").what
    assert "pipe or a device" in refused(Path("/dev/zero")).what
    assert "\\n" in str(refused(tmp_path / "two\nlines"))


def test_a_file_that_may_not_be_read(
    trace_file: Callable[[bytes], Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    """A file of another user, or a failing disk, gives a traceback."""
    path = trace_file(TEXT)

    def denied(*_: object) -> None:
        raise PermissionError(13, "Permission denied")

    monkeypatch.setattr(Path, "open", denied)
    assert refused(path).what == "cannot be read: Permission denied"


def test_limit_counts_references(trace_file: Callable[[bytes], Path]) -> None:
    """A limit counts valgrind's lines or both halves of a reference, or reads on after it."""
    path = trace_file(TEXT + b"a line that is never reached\n")
    assert pairs(path, 4) == READ_AS[:4]
    assert pairs(path, 5) == READ_AS
    again = trace_file(TEXT + TEXT)
    assert pairs(again, 6) == READ_AS + READ_AS[:1]
    assert pairs(again, 1000) == READ_AS * 2


def test_memory_does_not_grow_with_the_trace(monkeypatch: pytest.MonkeyPatch) -> None:
    """A long trace of ever new lines fills the memory."""

    def peak(blocks: int) -> int:
        def made(_: Path) -> Iterator[bytes]:
            for block in range(blocks):
                start = 0x1000_0000 + block * 0x1000_0000
                yield b"".join(b" L %x,8\n" % (start + n * 8) for n in range(1000))

        monkeypatch.setattr(lackey, "blocks", made)
        tracemalloc.start()
        try:
            for _ in LackeyTrace(Path("ever")).steps():
                pass
            return tracemalloc.get_traced_memory()[1]
        finally:
            tracemalloc.stop()

    assert peak(100) < peak(20) * 1.05


def test_unpacking_is_bounded(tmp_path: Path) -> None:
    """A small file that unpacks to a large one fills the memory."""
    path = tmp_path / "bomb"
    for suffix in codec.SUFFIXES:
        with path.open("wb") as file:
            sink = codec.writer(file, suffix)
            assert sink is not None
            for _ in range(64):
                sink.write(bytes(1 << 20))
            sink.close()
        tracemalloc.start()
        total = 0
        for block in codec.blocks(path):
            assert len(block) <= codec.BLOCK
            total += len(block)
        most = tracemalloc.get_traced_memory()[1]
        tracemalloc.stop()
        assert total == 64 << 20
        assert most < 8 << 20


RECORDED = {  # file: accesses of its first 200,000 references, distinct pages
    "python.lackey.xz": (200_138, 157),
    "sort.lackey.xz": (200_157, 174),
}


@pytest.mark.parametrize("name", RECORDED)
def test_recorded_traces(traces: Path, name: str) -> None:
    """What valgrind really prints is not read, or not as before."""
    found = pairs(traces / name, 200_000)
    assert (len(found), len({gva >> 12 for gva, _ in found})) == RECORDED[name]
    assert {kind for _, kind in found} == {READ, WRITE, FETCH}
