"""Run the permission matrix on a machine, and compare the results with the oracle's."""

from __future__ import annotations

from array import array
from typing import TYPE_CHECKING

import attrs

from hvmmu.arch import pfec as pf
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
)
from hvmmu.engine import NO_TRANSLATION
from hvmmu.spec.oracle import ACCESSED, DIRTY, Expected, Mode
from hvmmu.testing.permission_matrix import ROOT, PermissionMatrix
from hvmmu.vcpu import Resume, Vcpu

if TYPE_CHECKING:
    from hvmmu.arch.regs import CpuFeatures
    from hvmmu.testing.context import Context
    from hvmmu.testing.settings import Setting

MODES = (
    Mode(),
    Mode(wp=False),
    Mode(nxe=False),
    Mode(wp=False, nxe=False),
    Mode(smep=True),
    Mode(smep=True, wp=False),
    Mode(smep=True, nxe=False),
    Mode(smap=True),
    Mode(smap=True, wp=False),
    Mode(smap=True, ac=True, wp=False),
    Mode(smap=True, nxe=False),
    Mode(smep=True, smap=True),
    Mode(pke=True, access_disable=True),
    Mode(pke=True, write_disable=True),
    Mode(pke=True, write_disable=True, wp=False),
)


def modes(cpu: CpuFeatures) -> list[Mode]:
    """Return the modes that this CPU supports."""
    return [
        mode
        for mode in MODES
        if (cpu.nx or not mode.nxe)
        and (cpu.smep or not mode.smep)
        and (cpu.smap or not mode.smap)
        and (cpu.pku or not mode.pke)
    ]


@attrs.define
class Mismatches:
    """The first mismatch of each kind, in one line; empty if there is none."""

    outcome: str = ""
    code: str = ""
    cr2: str = ""
    translation: str = ""
    accessed: str = ""
    dirty: str = ""
    other: str = ""

    def note(self, kind: str, line: str) -> None:
        """Note a mismatch, if it is the first of its kind."""
        if not getattr(self, kind):
            setattr(self, kind, line)


def run_matrix(context: Context) -> Mismatches:
    """Make all accesses of the matrix in every mode.

    The default setting is tried in all modes, the others take turns in half of them.
    """
    mismatches = Mismatches()
    cpu = context.cpu()
    whole, less = (PermissionMatrix(cpu.maxphyaddr, whole=whole) for whole in (True, False))
    default, *others = context.settings()
    for nth, mode in enumerate(modes(cpu)):
        _MatrixRun(context, default, cpu, mode, mismatches).at(whole if nth < 2 else less)
        if others and nth % 2 == 0:
            _MatrixRun(context, others[nth // 2 % len(others)], cpu, mode, mismatches).at(less)
        if mismatches != Mismatches():
            break  # one mode is enough
    return mismatches


@attrs.frozen
class _MatrixRun:
    """One machine that runs a matrix."""

    context: Context
    setting: Setting
    cpu: CpuFeatures
    mode: Mode
    mismatches: Mismatches

    def at(self, matrix: PermissionMatrix) -> None:
        """Make the accesses, and note each difference from the oracle's results."""
        gva = array("Q", [case.gva for case in matrix.cases])
        kind = bytes(case.access.kind for case in matrix.cases)
        translated = array("Q", [NO_TRANSLATION]) * len(gva)
        faults: list[tuple[int, int]] = []
        with self.context.machine(self.setting, self.cpu) as platform:
            vcpu = platform.vcpu

            def page_fault(pfec: int) -> Resume:
                faults.append((vcpu.cr2, pfec))
                return Resume.SKIP

            vcpu.page_fault = page_fault
            for gpa, entry in matrix.entries.items():
                vcpu.boot_store(gpa, entry)
            _turn_on(vcpu, self.mode)
            vcpu.run(gva, kind, translated)
            after = {gpa: vcpu.peek(gpa) for gpa in matrix.entries}
        self._compare(matrix, translated, faults, after)

    def _compare(
        self,
        matrix: PermissionMatrix,
        translated: array[int],
        faults: list[tuple[int, int]],
        after: dict[int, int],
    ) -> None:
        outcomes, expected, entries = matrix.expected_results(self.mode)
        taken = iter(faults)
        for case, outcome, right, at in zip(
            matrix.cases, outcomes, expected, translated, strict=True
        ):
            access = f"{pf.describe(case.access.kind)} at {case.gva:#x}"
            cr2, code = next(taken, (0, None)) if at == NO_TRANSLATION else (0, None)
            if (code is None) != (outcome.code is None):
                self._note(
                    "outcome", f"{access} {_verb(code)}; by the manual it {_verb(outcome.code)}"
                )
                return  # later accesses are out of step
            if code != outcome.code:
                self._note(
                    "code", f"{access} {_verb(code)}; by the manual it {_verb(outcome.code)}"
                )
            elif code is not None and cr2 != case.gva:
                self._note("cr2", f"{access} {_verb(code)}, and CR2 is {cr2:#x}")
            elif code is None and at != right:
                self._note("translation", f"{access} reaches {at:#x}, and should reach {right:#x}")
        self._compare_entries(matrix, outcomes, entries, after)

    def _compare_entries(
        self,
        matrix: PermissionMatrix,
        outcomes: list[Expected],
        entries: dict[int, int],
        after: dict[int, int],
    ) -> None:
        for case, outcome in zip(matrix.cases, outcomes, strict=True):
            access = f"{pf.describe(case.access.kind)} at {case.gva:#x} {_verb(outcome.code)}"
            for level, gpa in zip((4, 3, 2, 1), case.walk, strict=False):
                wrong = after[gpa] ^ entries[gpa]
                was = f"its entry of level {level} is {after[gpa]:#x}, not {entries[gpa]:#x}"
                for bit, kind in ((ACCESSED, "accessed"), (DIRTY, "dirty")):
                    if wrong & bit:
                        self._note(kind, f"{access}, and {was}")
                if wrong & ~(ACCESSED | DIRTY):
                    self._note("other", f"{access}, and {was}")

    def _note(self, kind: str, line: str) -> None:
        self.mismatches.note(kind, f"{line}; {self.mode}, {self.setting}")


def _verb(code: int | None) -> str:
    return "succeeds" if code is None else f"faults with {code:#x} ({pf.describe(code)})"


def _turn_on(vcpu: Vcpu, mode: Mode) -> None:
    guards = (mode.smep * CR4_SMEP) | (mode.smap * CR4_SMAP) | (mode.pke * CR4_PKE)
    vcpu.write_cr4(CR4_PAE | guards)
    vcpu.write_efer(EFER_LME | EFER_LMA | (mode.nxe * EFER_NXE))
    vcpu.write_cr3(ROOT << 12)
    vcpu.write_cr0(CR0_PE | CR0_PG | (mode.wp * CR0_WP))
    vcpu.write_pkru(mode.access_disable * 0x5555_5555 | mode.write_disable * 0xAAAA_AAAA)
    vcpu.write_rflags_ac(int(mode.ac))
