"""The generated header: what it holds, and that the extension was built from today's tables."""

from __future__ import annotations

import re
from typing import TYPE_CHECKING

import pytest

from hvmmu._core import arch_header
from hvmmu._core.engine import lib
from hvmmu.arch import pfec, pte, regs

if TYPE_CHECKING:
    from pathlib import Path
    from types import ModuleType


def test_the_extension_is_of_these_tables() -> None:
    """If wrong, C runs with constants that Python no longer has: install hvmmu again."""
    assert arch_header.digest() == lib.HV_ARCH_DIGEST


@pytest.mark.parametrize(
    ("prefix", "module"), [("PF_", pfec), ("PTE_", pte), ("", regs)], ids=["pfec", "pte", "regs"]
)
def test_every_bit_is_in_the_header(prefix: str, module: ModuleType) -> None:
    """If wrong, C lacks a constant, or has another value for it, and somebody types it there."""
    found = dict(re.findall(r"^#define (\w+) (\w+)$", arch_header.header(), re.MULTILINE))
    for name, value in vars(module).items():
        if name.isupper() and not name.startswith("_"):
            assert int(found[prefix + name].rstrip("ul"), 0) == value


def test_an_unchanged_header_is_left_alone(tmp_path: Path) -> None:
    """If wrong, each build compiles everything again, or a build goes on with the last one's."""
    path = tmp_path / "arch.h"
    arch_header.write(path)
    before = path.stat()
    arch_header.write(path)
    assert path.stat().st_mtime_ns == before.st_mtime_ns
    path.write_text("#define PF_P 2u\n")
    arch_header.write(path)
    assert path.read_text() == arch_header.header()
    assert list(tmp_path.iterdir()) == [path]


def test_a_number_in_c_is_an_enumerations_order() -> None:
    """If wrong, what C returns is read as another route, cause or event."""
    assert list(arch_header.enumerators("HV_", ("END", "EXIT"), 3)) == [
        "enum {",
        "    HV_END = 3,",
        "    HV_EXIT = 4,",
        "};",
    ]
