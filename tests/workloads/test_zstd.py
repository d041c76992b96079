"""zstd under its two names: in the standard library from 3.14 on, in a package before."""

from __future__ import annotations

import importlib
import io
import sys
from types import ModuleType, SimpleNamespace
from typing import TYPE_CHECKING

import pytest

from hvmmu._trace import codec
from hvmmu.errors import TraceError

if TYPE_CHECKING:
    from pathlib import Path

NAMES = {"standard library": ("compression.zstd", (3, 14)), "package": ("backports.zstd", (3, 13))}


@pytest.fixture(params=NAMES)
def other_python(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> None:
    """Have the module under one name alone, as the Pythons on that side of 3.14 have it."""
    here = codec._zstd()
    name, version = NAMES[request.param]
    for other, _ in NAMES.values():
        package = other.partition(".")[0]
        monkeypatch.setitem(sys.modules, package, ModuleType(package))
        monkeypatch.setitem(sys.modules, other, here if other == name else None)  # type: ignore[arg-type]
    monkeypatch.setattr(codec, "sys", SimpleNamespace(version_info=version))
    for other, _ in NAMES.values():
        if other != name:
            with pytest.raises(ImportError):
                importlib.import_module(other)


@pytest.mark.usefixtures("other_python")
def test_columns() -> None:
    """On some Python compact traces are not to be had, or a damaged one ends in a traceback."""
    packed = codec.zstd_pack(b"tokens" * 99)
    assert codec.zstd_unpack(packed, 6 * 99) == b"tokens" * 99
    assert codec.zstd_unpack(packed, 6 * 99 - 1) is None
    assert codec.zstd_unpack(packed[:-1], 6 * 99) is None
    assert codec.zstd_unpack(b"none at all", 6) is None


@pytest.mark.usefixtures("other_python")
def test_files(tmp_path: Path) -> None:
    """On some Python a packed trace is not read, or a damaged one ends in a traceback."""
    out, path = io.BytesIO(), tmp_path / "x.zst"
    file = codec.writer(out, ".zst")
    assert file is not None
    with file:
        file.write(b"I  1000,1\n" * 9)
    path.write_bytes(out.getvalue())
    assert b"".join(codec.blocks(path)) == b"I  1000,1\n" * 9
    path.write_bytes(out.getvalue()[:4] + b"\xff" * 40)
    with pytest.raises(TraceError, match="zstd stream is damaged"):
        list(codec.blocks(path))
