"""The error codes that hardware can raise on an entry, found by walks to it."""

from __future__ import annotations

import itertools
from functools import cache
from typing import TYPE_CHECKING

import attrs

from hvmmu.arch import pfec as pf
from hvmmu.arch import pte
from hvmmu.arch.paging import LONG4, formats
from hvmmu.arch.regs import (
    CR0_PE,
    CR0_PG,
    CR0_WP,
    CR4_PAE,
    CR4_PKE,
    CR4_SMAP,
    CR4_SMEP,
    EFER_LMA,
    EFER_LME,
    EFER_NXE,
    CpuFeatures,
    Regs,
)
from hvmmu.spec.walk import Outcome, walk

if TYPE_CHECKING:
    from collections.abc import Iterator

GVA = sum(1 << shift for shift in (39, 30, 21, 12))
_LINK = pte.P | pte.W | pte.U | pte.A
_KEY = 1


@attrs.frozen
class Faults:
    """The results of every access through one entry."""

    codes: tuple[tuple[str, int], ...]
    """For each access that faulted: its description and the error code."""
    succeeded: tuple[str, ...]
    """The accesses that did not fault."""

    def all(self) -> set[int]:
        """Return the error codes."""
        return {code for _, code in self.codes}


class _Tables:
    """Memory with four tables of one entry each."""

    def __init__(self, level: int, entry: int) -> None:
        self._entries = {(5 - at) << 12 | 8: (6 - at) << 12 | _LINK for at in (4, 3, 2, 1)}
        self._entries[(5 - level) << 12 | 8] = entry

    def load(self, pa: int, size: int) -> int:
        del size
        return self._entries.get(pa, 0)

    def store(self, pa: int, value: int, size: int) -> None:
        """Ignore the store: A and D do not matter."""


def registers(cpu: CpuFeatures) -> Iterator[Regs]:
    """Yield the possible register values of hardware under shadow paging with 4-level tables.

    CR0.WP is always set; the rest is the guest's.
    """
    guards = [bits for has, bits in ((cpu.smep, CR4_SMEP), (cpu.smap, CR4_SMAP)) if has]
    keys = [0, CR4_PKE] if cpu.pku else [0]
    for nxe, guard, key in itertools.product([EFER_NXE, 0] if cpu.nx else [0], [0, *guards], keys):
        yield Regs(
            CR0_PE | CR0_PG | CR0_WP,
            1 << 12,
            CR4_PAE | guard | key,
            EFER_LME | EFER_LMA | nxe,
            pkru=3 << (2 * _KEY),
        )


@cache
def faults(
    entry: int, cpu: CpuFeatures, kinds: tuple[int, ...], levels: tuple[int, ...] = (4, 3, 2, 1)
) -> Faults:
    """Walk to *entry* at each level with every access type; it must not link another table."""
    codes, through = [], []
    for level, regs, kind in itertools.product(levels, registers(cpu), kinds):
        found = walk(_Tables(level, entry), regs, formats(LONG4, regs, cpu), GVA, kind)
        nxe = "on" if regs.efer & EFER_NXE else "off"
        how = f"{pf.describe(kind)} at level {level} with MAXPHYADDR {cpu.maxphyaddr}, NXE {nxe}"
        if found.outcome is Outcome.OK:
            through.append(how)
        else:
            codes.append((how, found.pfec))
    return Faults(tuple(codes), tuple(through))


@cache
def narrower(cpu: CpuFeatures, kinds: tuple[int, ...]) -> tuple[tuple[str, int], ...]:
    """Return the faults on present entries that deny the access.

    They are the hypervisor's if the guest's dirty bit is clear, if the frame is a page table, or if
    the guest's CR0.WP is clear; their codes are the same as those of the guest's own faults.
    """
    rights = itertools.product((0, pte.W), (0, pte.U), (0, pte.NX), (0, _KEY << pte.PKEY_SHIFT))
    found = []
    for w, u, nx, key in rights:
        if nx and not cpu.nx:
            continue
        entry = 7 << 12 | pte.P | pte.A | w | u | nx | key
        found += [one for one in faults(entry, cpu, kinds, (1,)).codes if not one[1] & pf.RSVD]
    return tuple(dict.fromkeys(found))
