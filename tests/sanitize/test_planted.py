"""The sanitizers are on, and end the run: each is shown a mistake of its kind."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

RUN = Path(__file__).with_name("run.py")
pytestmark = pytest.mark.skipif(
    "HVMMU_SANITIZED" not in os.environ, reason="only where the C is built with the sanitizers"
)
BEYOND_THE_END = """
from array import array
from hvmmu._core.engine import ffi, lib
kinds = ffi.from_buffer("uint8_t[]", bytes([4]) * 65536)
lib.hvt_count_listed(ffi.from_buffer("uint16_t[]", array("H", [0] * 3)), 4, kinds)
"""
TOO_FAR_A_SHIFT = """
from hvmmu._core.engine import ffi, lib
memory = ffi.new("uint8_t[]", 4096)
engine = lib.hv_new(memory, 4096, (1, 1), (1, 1), (1, 1))
formats = ffi.new("hv_formats *", {"depth": 1, "entry_size": 4, "va_bits": 200})
lib.hv_load_regs(engine, ffi.new("hv_regs *"), formats)
lib.hv_run(engine, ffi.new("uint64_t[]", [4096]), ffi.new("uint8_t[]", [4]), 0, 1,
           ffi.NULL, 0, ffi.new("hv_stop *"))
"""
"""Calls that break what the headers ask of a caller, so that C does what it must not."""


@pytest.mark.parametrize(
    ("program", "told"),
    [(BEYOND_THE_END, "heap-buffer-overflow"), (TOO_FAR_A_SHIFT, "shift exponent 200")],
)
def test_a_planted_mistake_is_found(program: str, told: str) -> None:
    """The tests pass with a sanitizer that is off, or whose words nobody hears."""
    command = [sys.executable, str(RUN), "-c", program]
    ended = subprocess.run(command, capture_output=True, text=True, timeout=60, check=False)
    assert ended.returncode != 0
    assert told in ended.stderr
