"""The PVM backend's two halves, its structures, and what it cannot do."""

from __future__ import annotations

import pytest

from hvmmu.arch import pfec as pf
from hvmmu.arch.regs import CpuFeatures
from hvmmu.backend import CrWrite, Invlpg, MsrWrite, VmExit
from hvmmu.engine import EXIT_ALWAYS
from hvmmu.errors import BackendUnavailableError, InvariantError
from hvmmu.fault import PageFault
from hvmmu_pvm import hvmmu_cost_models
from hvmmu_pvm.backend import PvmBackend, PvmParams
from hvmmu_pvm.structures import R10, RAX, RBX, Hypercall, PvmVcpu, SwitchFlags

CPU = CpuFeatures(maxphyaddr=46)
VA = 0x7000_1008


class Cpu:
    """Registers that are still in the CPU."""

    def __init__(self) -> None:
        """Begin with zeros."""
        self.cr2, self.gprs = 0, [0] * 16


def made(*, switcher_filter: bool = False, cpu: CpuFeatures = CPU) -> tuple[PvmBackend, PvmVcpu]:
    """Return a backend and a vCPU of it."""
    backend = PvmBackend(PvmParams(switcher_filter=switcher_filter), cpu, frozenset())
    return backend, backend.create_vcpu(0)


@pytest.mark.parametrize(
    ("what", "reason"),
    [
        (PageFault(VA, pf.W), "PF_VECTOR"),
        (CrWrite(0, 0x8001_0001), "GP_VECTOR"),
        (CrWrite(3, 0x5000), "HC_LOAD_PGTBL"),
        (CrWrite(4, 0x20), "GP_VECTOR"),
        (MsrWrite(0xC000_0080, 0xD00), "HC_WRMSR"),
        (Invlpg(VA), "HC_TLB_INVLPG"),
    ],
)
def test_an_exit_is_read_as_it_was_written(what: VmExit, reason: str) -> None:
    """If wrong, the hypervisor acts on something that the guest did not do."""
    backend, control = made()
    cpu = Cpu()
    backend.record_exit(control, cpu, what)
    cpu.gprs = [0xDEAD] * 16  # what runs in between has registers of its own
    assert backend.exit_reason(control) == reason
    assert backend.decode_exit(control, cpu) == what


def test_hypercalls_have_their_number_in_rax() -> None:
    """If wrong, a guest kernel with PVM's patches asks for something else."""
    backend, control = made()
    cpu = Cpu()
    backend.record_exit(control, cpu, MsrWrite(0x10, 0x20))
    assert (cpu.gprs[RAX], cpu.gprs[RBX], cpu.gprs[R10]) == (0x1708_8208, 0x10, 0x20)
    backend.record_exit(control, cpu, CrWrite(3, 0x5000))
    assert (cpu.gprs[RAX], cpu.gprs[R10]) == (Hypercall.LOAD_PGTBL, 0x5000)


@pytest.mark.parametrize("user", [False, True])
def test_the_mode_is_put_back_into_the_error_code(user: bool) -> None:
    """If wrong, hardware's U, which is always set, is taken for the guest's."""
    backend, control = made()
    cpu = Cpu()
    if user:
        backend.switch_privilege(control, cpu, user=True)
    backend.record_exit(control, cpu, PageFault(VA, pf.U | pf.W))
    assert backend.decode_exit(control, cpu) == PageFault(VA, pf.W | (pf.U if user else 0))
    assert backend.deliver_page_fault(control, cpu, VA, pf.U) == (pf.U if user else 0)
    assert (cpu.cr2, control.tss.is_smod) == (VA, True)


def test_injection_goes_through_the_shared_structure() -> None:
    """If wrong, the guest's kernel finds no event in PVCS, or finds it twice, or in user mode."""
    backend, control = made()
    cpu = Cpu()
    backend.switch_privilege(control, cpu, user=True)
    backend.inject_page_fault(control, cpu, VA, pf.U)
    assert (control.pvcs.cr2, control.pvcs.event_errcode) == (VA, pf.U)
    assert control.tss.is_smod
    entry = backend.enter(control, cpu)
    assert (entry.vector, entry.error_code, cpu.cr2) == (14, pf.U, VA)
    assert backend.enter(control, cpu).vector is None


def test_each_mode_has_its_root() -> None:
    """If wrong, hardware walks the kernel's shadow tables for the user."""
    backend, control = made()
    backend.load_root(control, 0x1000)
    backend.load_user_root(control, 0x2000)
    assert backend.root(control) == 0x1000
    backend.switch_privilege(control, Cpu(), user=True)
    assert backend.root(control) == 0x2000
    with pytest.raises(InvariantError, match="the mode that it is in"):
        backend.switch_privilege(control, Cpu(), user=True)


@pytest.mark.parametrize("on", [False, True])
def test_the_filter(on: bool) -> None:
    """If wrong, a fault that is not the guest's own never reaches the hypervisor."""
    backend, control = made(switcher_filter=on)
    present = sum(1 << pfec for pfec in range(64) if pfec & pf.P)
    assert backend.exit_filter(control) == (present if on else EXIT_ALWAYS)
    assert backend.nonpresent().distinguishable is on
    assert bool(control.tss.switch_flags & SwitchFlags.DS_GUEST_PF) is on


def test_where_no_bit_is_reserved() -> None:
    """If wrong, the filter runs where it would give the user a mapping of nothing."""
    params, cpu = PvmParams(switcher_filter=True), CpuFeatures(maxphyaddr=52)
    with pytest.raises(BackendUnavailableError, match=r"pvm\.switcher_filter=1: .*MAXPHYADDR 52"):
        PvmBackend(params, cpu, frozenset({"switcher_filter"}))
    backend, control = made(switcher_filter=True, cpu=cpu)
    assert backend.effective == PvmParams(switcher_filter=False)
    assert backend.exit_filter(control) == EXIT_ALWAYS


def test_the_papers_prices() -> None:
    """If wrong, a cycle count cites a figure that the paper does not give."""
    single, nested = hvmmu_cost_models()
    assert (single.name, single.cycles("exits")) == ("pvm-single", 525)
    assert (nested.name, nested.cycles("exits")) == ("pvm-nested", 6500)
    for model in (single, nested):
        assert model.cycles("exits.PF_VECTOR") == model.cycles("exits.GP_VECTOR") == 895
        assert model.cycles("exits.HC_TLB_INVLPG") == 1150
        assert model.cycles("pvm.direct_switches") == 448
        assert all(cost.source for cost in model.costs)
