"""`hvmmu trace` as a user meets it; the formats are tested with the workloads."""

import io
import json
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

Command = Callable[..., Any]

LACKEY = "==7== Command: /bin/x\nI  00401ffe,3\n L 1fff000d78,8\n S 1fff000d78,8\n" * 9


@pytest.fixture
def made(tmp_path: Path) -> Path:
    """Return a small lackey trace."""
    path = tmp_path / "x.trace"
    path.write_text(LACKEY)
    return path


def test_there_and_back(hvmmu: Command, made: Path, tmp_path: Path) -> None:
    """A trace cannot be imported, looked at, or given back as text that can be read."""
    ended = hvmmu("trace", "import", made.name, "-o", "x.hvt")
    assert (ended.code, ended.err) == (0, "")
    size = (tmp_path / "x.hvt").stat().st_size
    assert f"x.hvt: 27 references in {size:,} bytes" in ended.out
    told = hvmmu("trace", "info", "x.hvt").out
    for line in (
        "references             27\n",
        "accesses               36 (a reference that crosses a page is two)\n",
        "access types           18 fetches, 9 reads, 9 writes\n",
        "pages                  3 of 4 KiB\n",
        "kept (run)             4 accesses, 11.11%\n",
        "kept by window filter  4 accesses, 11.11%\n",
        "reduction              16 sets of 4 ways, restarted every 32,768 accesses; ",
        "source                 format=lackey\n",
        "source                 command=/bin/x\n",
        "; window filter every 4,096\n",
    ):
        assert line in told
    text = hvmmu("trace", "export", "x.hvt", "-o", "y.trace.gz")
    assert "y.trace.gz: 27 references" in text.out
    assert hvmmu("trace", "import", "y.trace.gz", "-o", "y.hvt").code == 0
    digests = [
        line
        for name in ("x.hvt", "y.hvt")
        for line in hvmmu("trace", "info", name).out.splitlines()
        if line.startswith("sha256")
    ]
    assert len(digests) == 2
    assert digests[0] == digests[1]


def test_same_document(hvmmu: Command, made: Path) -> None:
    """A comparison on a compact trace gives another result than on the trace it came from."""
    hvmmu("trace", "import", made.name, "-o", "x.hvt")
    documents = [
        json.loads(hvmmu("compare", "--json", name, "--limit", "20").out)
        for name in (made.name, "x.hvt")
    ]
    assert documents[1]["workload"].pop("name") == "x.hvt"
    assert documents[0]["workload"].pop("name") == made.name
    assert documents[0] == documents[1]


def test_standard_input_and_output(hvmmu: Command, monkeypatch: pytest.MonkeyPatch) -> None:
    """A pipe cannot be imported, or an export does not go down one."""
    piped = io.TextIOWrapper(io.BytesIO(b"kind,address\nread,0x401008\nfetch,0x402004\n"))
    monkeypatch.setattr(sys, "stdin", piped)
    assert hvmmu("trace", "import", "-", "-o", "x.hvt").code == 0
    monkeypatch.setattr(sys, "stdout", io.TextIOWrapper(io.BytesIO()))
    assert hvmmu("trace", "export", "x.hvt", "--format", "csv").code == 0
    sys.stdout.seek(0)
    assert sys.stdout.read() == "kind,address,size\nread,0x401008,1\nfetch,0x402004,1\n"
    monkeypatch.setattr(sys, "stdout", None)
    assert hvmmu("trace", "export", "x.hvt").code == 0
    monkeypatch.setattr(sys, "stdin", None)
    (problem,) = hvmmu("trace", "import", "-", "-o", "y.hvt").problems
    assert "standard input is closed" in problem


def test_bad_input(hvmmu: Command, made: Path, tmp_path: Path) -> None:
    """An error is a traceback, has another exit code than 2, or leaves a file behind."""
    made.write_text(LACKEY + "oops\n")
    (tmp_path / "old.hvt").touch()
    before = sorted(tmp_path.iterdir())
    for argv, said in (
        (("import", made.name, "-o", "x.hvt"), f"{made.name}:37: lackey never prints 'oops'"),
        (("import", made.name, "-o", "x.txt"), "end the name in .hvt"),
        (("import", made.name, "-o", "no/x.hvt"), "there is no folder"),
        (("import", made.name, "-o", "old.hvt"), "exists"),
        (("import", made.name, "-o", "x.hvt", "--format", "pin"), "no format"),
        (("import", "missing", "-o", "x.hvt"), "No such file"),
        (("info", made.name), "is no compact trace; make one of it with `hvmmu trace import`"),
        (("export", made.name), "is no compact trace"),
        ((), "Missing command (see `hvmmu trace --help`)"),
        (("export", "missing"), "No such file"),
        (("info", "."), "is a directory"),
    ):
        (problem,) = hvmmu("trace", *argv).problems
        assert said in problem
    assert sorted(tmp_path.iterdir()) == before


def test_exports_keep_what_is_there(hvmmu: Command, made: Path) -> None:
    """An export replaces a file unasked, or is named as a compact trace."""
    hvmmu("trace", "import", made.name, "-o", "x.hvt")
    assert "--force" in hvmmu("trace", "export", "x.hvt", "-o", made.name).problems[0]
    assert hvmmu("trace", "export", "x.hvt", "-o", made.name, "--force").code == 0
    for name in ("y.hvt", "y.hvt.xz"):
        assert "an export is text" in hvmmu("trace", "export", "x.hvt", "-o", name).problems[0]
    assert (
        "is a reduced trace already"
        in (hvmmu("trace", "import", "x.hvt", "-o", "y.hvt").problems[0])
    )
