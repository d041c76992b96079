"""EPT's entries, and the exit qualification of what they forbid."""

from hvmmu.arch import pfec as pf
from hvmmu.arch import pte
from hvmmu.arch.paging import PagingMode
from hvmmu.arch.regs import CpuFeatures
from hvmmu.arch.tdp import Need, TdpFormats, host_mode

EPT_R = 1 << 0
EPT_W = 1 << 1
EPT_X = 1 << 2
"""Fetches are allowed; with mode-based execute control only those from supervisor pages."""
EPT_A = 1 << 8
EPT_D = 1 << 9
EPT_XU = 1 << 10
"""With mode-based execute control: fetches from user pages are allowed."""
_MEMORY_TYPES = 0b0111_0011  # 2, 3 and 7 are reserved

# The exit qualification, SDM "VM-Exit Information Fields", beside bits 2:0, which are R, W and X.
_LINEAR = 1 << 7
"""The guest-linear address is valid."""
_FINAL = 1 << 8
_USER_PAGE, _WRITABLE_PAGE, _NX_PAGE = 1 << 9, 1 << 10, 1 << 11


def ept(
    cpu: CpuFeatures,
    levels: int = 4,
    *,
    accessed_dirty: bool = False,
    mode_based: bool = False,
    execute_only: bool = True,
    advanced: bool = False,
) -> TdpFormats:
    """Return EPT's entries with 4 or 5 *levels*: SDM "EPT Translation Mechanism".

    *accessed_dirty* is bit 6 of the EPTP, with which reads of the guest's tables count as writes:
    SDM "Accessed and Dirty Flags for EPT". *mode_based* is mode-based execute control;
    *execute_only* says whether X without R is well-formed: SDM "EPT Misconfigurations". *advanced*
    is advanced exit information: bits 11:9 of the qualification tell of the guest's page.
    """
    mode = host_mode(levels)
    user = EPT_XU if mode_based else 0
    fetch_user = user or EPT_X
    end = _LINEAR | _FINAL | (_NX_PAGE if advanced else 0)
    table = Need(EPT_R, EPT_R | _LINEAR)
    if accessed_dirty:  # both bits are reported then: SDM "EPT Violations"
        table = Need(EPT_R | EPT_W, EPT_R | EPT_W | _LINEAR, dirties=True)
    needs = (
        table,
        Need(EPT_R, EPT_R),  # a load of PDPTEs is a read in any case, and has no linear address
        Need(EPT_W, EPT_W | _LINEAR, dirties=True),
        Need(EPT_R, EPT_R | end),
        Need(EPT_W, EPT_W | end, dirties=True),
        Need(EPT_X, EPT_X | end),
        Need(fetch_user, EPT_X | end),
    )
    small, big, large = _reserved(mode, cpu)
    guest = ((pf.U, _USER_PAGE), (pf.W, _WRITABLE_PAGE), (pf.ID, _NX_PAGE))
    return TdpFormats(
        mode,
        present=EPT_R | EPT_W | EPT_X | user,
        inverted=0,
        large=large,
        reserved=small,
        reserved_large=big,
        without_read=EPT_W | (0 if execute_only else EPT_X | user),
        memory_types=_MEMORY_TYPES,
        accessed=EPT_A if accessed_dirty else 0,
        dirty=EPT_D if accessed_dirty else 0,
        needs=needs,
        codes=(0, 0, 0),
        reserved_tells=False,
        shown=((EPT_R, 1 << 3), (EPT_W, 1 << 4), (EPT_X, 1 << 5), *_if(mode_based, EPT_XU, 1 << 6)),
        guest_shown=guest if advanced else (),
    )


def _if(condition: bool, bit: int, code: int) -> tuple[tuple[int, int], ...]:
    return ((bit, code),) if condition else ()


def _reserved(
    mode: PagingMode, cpu: CpuFeatures
) -> tuple[tuple[int, ...], tuple[int, ...], tuple[bool, ...]]:
    """Return EPT's reserved bits of entries and of large ones, and which levels have large ones."""
    beyond = ~((1 << cpu.maxphyaddr) - 1) & pte.ADDRESS
    depth = len(mode.levels)
    small, big, large = [0] * (depth + 1), [0] * (depth + 1), [False] * (depth + 1)
    for level in mode.levels:
        n = level.level
        large[n] = level.large and (n != 3 or cpu.gbpages)
        # Only a leaf has a memory type; at level 1 bit 7 is ignored.
        small[n] = beyond | (0 if n == 1 else 0x78 if large[n] else 0xF8)
        big[n] = beyond | (level.span - 1 & pte.ADDRESS if n > 1 else 0)
    return tuple(small), tuple(big), tuple(large)
