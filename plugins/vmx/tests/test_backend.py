"""The VMX backend: the controls it writes, the exits it records and reads, what an entry does."""

from __future__ import annotations

from itertools import product

import attrs
import pytest
from hypothesis import given
from hypothesis import strategies as st
from structlog.testing import capture_logs

from hvmmu import _plugins as plugins
from hvmmu.arch import pfec as pf
from hvmmu.arch import pte
from hvmmu.arch.paging import LONG4, LONG5, PagingMode, formats
from hvmmu.arch.regs import CR0_PE, CR0_PG, CR4_PAE, EFER_LMA, EFER_LME, EFER_NXE, CpuFeatures, Regs
from hvmmu.backend import CrWrite, Intercept, Invlpg, MsrWrite, Paging, VmEntry, VmExit
from hvmmu.engine import EXIT_ALWAYS, HwThread
from hvmmu.errors import BackendUnavailableError, ConfigError, InvariantError
from hvmmu.fault import PageFault
from hvmmu.memory import Memory
from hvmmu.spec.walk import Outcome, walk
from hvmmu.spte import Nonpresent
from hvmmu.tlb import Scope
from hvmmu_vmx.backend import TRAP, VmxBackend, VmxParams, VmxVcpu
from hvmmu_vmx.vmcs import ExitReason, Field

CPU = CpuFeatures(maxphyaddr=46)
NO_RESERVED_BIT = CpuFeatures(maxphyaddr=52)
ODD = sum(1 << pfec for pfec in range(1, 64, 2))
U64 = st.integers(0, (1 << 64) - 1)
U32 = st.integers(0, (1 << 32) - 1)
EXITS = st.one_of(
    st.builds(PageFault, U64, st.integers(0, (1 << 16) - 1)),
    st.builds(CrWrite, st.sampled_from([0, 3, 4]), U64),
    st.builds(MsrWrite, U32, U64),
    st.builds(Invlpg, U64),
)
GPRS = st.lists(U64, min_size=16, max_size=16)
REASONS = {
    PageFault: "EXCEPTION_NMI",
    CrWrite: "CR_ACCESS",
    MsrWrite: "MSR_WRITE",
    Invlpg: "INVLPG",
}


def vmx(cpu: CpuFeatures = CPU, explicit: tuple[str, ...] = (), **params: bool) -> VmxBackend:
    """Make a backend from parameters and the names of those that somebody set."""
    return VmxBackend(VmxParams(**params), cpu, frozenset(explicit))


def entered(backend: VmxBackend, control: VmxVcpu) -> VmEntry:
    """Enter the guest."""
    return backend.enter(control, HwThread(CPU))


# What it is.


def test_it_is_found_by_its_entry_point() -> None:
    """If wrong, a user who installed the plugin does not have the backend."""
    registry = plugins.load()
    assert registry.backends["vmx"] is VmxBackend
    assert registry.origin("vmx") == "hvmmu-vmx"
    assert [problem for problem in registry.problems if problem.plugin == "vmx"] == []


def test_what_it_says_of_itself() -> None:
    """If wrong, commands and comparisons offer what VMX has not, or hide what it has."""
    assert VmxBackend.caps.paging is Paging.SHADOW
    assert VmxBackend.caps.filters_page_faults
    assert VmxBackend.compare_params == ("bypass_guest_pf",)
    assert VmxBackend.unsupported == {}


def test_parameters_as_kvm_has_them() -> None:
    """If wrong, a parameter's default is not kvm_intel's, or a wrong type is taken."""
    assert attrs.asdict(VmxParams()) == {"bypass_guest_pf": True, "vpid": True}
    with pytest.raises(ConfigError, match="bypass_guest_pf: 2 is not one of"):
        VmxParams(bypass_guest_pf=2)  # type: ignore[arg-type]


# The controls.


@pytest.mark.parametrize(("bypass", "mask"), [(False, 0), (True, 1)])
def test_the_filter_is_in_the_controls(bypass: bool, mask: int) -> None:
    """If wrong, the filter in force is not what the VMCS says."""
    backend = vmx(bypass_guest_pf=bypass)
    control = backend.create_vcpu(0)
    assert control.vmcs.read(Field.EXCEPTION_BITMAP) == 1 << 14
    assert control.vmcs.read(Field.PAGE_FAULT_ERROR_CODE_MASK) == mask
    assert control.vmcs.read(Field.PAGE_FAULT_ERROR_CODE_MATCH) == mask
    assert backend.exit_filter(control) == (ODD if bypass else EXIT_ALWAYS)
    control.vmcs.write(Field.EXCEPTION_BITMAP, 0)
    assert backend.exit_filter(control) == (EXIT_ALWAYS ^ ODD if bypass else 0)


def test_every_paging_operation_exits() -> None:
    """If wrong, the guest changes a paging register behind the shadow MMU's back."""
    backend = vmx()
    control = backend.create_vcpu(0)
    wanted = Intercept.CR0_WRITE | Intercept.CR3_WRITE | Intercept.CR4_WRITE
    wanted |= Intercept.EFER_WRITE | Intercept.INVLPG
    assert backend.intercepts(control) == wanted
    assert control.vmcs.read(Field.CR3_TARGET_COUNT) == 0  # a target value would spare the exit


@pytest.mark.parametrize("vcpu_id", [0, 1, 41])
def test_vpids_are_never_zero(vcpu_id: int) -> None:
    """If wrong, two vCPUs share a tag, or one has the host's, which is 0."""
    assert vmx().create_vcpu(vcpu_id).vmcs.read(Field.VIRTUAL_PROCESSOR_ID) == vcpu_id + 1
    off = vmx(vpid=False).create_vcpu(vcpu_id)
    assert off.vmcs.read(Field.VIRTUAL_PROCESSOR_ID) == 0


def test_root_goes_to_guest_cr3() -> None:
    """If wrong, hardware walks something else than the shadow root."""
    backend = vmx()
    control = backend.create_vcpu(0)
    backend.load_root(control, 0x12_3000)
    assert control.vmcs.read(Field.GUEST_CR3) == 0x12_3000


# Exits, written by hardware's half and read by the hypervisor's.


@given(EXITS, EXITS, GPRS, U64)
def test_an_exit_is_read_as_it_was_written(
    before: VmExit, what: VmExit, gprs: list[int], cr2: int
) -> None:
    """If wrong, the hypervisor acts on something that did not happen, or on the exit before."""
    backend = vmx()
    control = backend.create_vcpu(0)
    backend.record_exit(control, HwThread(CPU), before)
    core = HwThread(CPU, gprs=list(gprs), cr2=cr2)
    backend.record_exit(control, core, what)
    assert backend.exit_reason(control) == REASONS[type(what)]
    assert backend.decode_exit(control, core) == what
    assert core.gprs[3:] == gprs[3:]
    assert core.cr2 == cr2  # SDM: a page fault that exits does not load CR2


def test_a_page_fault_lies_where_the_manual_says() -> None:
    """If wrong, the halves agree with each other and with no CPU."""
    backend = vmx()
    control = backend.create_vcpu(0)
    backend.record_exit(control, HwThread(CPU), PageFault(0x7F12_3456_7008, pf.P | pf.W | pf.U))
    assert control.vmcs.read(Field.VM_EXIT_REASON) == 0
    assert control.vmcs.read(Field.EXIT_QUALIFICATION) == 0x7F12_3456_7008
    assert control.vmcs.read(Field.VM_EXIT_INTR_ERROR_CODE) == 7
    # Valid, error code valid, hardware exception (3), vector 14.
    assert control.vmcs.read(Field.VM_EXIT_INTR_INFO) == 1 << 31 | 1 << 11 | 3 << 8 | 14


@pytest.mark.parametrize(("cr", "register"), [(3, 0), (4, 9), (0, 15)])
def test_a_cr_write_names_its_register(cr: int, register: int) -> None:
    """If wrong, the value of a MOV to CR is read from another register than it names."""
    backend = vmx()
    control = backend.create_vcpu(0)
    control.vmcs.write(Field.VM_EXIT_REASON, ExitReason.CR_ACCESS)
    control.vmcs.write(Field.EXIT_QUALIFICATION, cr | register << 8)
    core = HwThread(CPU, gprs=[n << 4 for n in range(16)])
    assert backend.decode_exit(control, core) == CrWrite(cr, register << 4)


def test_an_exit_that_nothing_causes_is_our_bug() -> None:
    """If wrong, an EPT violation passes for something else under shadow paging."""
    backend = vmx()
    control = backend.create_vcpu(0)
    control.vmcs.write(Field.VM_EXIT_REASON, 48)
    with pytest.raises(InvariantError, match="reason 48"):
        backend.decode_exit(control, HwThread(CPU))


# Entries.


@given(U64, st.integers(0, (1 << 16) - 1))
def test_injection_sets_cr2_and_happens_once(gva: int, pfec: int) -> None:
    """If wrong, the guest finds a stale CR2 (no entry loads it), or takes the fault twice."""
    backend = vmx()
    control, core = backend.create_vcpu(0), HwThread(CPU, cr2=1)
    backend.inject_page_fault(control, core, gva, pfec)
    assert core.cr2 == gva
    assert control.vmcs.read(Field.VM_ENTRY_INTR_INFO) == 0x8000_0B0E
    assert control.vmcs.read(Field.VM_ENTRY_EXCEPTION_ERROR_CODE) == pfec
    core.cr2 = 2
    assert backend.enter(control, core) == VmEntry(vector=14, error_code=pfec)
    assert core.cr2 == 2
    assert backend.enter(control, core) == VmEntry()


@pytest.mark.parametrize(
    ("explicit", "scope", "gva"),
    [
        ([(Scope.PAGE, 0x5000)], Scope.PAGE, 0x5000),
        ([(Scope.PAGE, 0x5000), (Scope.PAGE, 0x5000)], Scope.PAGE, 0x5000),
        ([(Scope.PAGE, 0x5000), (Scope.PAGE, 0x6000)], Scope.ALL, 0),
        ([(Scope.NON_GLOBAL, 0), (Scope.PAGE, 0x6000)], Scope.NON_GLOBAL, 0),
        ([(Scope.ALL, 0), (Scope.PAGE, 0x6000)], Scope.ALL, 0),
    ],
)
def test_flushes_wait_for_the_entry(
    explicit: list[tuple[Scope, int]], scope: Scope, gva: int
) -> None:
    """If wrong, an entry drops less from the TLB than was asked for, or drops it again later."""
    backend = vmx()
    control = backend.create_vcpu(0)
    for one in explicit:
        backend.flush_tlb(control, *one)
    entry = entered(backend, control)
    assert entry.flush is scope
    assert scope is not Scope.PAGE or entry.gva == gva
    assert entered(backend, control).flush is None


def test_without_vpid_every_entry_empties_the_tlb() -> None:
    """If wrong, turning VPID off costs nothing, as it does on no CPU."""
    backend = vmx(vpid=False)
    control = backend.create_vcpu(0)
    backend.flush_tlb(control, Scope.PAGE, 0x5000)
    assert [entered(backend, control).flush for _ in range(3)] == [Scope.ALL] * 3


# Where the technique is sound.


def test_the_entry_values() -> None:
    """If wrong, the marks are not those of KVM, or a build without the technique uses them."""
    assert TRAP == 0xFFFF_FFFF_FFFF_F001 == ~0xFFE & (1 << 64) - 1
    assert vmx().nonpresent() == Nonpresent(trap=TRAP, notrap=0)
    assert vmx(bypass_guest_pf=False).nonpresent() == Nonpresent(trap=0, notrap=0)


def codes_of_trap(cpu: CpuFeatures, mode: PagingMode, nxe: int) -> list[int | None]:
    """Walk to a trap entry at each level, root first; return the error codes, None for none."""
    cr4 = CR4_PAE | (1 << 12 if mode is LONG5 else 0)
    regs = Regs(CR0_PE | CR0_PG, 0x1000, cr4, EFER_LME | EFER_LMA | nxe)
    memory, codes = Memory(1 << 16), []
    for depth in range(1, len(mode.levels) + 1):
        memory.clear(0, 1 << 16)
        for nth in range(1, depth):
            memory.store(nth << 12, (nth + 1) << 12 | pte.P | pte.W)
        memory.store(depth << 12, TRAP)
        found = walk(memory, regs, formats(mode, regs, cpu), 0, pf.READ)
        codes.append(found.pfec if found.outcome is Outcome.PAGE_FAULT else None)
    memory.close()
    return codes


@pytest.mark.parametrize("mode", [LONG4, LONG5], ids=lambda mode: mode.name)
@pytest.mark.parametrize("maxphyaddr", range(36, 53))
def test_trap_faults_with_rsvd_wherever_bypass_stays_on(maxphyaddr: int, mode: PagingMode) -> None:
    """If wrong, bypass runs on a CPU where an unbuilt entry maps memory that is not the guest's."""
    for nx, gbpages in product((False, True), repeat=2):
        cpu = CpuFeatures(maxphyaddr=maxphyaddr, nx=nx, gbpages=gbpages)
        on = vmx(cpu).effective.bypass_guest_pf
        assert on is (maxphyaddr < 52 or not nx)
        for nxe in (0, EFER_NXE) if nx else (0,):
            codes = codes_of_trap(cpu, mode, nxe)
            if on:
                assert set(codes) == {pf.P | pf.RSVD}
            elif nxe:
                assert codes[-1] is None  # the danger: at level 1 it is a valid mapping


def test_bypass_is_turned_off_where_no_bit_is_reserved() -> None:
    """If wrong, a default nobody chose stops the run, or its absence goes unsaid."""
    with capture_logs() as logs:
        backend = vmx(NO_RESERVED_BIT)
    assert backend.effective == VmxParams(bypass_guest_pf=False)
    assert backend.nonpresent() == Nonpresent()
    assert backend.exit_filter(backend.create_vcpu(0)) == EXIT_ALWAYS
    [log] = logs
    assert log["event"] == "bypass_guest_pf_turned_off"
    assert log["log_level"] == "warning"
    assert log["backend"] == "vmx"
    assert "MAXPHYADDR 52" in log["why"]


def test_bypass_is_refused_where_it_was_asked_for() -> None:
    """If wrong, a user who asked for the technique gets numbers of a run without it."""
    with capture_logs() as logs, pytest.raises(BackendUnavailableError) as refused:
        vmx(NO_RESERVED_BIT, explicit=("bypass_guest_pf",))
    assert logs == []
    message = str(refused.value)
    assert "\n" not in message
    assert message.startswith("vmx.bypass_guest_pf=1: with MAXPHYADDR 52 and NX")
    assert "set it to 0, or cpu.maxphyaddr below 52" in message


@pytest.mark.parametrize("cpu", [CPU, attrs.evolve(NO_RESERVED_BIT, nx=False)])
def test_bypass_stays_on_in_silence_where_it_is_sound(cpu: CpuFeatures) -> None:
    """If wrong, a sound setting is refused or complained of."""
    with capture_logs() as logs:
        backend = vmx(cpu, explicit=("bypass_guest_pf",))
    assert backend.effective.bypass_guest_pf
    assert logs == []


def test_bypass_off_is_sound_everywhere() -> None:
    """If wrong, asking for bypass to be off is refused where it could not be on."""
    with capture_logs() as logs:
        backend = vmx(NO_RESERVED_BIT, explicit=("bypass_guest_pf",), bypass_guest_pf=False)
    assert backend.nonpresent() == Nonpresent()
    assert logs == []
