"""Host-physical memory, the memslots over it, and what lies outside both."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from hvmmu.errors import InvariantError
from hvmmu.memory import Memory, Memslot, Memslots
from hvmmu.types import PAGE_SIZE

SIZES = (1, 2, 4, 8)


def slots(memory: Memory) -> Memslots:
    """Return two memslots with a hole between them, the second lower in host memory."""
    return Memslots(memory, (Memslot(0, 0x4000, 0x8000), Memslot(0x6000, 0x2000, 0x1000)))


@given(
    writes=st.lists(
        st.tuples(st.integers(0, 40), st.sampled_from(SIZES), st.integers(0, (1 << 64) - 1))
    )
)
def test_memory_is_bytes(writes: list[tuple[int, int, int]]) -> None:
    """If wrong, a store changes other bytes than its own, or in another order than x86's."""
    memory, expected = Memory(PAGE_SIZE), bytearray(PAGE_SIZE)
    for slot, size, number in writes:
        at, value = slot * size, number & (1 << 8 * size) - 1
        memory.store(at, value, size)
        expected[at : at + size] = value.to_bytes(size, "little")
        assert memory.load(at, size) == value
    assert bytes(memory.bytes) == expected
    assert memory.u64[0] == int.from_bytes(expected[:8], "little")
    memory.close()


@pytest.mark.parametrize("size", SIZES)
def test_nobody_answers_beyond_the_end(size: int) -> None:
    """If wrong, an access beyond memory ends in a traceback instead of all ones."""
    memory = Memory(PAGE_SIZE)
    for at in (PAGE_SIZE, 1 << 51):
        memory.store(at, 0, size)
        assert memory.load(at, size) == (1 << 8 * size) - 1
    last = PAGE_SIZE - size
    memory.store(last, 1, size)
    assert memory.load(last, size) == 1
    memory.close()


def test_clear_and_copy() -> None:
    """If wrong, bytes beside a cleared or copied range change."""
    memory = Memory(4 * PAGE_SIZE)
    memory.bytes[:] = bytes(range(256)) * 64
    memory.copy(0x2008, 0x1010, 16)
    memory.clear(0x1000, 8)
    assert bytes(memory.bytes[0x2000:0x2020]) == bytes([*range(8), *range(16, 32), *range(24, 32)])
    assert bytes(memory.bytes[0xFF8:0x1010]) == bytes([*range(248, 256), *[0] * 8, *range(8, 16)])
    memory.close()


def test_memory_costs_nothing_until_it_is_touched() -> None:
    """If wrong, the largest guest there may be needs all its 64 GiB at once."""
    memory = Memory(64 << 30)
    memory.store((64 << 30) - 8, 7)
    assert memory.load((64 << 30) - 8) == 7
    assert memory.load(1 << 35) == 0
    memory.close()


def test_closed_memory_is_gone() -> None:
    """If wrong, a machine's memory is kept after it was given back."""
    memory = Memory(PAGE_SIZE)
    memory.close()
    with pytest.raises(ValueError, match="released"):
        memory.load(0)


@pytest.mark.parametrize(
    ("gpa", "hpa"),
    [
        (0, 0x8000),
        (0x3FFF, 0xBFFF),
        (0x4000, None),
        (0x5FFF, None),
        (0x6000, 0x1000),
        (0x7FFF, 0x2FFF),
        (0x8000, None),
        (1 << 51, None),
    ],
)
def test_where_guest_memory_lies(gpa: int, hpa: int | None) -> None:
    """If wrong, guest memory is read elsewhere, or a hole is taken for memory."""
    memory = Memory(1 << 16)
    found = slots(memory)
    assert found.hpa(gpa) == hpa
    if hpa is None:
        found.store(gpa & ~7, 0)
        assert found.load(gpa & ~7) == (1 << 64) - 1
        assert found.load(gpa & ~7, 2) == 0xFFFF
    else:
        assert found.gpa(hpa) == gpa
        found.store(gpa & ~7, 0x55, 4)
        assert memory.load(hpa & ~7, 4) == found.load(gpa & ~7, 4) == 0x55
    memory.close()


def test_host_memory_that_backs_no_guest() -> None:
    """If wrong, an address of ours passes for one of the guest's."""
    memory = Memory(1 << 16)
    with pytest.raises(InvariantError, match="0x4000 backs no guest memory"):
        slots(memory).gpa(0x4000)
    memory.close()


@pytest.mark.parametrize(
    ("gpa", "size", "inside"),
    [
        (0, 0x4000, True),
        (0x1000, 0x3000, True),
        (0x1000, 0x3001, False),
        (0x3000, 0x4000, False),
        (0x5FFF, 2, False),
        (0x6000, 0x2000, True),
        (0x4000, 1, False),
    ],
)
def test_ranges_lie_in_one_slot(gpa: int, size: int, inside: bool) -> None:
    """If wrong, one large entry maps memory of two slots, or a hole."""
    memory = Memory(1 << 16)
    assert slots(memory).contains(gpa, size) is inside
    memory.close()
