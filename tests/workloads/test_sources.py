"""Importing traces of other tools: right bytes give right accesses, wrong ones one line."""

from __future__ import annotations

import gzip
import io
import os
import re
import struct
import sys
from concurrent.futures import ThreadPoolExecutor
from typing import TYPE_CHECKING, Any, ClassVar, Self

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from hvmmu._trace.hvt import HvtTrace
from hvmmu._trace.hvt.export import export
from hvmmu._trace.hvt.import_trace import import_trace
from hvmmu._trace.hvt.layout import MAGIC
from hvmmu._trace.hvt.reader import opened
from hvmmu._trace.importers import IMPORTERS, importer_of
from hvmmu.errors import InputError, TraceError
from hvmmu.steps import Accesses, ReducedAccesses

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

READ, WRITE, FETCH = 4, 6, 0x14
LACKEY = b"""==7== Command: /bin/x y
I  00401000,3
 L 1fff000d78,8
 M 0421d008,4
I  00401ffe,5
 S 1fff000d78,8
"""
ACCESSES = [
    (0x401, FETCH),
    (0x1FFF000, READ),
    (0x421D, WRITE),
    (0x401, FETCH),
    (0x402, FETCH),
    (0x1FFF000, WRITE),
]
VIEW = b"""Output format:
<--record#-> <--instr#->: <---tid---> <record details>
------------------------------------------------------------
           1           0:     3264837 <marker: version 6>
           2           1:     3264837 ifetch       3 byte(s) @ 0x0000000000401000 48 89 e7  mov
                                                   d9                jnz    $0x000000000040100b
           3           1:     3264837 read         8 byte(s) @ 0x0000001fff000d78 by PC 0x401000
           4           1:       W0.T3 prefetch     1 byte(s) @ 0x0000000000000000 by PC 0x401000
------------------------------------------------------------
           5           1:     3264837 write        4 byte(s) @ 0x000000000421d008 by PC 0x401000
           6           2:     3264837 ifetch       5 byte(s) @ 0x0000000000401ffe non-branch
        7: T1774673 write        8 byte(s) @ 0x0000001fff000d78 by PC 0x0000000000401ffe
View tool results:
               2 : total instructions
"""
CSV = b"""kind,address,size
fetch,0x401000,3
read,0x1fff000d78,8
M,0x421d008,4
x, 4202494, 5
w,0x1fff000d78
"""


def record(ip: int, reads: tuple[int, ...] = (), writes: tuple[int, ...] = ()) -> bytes:
    """Return one record of ChampSim's."""
    four, two = (*reads, 0, 0, 0, 0)[:4], (*writes, 0, 0)[:2]
    return struct.pack("<Q2B2B4B2Q4Q", ip, 1, 0, 3, 4, 5, 6, 7, 8, *two, *four)


CHAMPSIM = (
    record(0x401000, (0x1FFF000D78,), (0x421D008,))
    + record(0x401FFE)
    + record(0x402000, (), (0x1FFF000D78,))
)
CHAMPSIM_ACCESSES = [*ACCESSES[:3], *ACCESSES[3:]]
GOOD = {"lackey": LACKEY, "dynamorio": VIEW, "csv": CSV, "champsim": CHAMPSIM}


def imported(path: Path, out: Path, **options: Any) -> list[tuple[int, int]]:  # noqa: ANN401
    """Import a trace; return page and kind of every access in the compact one."""
    out.unlink(missing_ok=True)
    import_trace(path, None, out, **options)
    found: list[tuple[int, int]] = []
    for step in HvtTrace(out).steps():
        if isinstance(step, ReducedAccesses):
            for part in step.whole():
                assert isinstance(part, Accesses)
                found += zip((gva >> 12 for gva in part.gva), part.kind, strict=True)
    return found


@pytest.mark.parametrize("name", GOOD)
@pytest.mark.parametrize("named", [True, False])
def test_formats(
    trace_file: Callable[[bytes], Path], tmp_path: Path, name: str, named: bool
) -> None:
    """A format is not recognised, or a kind, an address or a page crossing is misread."""
    if name == "champsim" and not named:
        pytest.skip("nothing in the file says what it is")
    path = trace_file(GOOD[name])
    assert imported(path, tmp_path / "x.hvt", fmt=name if named else None) == ACCESSES


@pytest.mark.parametrize("name", GOOD)
@pytest.mark.parametrize("limit", [1, 4])
def test_limits(trace_file: Callable[[bytes], Path], tmp_path: Path, name: str, limit: int) -> None:
    """An import reads past its limit, or counts accesses for references."""
    crosses = limit == 4 and name != "champsim"
    path, out = trace_file(GOOD[name] + b"rubbish" * (name != "champsim")), tmp_path / "x.hvt"
    found = imported(path, out, fmt=name, limit=limit)
    assert found == ACCESSES[: limit + crosses]
    with opened(out) as file:
        assert file.header.references == limit


@pytest.mark.parametrize("name", GOOD)
def test_pipes(tmp_path: Path, name: str) -> None:
    """A trace cannot come through a pipe, where nothing can be read twice."""
    out = tmp_path / "x.hvt"
    fmt = None if name != "champsim" else name
    import_trace(None, io.BytesIO(GOOD[name]), out, fmt=fmt)
    with opened(out) as file:
        assert file.header.accesses == len(ACCESSES)
        assert f"format={name}\n" in file.header.provenance


def test_named_pipes(tmp_path: Path) -> None:
    """What a shell's <(...) names is refused, though it is read only once."""
    path, out = tmp_path / "pipe", tmp_path / "x.hvt"
    os.mkfifo(path)
    with ThreadPoolExecutor(1) as other:
        other.submit(path.write_bytes, CSV)
        import_trace(path, None, out)
    with opened(out) as file:
        assert file.header.accesses == len(ACCESSES)
    with pytest.raises(TraceError, match="save it to a file first"):
        HvtTrace(path).check()


def refused(path: Path, fmt: str | None = None) -> str:
    """Import what cannot be; nothing stays behind; return the one-line message."""
    out = path.with_name("out")
    out.mkdir(exist_ok=True)
    with pytest.raises(InputError) as caught:
        import_trace(path, None, out / "x.hvt", fmt=fmt)
    assert not list(out.iterdir())
    assert "\n" not in str(caught.value)
    return str(caught.value)


BAD = [
    ("lackey", LACKEY + b"oops\n", ":7: lackey never prints 'oops'"),
    ("lackey", LACKEY[:-2], ":6: the last line is cut off"),
    ("lackey", b"==1== nothing\n", "no memory references"),
    ("dynamorio", VIEW + b"oops\n", ":15: the view tool prints no 'oops'"),
    ("dynamorio", VIEW.replace(b"1fff000d78 by PC 0x401000", b"0000000d78 by"), "page zero"),
    ("dynamorio", VIEW.replace(b"3 byte(s)", b"0 byte(s)"), ":5: a reference of 0 bytes"),
    ("dynamorio", VIEW.replace(b"0x0000000000401000 48", b"0xffffffffff600000 48"), "user half"),
    ("dynamorio", b"Output format:\n", "no memory references"),
    ("csv", CSV + b"oops\n", ":7: 1 columns where 2 or 3"),
    ("csv", CSV + b"read,0xg\n", ":7: no number"),
    ("csv", CSV + b"red,0x401000\n", ":7: 'red' is no kind"),
    ("csv", CSV + b"read,16\n", ":7: the address 0x10 is in page zero"),
    ("csv", CSV + b"read,-16\n", ":7: the address -0x10"),
    ("csv", CSV + b"read,0x401000,9999\n", "a reference of 9999 bytes"),
    ("csv", CSV + b"read,0x401000,8,9\n", ":7: 4 columns"),
    ("csv", b"kind,address\n", "no rows"),
    ("csv", CSV + b"x" * 300_000, "a line of over 4096 bytes"),
    ("csv", CSV + b"x" * 9999 + b"\n" + CSV, ":7: a line of over 4096 bytes"),
    ("champsim", bytes(128), "no memory references"),
    ("champsim", CHAMPSIM + b"x", "record 4 is cut off"),
    ("champsim", CHAMPSIM + bytes(8) + b"\2" + bytes(55), "record 4 is none"),
    ("champsim", CHAMPSIM + record(0xFFFF800000000000), "record 4: the address 0xffff8"),
    ("champsim", CHAMPSIM + record(12), "record 4: the address 0xc is in page zero"),
    ("champsim", LACKEY * 100, "record 1 is none"),
    ("csv", b"", "is empty"),
    ("csv", gzip.compress(b"", mtime=0), "is empty"),
    ("lackey", b"\x7fELF" + bytes(99), "ELF"),
    (None, MAGIC + bytes(200), "is a reduced trace already"),
]


@pytest.mark.parametrize(("fmt", "content", "said"), BAD)
def test_bad_input(
    trace_file: Callable[[bytes], Path], fmt: str | None, content: bytes, said: str
) -> None:
    """A damaged trace is imported in part, or the message does not say where it is damaged."""
    assert said in refused(trace_file(content), fmt)


def test_what_is_no_trace(trace_file: Callable[[bytes], Path], tmp_path: Path) -> None:
    """A file that nobody recognises gives no message, or a traceback."""
    assert "lackey never prints" in refused(trace_file(b"a few words\n"))
    assert "did you mean 'lackey'" in refused(trace_file(LACKEY), "lacky")
    assert "No such file" in refused(tmp_path / "missing")
    assert "is a directory" in refused(tmp_path)


def test_a_pipe_that_breaks(tmp_path: Path) -> None:
    """An error of the pipe's other end is a traceback, or leaves half a trace."""

    class Broken(io.RawIOBase):
        def readable(self) -> bool:
            return True

        def readinto(self, _: object) -> int:
            raise OSError(5, "Input/output error")

    with pytest.raises(TraceError, match="standard input: cannot be read: Input/output error"):
        import_trace(None, io.BufferedReader(Broken()), tmp_path / "x.hvt")
    assert not list(tmp_path.iterdir())


@settings(deadline=None)
@given(noise=st.binary(max_size=200), fmt=st.sampled_from(sorted(IMPORTERS)))
def test_noise(noise: bytes, fmt: str, tmp_path_factory: pytest.TempPathFactory) -> None:
    """Some file ends an import in a traceback."""
    path = tmp_path_factory.getbasetemp() / "noise"
    path.write_bytes(noise)
    try:
        import_trace(path, None, path.with_suffix(".hvt"), fmt=fmt, force=True)
    except InputError as error:
        assert "\n" not in str(error)  # noqa: PT017 - some noise is a trace
    importer_of(None, noise)


@pytest.mark.parametrize("fmt", ["lackey", "csv"])
def test_export_comes_back(trace_file: Callable[[bytes], Path], tmp_path: Path, fmt: str) -> None:
    """An export loses references, kinds, or those that cross pages, or where faults will be."""
    lines = [b" %c %08x,8\n" % (b"LS"[n % 2], 0x1FFA + n * n % 37 * 4096) for n in range(9000)]
    made, again = tmp_path / "x.hvt", tmp_path / "again.hvt"
    import_trace(trace_file(b"".join(lines)), None, made)
    with opened(made) as file, (tmp_path / "text").open("wb") as out:
        counts: list[int] = []
        assert export(file, fmt, out, counts.append) == 9000
        assert counts[-1] == 9000
        before = file.header
    import_trace(tmp_path / "text", None, again)
    with opened(again) as file:
        for _ in file.verified():
            pass
        assert file.header.references == before.references
        assert file.header.sha256 == before.sha256


def parquet(path: Path, **columns: list[Any]) -> Path:
    """Write a Parquet file."""
    arrow: Any = pytest.importorskip("pyarrow")
    tables: Any = pytest.importorskip("pyarrow.parquet")
    tables.write_table(arrow.table(columns), path)
    return path


KINDS = ["fetch", "read", "M", "x", "w"]
ADDRESSES = [0x401000, 0x1FFF000D78, 0x421D008, 0x401FFE, 0x1FFF000D78]


def test_parquet(tmp_path: Path) -> None:
    """Columns of kind and address are not read, or their order matters."""
    path, out = tmp_path / "x.parquet", tmp_path / "x.hvt"
    parquet(path, address=ADDRESSES, size=[3, 8, 4, 5, 8], more=[0] * 5, kind=KINDS)
    assert imported(path, out) == ACCESSES
    parquet(path, address=ADDRESSES, kind=[b"2", b"r", b"W", b"x", b"s"])
    assert imported(path, out) == [*ACCESSES[:4], *ACCESSES[5:]]
    with pytest.raises(TraceError, match="save it to a file"):
        import_trace(None, io.BytesIO(path.read_bytes()), tmp_path / "y.hvt")


def test_bad_parquet(tmp_path: Path) -> None:
    """A table of something else, or a damaged one, ends in a traceback of pyarrow's."""
    path = tmp_path / "x.parquet"
    assert "no columns kind" in refused(parquet(path, kind=KINDS, gva=ADDRESSES))
    assert "no whole number" in refused(parquet(path, kind=KINDS, address=[*map(str, ADDRESSES)]))
    assert "no kind" in refused(parquet(path, kind=[None] * 5, address=ADDRESSES))
    path.write_bytes(path.read_bytes()[:-20])
    assert "give a Parquet file" in refused(path)


class Table:
    """What of pyarrow.parquet is used, over plain lists."""

    columns: ClassVar[dict[str, list[Any]]] = {"kind": KINDS, "address": ADDRESSES}

    def __init__(self, _: object) -> None:
        self.schema_arrow = self
        self.names = list(self.columns)

    def __enter__(self) -> Self:
        """Open nothing."""
        return self

    def __exit__(self, *_: object) -> None:
        """Close nothing."""

    def iter_batches(self, batch_size: int, columns: list[str]) -> list[Table]:
        """Return the table as one batch."""
        assert batch_size > 0
        assert columns == ["kind", "address"]
        return [self]

    def column(self, name: str) -> Table:
        """Return a column, which is its own list here."""
        self.explicit = name
        return self

    def to_pylist(self) -> list[Any]:
        """Return the column asked for."""
        return self.columns[self.explicit]


def test_parquet_without_pyarrow(
    trace_file: Callable[[bytes], Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A user without pyarrow gets an ImportError, or one of another pyarrow wrong accesses."""
    path = trace_file(b"PAR1" + bytes(9))
    monkeypatch.setitem(sys.modules, "pyarrow.parquet", None)
    assert re.search(r"pip install hvmmu\[parquet\]", refused(path))
    made = type(sys)("pyarrow.parquet")
    made.ParquetFile = Table  # type: ignore[attr-defined]
    monkeypatch.setitem(sys.modules, "pyarrow", type(sys)("pyarrow"))
    monkeypatch.setitem(sys.modules, "pyarrow.parquet", made)
    assert imported(path, tmp_path / "x.hvt") == [*ACCESSES[:4], *ACCESSES[5:]]
    monkeypatch.setattr(Table, "columns", {"kind": KINDS, "address": ["1"] * 5})
    assert "row 1" in refused(path) or ":1:" in refused(path)
    monkeypatch.setattr(Table, "columns", {"gva": ADDRESSES})
    assert "no columns kind" in refused(path)
