"""Bits by name: what error codes and entries are called in messages."""

from __future__ import annotations

import pytest

from hvmmu.arch import pfec as pf
from hvmmu.arch import pte


@pytest.mark.parametrize(
    ("pfec", "text"),
    [
        (0, "-"),
        (1, "P"),
        (0x6, "W|U"),
        (0x1F, "P|W|U|RSVD|ID"),
        (0x8060, "PK|SS|SGX"),
        (0x1_0081, "P|0x10080"),
    ],
)
def test_error_codes(pfec: int, text: str) -> None:
    """If wrong, a message names another fault than the one that happened."""
    assert pf.describe(pfec) == text


def test_error_code_bits_are_the_manuals() -> None:
    """If wrong, every error code in the program is."""
    bits = (pf.P, pf.W, pf.U, pf.RSVD, pf.ID, pf.PK, pf.SS, pf.SGX)
    assert bits == (1, 2, 4, 8, 16, 32, 64, 0x8000)
    assert (pf.READ, pf.WRITE, pf.FETCH) == (0, 2, 16)
    assert pf.KIND == 0x16


@pytest.mark.parametrize(
    ("entry", "text"),
    [
        (0, "0x0 -"),
        (0x1027, "0x1000 P|W|U|A"),
        (0x8000_0000_0020_01E3, "0x200000 P|W|A|D|PS|G|NX"),
    ],
)
def test_entries(entry: int, text: str) -> None:
    """If wrong, a message shows another entry than the one that lies in memory."""
    assert pte.describe(entry) == text


def test_entry_bits_are_the_manuals() -> None:
    """If wrong, our tables are read differently by every other walker."""
    assert (pte.P, pte.W, pte.U, pte.PWT, pte.PCD) == (1, 2, 4, 8, 16)
    assert (pte.A, pte.D, pte.PS, pte.G, pte.PAT_LARGE) == (32, 64, 128, 256, 4096)
    assert pte.NX == 1 << 63
    assert pte.PKEY == 0xF << 59
    assert pte.ADDRESS == (1 << 52) - (1 << 12)
