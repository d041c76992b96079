"""The page-fault filter: every combination of error code, mask, match and bitmap bit."""

from __future__ import annotations

from itertools import product

import pytest
from hypothesis import given
from hypothesis import strategies as st

from hvmmu_vmx.filter import PAGE_FAULT_BIT, compile_filter, exits

FIVE_BITS = range(32)
ALL = (1 << 64) - 1
BIT14_ON, BIT14_OFF = 0x0000_4000, 0xFFFF_BFFF
"""The page fault's bit alone, and every other bit of the bitmap."""
WORDS = st.integers(0, (1 << 32) - 1)
CODES = st.integers(0, (1 << 16) - 1)


def oracle(pfec: int, mask: int, match: int, bit14: bool) -> bool:
    """Say whether the fault exits, judging bit by bit instead of by one masked comparison.

    A bit in the mask is equal if the code has it as the match says; a bit outside the mask reads as
    zero, so a match that sets it can never be equal.
    """
    for bit in (1 << n for n in range(32)):
        wanted, seen = match & bit, pfec & bit if mask & bit else 0
        if wanted != seen:
            return not bit14
    return bit14


@pytest.mark.parametrize("bit14", [False, True])
def test_filter_exhaustively(bit14: bool) -> None:
    """If wrong, some page fault exits that VMX delivers, or is delivered where VMX exits.

    Five low bits of error code, mask and match each: the bits that a page walk without shadow
    stacks and protection keys can set.
    """
    bitmap = BIT14_ON if bit14 else BIT14_OFF
    seen = 0
    for mask, match in product(FIVE_BITS, FIVE_BITS):
        table = compile_filter(mask, match, bitmap)
        for pfec in FIVE_BITS:
            expected = oracle(pfec, mask, match, bit14)
            assert exits(pfec, mask, match, bitmap) is expected, (pfec, mask, match)
            assert bool(table >> pfec & 1) is expected, (pfec, mask, match)
            seen += 1
    assert seen == 32**3


@given(pfec=CODES, mask=WORDS, match=WORDS, bitmap=WORDS)
def test_filter_at_full_width(pfec: int, mask: int, match: int, bitmap: int) -> None:
    """If wrong, a bit beyond the low five (PK, SS, SGX, or any of the 32) is judged otherwise."""
    expected = oracle(pfec, mask, match, bool(bitmap & BIT14_ON))
    assert exits(pfec, mask, match, bitmap) is expected


@given(mask=WORDS, match=WORDS, bitmap=WORDS)
def test_compiled_table(mask: int, match: int, bitmap: int) -> None:
    """If wrong, hardware obeys another rule than the one written in the control structure."""
    table = compile_filter(mask, match, bitmap)
    assert table >> 64 == 0
    for pfec in range(64):
        assert bool(table >> pfec & 1) is exits(pfec, mask, match, bitmap)


ODD = sum(1 << pfec for pfec in range(1, 64, 2))


@pytest.mark.parametrize(
    ("mask", "match", "bitmap", "table"),
    [
        pytest.param(0, 0, BIT14_ON, ALL, id="all-exit"),
        pytest.param(0, 0xFFFF_FFFF, BIT14_ON, 0, id="none-exits"),
        pytest.param(1, 1, BIT14_ON, ODD, id="present-only: the technique"),
        pytest.param(1, 1, BIT14_OFF, ALL ^ ODD, id="absent-only: bit 14 clear"),
        pytest.param(9, 1, BIT14_ON, 0x00AA * 0x0001_0001_0001_0001, id="smaller-maxphyaddr"),
    ],
)
def test_named_cases(mask: int, match: int, bitmap: int, table: int) -> None:
    """If wrong, a setting that hypervisors really use does not do what it is used for.

    The last is KVM's allow_smaller_maxphyaddr: P set and RSVD clear.
    """
    assert compile_filter(mask, match, bitmap) == table


def test_bit_14_is_the_page_faults() -> None:
    """If wrong, the bitmap is read at another vector."""
    assert PAGE_FAULT_BIT == 1 << 14
    others = [n for n in range(32) if n != 14]
    assert all(compile_filter(0, 0, 1 << n) == 0 for n in others)


@given(pfec=CODES, mask=WORDS, match=WORDS, bitmap=WORDS)
def test_bit_14_reverses(pfec: int, mask: int, match: int, bitmap: int) -> None:
    """If wrong, clearing bit 14 is taken to mean that no page fault exits."""
    assert exits(pfec, mask, match, bitmap) != exits(pfec, mask, match, bitmap ^ BIT14_ON)
