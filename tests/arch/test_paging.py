"""The paging modes as tables: which one the registers select, and which bits it reserves."""

from __future__ import annotations

import pytest

from hvmmu.arch import pte
from hvmmu.arch.paging import (
    LEGACY32,
    LONG4,
    LONG5,
    MODES,
    PAE,
    PagingMode,
    formats,
    mode_of,
    reserved_pattern_works,
)
from hvmmu.arch.regs import (
    CR0_PE,
    CR0_PG,
    CR4_LA57,
    CR4_PAE,
    CR4_PGE,
    CR4_PKE,
    CR4_PSE,
    CR4_SMAP,
    CR4_SMEP,
    EFER_LMA,
    EFER_LME,
    EFER_NXE,
    CpuFeatures,
    Regs,
)

LONG = EFER_LME | EFER_LMA
ON = CR0_PE | CR0_PG
MAXPHYADDRS = range(36, 53)


@pytest.mark.parametrize(
    ("regs", "mode"),
    [
        (Regs(CR0_PE, 0, CR4_PAE, LONG), None),
        (Regs(ON, 0, 0, 0), LEGACY32),
        (Regs(ON, 0, CR4_PSE, 0), LEGACY32),
        (Regs(ON, 0, CR4_PAE, 0), PAE),
        (Regs(ON, 0, CR4_PAE, EFER_NXE), PAE),
        (Regs(ON, 0, CR4_PAE, LONG), LONG4),
        (Regs(ON, 0, CR4_PAE | CR4_LA57, LONG), LONG5),
    ],
)
def test_mode_of(regs: Regs, mode: PagingMode | None) -> None:
    """If wrong, tables are walked in a format that the guest did not select."""
    assert mode_of(regs) is mode


def test_modes_divide_the_address_as_the_manual_draws_it() -> None:
    """If wrong, some address is translated by another entry than the CPU's."""
    indices = {m.name: [level.index(0xFEDC_BA98_7654_3210) for level in m.levels] for m in MODES}
    assert indices == {
        "legacy32": [0x1D9, 0x143],
        "pae": [1, 0x1B2, 0x143],
        "long4": [0x175, 0x061, 0x1B2, 0x143],
        "long5": [0x0DC, 0x175, 0x061, 0x1B2, 0x143],
    }
    for mode in MODES:
        assert [level.level for level in mode.levels] == list(range(len(mode.levels), 0, -1))
        assert mode.levels[-1].span == 4096
        for above, below in zip(mode.levels, mode.levels[1:], strict=False):
            assert above.span == below.span << below.bits


@pytest.mark.parametrize(
    ("mode", "inside", "outside"),
    [
        (LEGACY32, [0, 0xFFFF_FFFF], [1 << 32, 1 << 63]),
        (PAE, [0, 0xFFFF_FFFF], [1 << 32, (1 << 64) - 1]),
        (
            LONG4,
            [0, (1 << 47) - 1, 0xFFFF_8000_0000_0000, (1 << 64) - 1],
            [1 << 47, 0xFFFF_7FFF_FFFF_FFFF, 1 << 63, 1 << 48],
        ),
        (
            LONG5,
            [0, 1 << 47, (1 << 56) - 1, 0xFF00_0000_0000_0000, (1 << 64) - 1],
            [1 << 56, 0xFEFF_FFFF_FFFF_FFFF, 1 << 57],
        ),
    ],
    ids=lambda value: value.name if isinstance(value, PagingMode) else "",
)
def test_canonical(mode: PagingMode, inside: list[int], outside: list[int]) -> None:
    """If wrong, an address that must be refused is translated, or the other way about."""
    assert all(mode.is_canonical(va) for va in inside)
    assert not any(mode.is_canonical(va) for va in outside)


@pytest.mark.parametrize("maxphyaddr", MAXPHYADDRS)
@pytest.mark.parametrize("mode", [LONG4, LONG5], ids=lambda mode: mode.name)
def test_reserved_bits_of_long_modes(mode: PagingMode, maxphyaddr: int) -> None:
    """If wrong, an entry that a CPU refuses is used, or one that it uses is refused.

    SDM "Reserved Bits": M-1 is the last address bit, and NX is reserved only while NXE is clear.
    """
    high = (1 << 52) - (1 << maxphyaddr)
    cpu = CpuFeatures(maxphyaddr=maxphyaddr)
    for efer, nx in ((LONG, pte.NX), (LONG | EFER_NXE, 0)):
        found = formats(mode, Regs(ON, 0, CR4_PAE, efer), cpu)
        assert found.reserved[1] == found.reserved_large[1] == high | nx  # PS is PAT there
        assert found.reserved[2] == found.reserved[3] == high | nx
        assert found.reserved_large[2] == high | nx | 0x1F_E000  # bits 20:13
        assert found.reserved_large[3] == high | nx | 0x3FFF_E000  # bits 29:13
        for level in range(4, len(mode.levels) + 1):
            assert found.reserved[level] == found.reserved_large[level] == high | nx | pte.PS
        assert found.large == (False, False, True, True, False, False)[: len(mode.levels) + 1]


def test_a_cpu_without_gigabyte_pages_reserves_ps() -> None:
    """If wrong, a 1 GiB leaf maps memory on a CPU that has none."""
    found = formats(LONG4, Regs(ON, 0, CR4_PAE, LONG | EFER_NXE), CpuFeatures(40, gbpages=False))
    assert not found.large[3]
    assert found.reserved[3] == found.reserved_large[3] == (1 << 52) - (1 << 40) | pte.PS


@pytest.mark.parametrize("mode", [LONG4, LONG5], ids=lambda mode: mode.name)
def test_bit_8_of_upper_entries(mode: PagingMode) -> None:
    """If wrong, AMD's must-be-zero bit 8 is looked for at the wrong levels."""
    cpu = CpuFeatures(maxphyaddr=40, mbz_bit8=True)
    found = formats(mode, Regs(ON, 0, CR4_PAE, LONG), cpu)
    marked = [n for n in range(1, len(mode.levels) + 1) if found.reserved[n] & pte.G]
    assert marked == list(range(4, len(mode.levels) + 1))


@pytest.mark.parametrize("maxphyaddr", MAXPHYADDRS)
def test_reserved_bits_of_pae(maxphyaddr: int) -> None:
    """If wrong, PAE's bits 62:52, or a page-directory pointer's own, pass for ignored."""
    high = (1 << 63) - (1 << maxphyaddr)
    cpu = CpuFeatures(maxphyaddr=maxphyaddr)
    for efer, nx in ((0, pte.NX), (EFER_NXE, 0)):
        found = formats(PAE, Regs(ON, 0, CR4_PAE, efer), cpu)
        assert found.reserved[1] == found.reserved[2] == high | nx
        assert found.reserved_large[2] == high | nx | 0x1F_E000
        assert found.reserved[3] == found.reserved_large[3] == high | pte.NX | 0x1E6
        assert found.large == (False, False, True, False)


@pytest.mark.parametrize(("maxphyaddr", "carried"), [(36, 4), (39, 7), (40, 8), (52, 8)])
def test_pse36(maxphyaddr: int, carried: int) -> None:
    """If wrong, a 4 MiB page lies elsewhere above 4 GiB, or bit 21 is not reserved."""
    cpu = CpuFeatures(maxphyaddr=maxphyaddr)
    on = formats(LEGACY32, Regs(ON, 0, CR4_PSE, 0), cpu)
    assert on.pse36 == ((1 << carried) - 1) << 13
    assert on.reserved_large[2] == 1 << 21 | (0x1F_E000 & ~on.pse36)
    assert on.reserved == (0, 0, 0)
    assert on.large[2]
    assert not formats(LEGACY32, Regs(ON, 0, 0, 0), cpu).large[2]


@pytest.mark.parametrize("nx", [False, True])
@pytest.mark.parametrize("maxphyaddr", MAXPHYADDRS)
def test_where_a_pattern_can_mark_an_entry(maxphyaddr: int, nx: bool) -> None:
    """If wrong, a mark is trusted that some CPU takes for a mapping, or a good one is refused."""
    cpu = CpuFeatures(maxphyaddr=maxphyaddr, nx=nx)
    every = pte.P | pte.ADDRESS | pte.NX
    assert reserved_pattern_works(every, cpu) is (maxphyaddr < 52 or not nx)
    assert not reserved_pattern_works(every & ~pte.P, cpu)
    assert not reserved_pattern_works(pte.P | 1 << (maxphyaddr - 1), cpu)
    assert reserved_pattern_works(pte.P | 1 << maxphyaddr, cpu) is (maxphyaddr < 52)
    assert reserved_pattern_works(pte.P | pte.NX, cpu) is not nx
    assert not reserved_pattern_works(pte.P | pte.PS | 0xFFE | 0x7FF << 52, cpu)


def test_cr4_bits_on_offer() -> None:
    """If wrong, a guest may set what its CPU has not, or not what it has."""
    always = CR4_PSE | CR4_PAE | CR4_PGE
    assert CpuFeatures(smep=False, smap=False, pku=False).cr4_allowed() == always
    assert CpuFeatures(smap=False, pku=False).cr4_allowed() == always | CR4_SMEP
    assert CpuFeatures().cr4_allowed() == always | CR4_SMEP | CR4_SMAP | CR4_PKE
