"""The SVM backend: the intercepts it sets, the exits it records and reads, what an entry does."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st
from structlog.testing import capture_logs

from hvmmu import _plugins as plugins
from hvmmu.arch import pfec as pf
from hvmmu.arch.regs import CpuFeatures
from hvmmu.backend import CrWrite, Intercept, Invlpg, MsrWrite, Paging, VmEntry, VmExit
from hvmmu.engine import EXIT_ALWAYS, EXIT_NEVER, HwThread
from hvmmu.errors import InvariantError
from hvmmu.fault import PageFault
from hvmmu.params import params_of
from hvmmu.spte import Nonpresent
from hvmmu.tlb import Scope
from hvmmu_svm.backend import SvmBackend, SvmParams, SvmVcpu
from hvmmu_svm.vmcb import ExitCode, Field

CPU = CpuFeatures(maxphyaddr=46)
U64 = st.integers(0, (1 << 64) - 1)
U32 = st.integers(0, (1 << 32) - 1)
EXITS = st.one_of(
    st.builds(PageFault, U64, st.integers(0, (1 << 16) - 1)),
    st.builds(CrWrite, st.sampled_from([0, 3, 4]), U64),
    st.builds(MsrWrite, U32, U64),
    st.builds(Invlpg, U64),
)
GPRS = st.lists(U64, min_size=16, max_size=16)


def svm(cpu: CpuFeatures = CPU) -> SvmBackend:
    """Make a backend."""
    return SvmBackend(SvmParams(), cpu, frozenset())


def reason(what: VmExit) -> str:
    """Return the name of the exit code that *what* must have."""
    match what:
        case PageFault():
            return "VMEXIT_EXCP14"
        case CrWrite():
            return f"VMEXIT_CR{what.cr}_WRITE"
        case MsrWrite():
            return "VMEXIT_MSR"
    return "VMEXIT_INVLPG"


def entered(backend: SvmBackend, control: SvmVcpu) -> VmEntry:
    """Enter the guest."""
    return backend.enter(control, HwThread(CPU))


# What it is.


def test_it_is_found_by_its_entry_point() -> None:
    """If wrong, a user who installed the plugin does not have the backend."""
    registry = plugins.load()
    assert registry.backends["svm"] is SvmBackend
    assert registry.origin("svm") == "hvmmu-svm"
    assert [problem for problem in registry.problems if problem.plugin == "svm"] == []


def test_what_it_says_of_itself() -> None:
    """If wrong, commands and comparisons offer what SVM has not, or hide what it has."""
    assert SvmBackend.caps.paging is Paging.SHADOW
    assert not SvmBackend.caps.filters_page_faults
    assert SvmBackend.compare_params == ()
    assert params_of(SvmBackend.params) == ()


def test_bypass_is_refused_with_the_reason() -> None:
    """If wrong, a user who wants the technique on AMD is not told why it cannot be."""
    assert list(SvmBackend.unsupported) == ["bypass_guest_pf"]
    why = SvmBackend.unsupported["bypass_guest_pf"]
    assert why == (
        "AMD SVM cannot select page faults by error code: an exception intercept is one bit per"
        " vector, so every page fault exits; use it with vmx"
    )


# The controls.


def test_all_page_faults_exit_or_none() -> None:
    """If wrong, SVM chooses page faults by error code, which no AMD CPU can."""
    backend = svm()
    control = backend.create_vcpu(0)
    assert control.vmcb.read(Field.INTERCEPT_EXCEPTIONS) == 1 << 14
    assert backend.exit_filter(control) == EXIT_ALWAYS
    control.vmcb.write(Field.INTERCEPT_EXCEPTIONS, 0xFFFF_BFFF)
    assert backend.exit_filter(control) == EXIT_NEVER


def test_every_paging_operation_exits() -> None:
    """If wrong, the guest changes a paging register behind the shadow MMU's back."""
    backend = svm()
    control = backend.create_vcpu(0)
    assert control.vmcb.read(Field.INTERCEPT_CR_WRITE) == 0b1_1001
    assert control.vmcb.read(Field.INTERCEPT_MISC1) == 1 << 25 | 1 << 28
    wanted = Intercept.CR0_WRITE | Intercept.CR3_WRITE | Intercept.CR4_WRITE
    wanted |= Intercept.EFER_WRITE | Intercept.INVLPG
    assert backend.intercepts(control) == wanted


@pytest.mark.parametrize("vcpu_id", [0, 1, 41])
def test_asids_are_never_zero(vcpu_id: int) -> None:
    """If wrong, two vCPUs share a tag, or VMRUN fails: ASID 0 is the host's."""
    assert svm().create_vcpu(vcpu_id).vmcb.read(Field.GUEST_ASID) == vcpu_id + 1


def test_root_goes_to_cr3() -> None:
    """If wrong, hardware walks something else than the shadow root."""
    backend = svm()
    control = backend.create_vcpu(0)
    backend.load_root(control, 0x12_3000)
    assert control.vmcb.read(Field.CR3) == 0x12_3000


@pytest.mark.parametrize("maxphyaddr", [36, 46, 52])
def test_unbuilt_entries_are_zero_on_every_cpu(maxphyaddr: int) -> None:
    """If wrong, SVM depends on reserved bits that it has no use for."""
    with capture_logs() as logs:
        backend = svm(CpuFeatures(maxphyaddr=maxphyaddr))
    assert backend.nonpresent() == Nonpresent(trap=0, notrap=0)
    assert backend.effective == SvmParams()
    assert logs == []


# Exits, written by hardware's half and read by the hypervisor's.


@given(EXITS, EXITS, GPRS, U64)
def test_an_exit_is_read_as_it_was_written(
    before: VmExit, what: VmExit, gprs: list[int], cr2: int
) -> None:
    """If wrong, the hypervisor acts on something that did not happen, or on the exit before."""
    backend = svm()
    control = backend.create_vcpu(0)
    backend.record_exit(control, HwThread(CPU), before)
    core = HwThread(CPU, gprs=list(gprs), cr2=cr2)
    backend.record_exit(control, core, what)
    assert backend.exit_reason(control) == reason(what)
    core.gprs[0] ^= 1  # VMEXIT loads the host's RAX: the guest's is in the VMCB
    assert backend.decode_exit(control, core) == what
    assert core.gprs[3:] == gprs[3:]
    assert core.cr2 == cr2  # APM: an intercepted page fault does not load CR2


@given(EXITS, GPRS, U64)
def test_what_the_vmcb_saved_comes_back(what: VmExit, gprs: list[int], cr2: int) -> None:
    """If wrong, a guest's RAX or CR2 is lost over an exit: the VMCB, not the CPU, keeps them."""
    backend = svm()
    control, core = backend.create_vcpu(0), HwThread(CPU, gprs=list(gprs), cr2=cr2)
    backend.record_exit(control, core, what)
    rax, core.gprs[0], core.cr2 = core.gprs[0], 1, 2
    assert backend.enter(control, core) == VmEntry()
    assert (core.gprs[0], core.cr2) == (rax, cr2)


def test_a_page_fault_lies_where_the_manual_says() -> None:
    """If wrong, the halves agree with each other and with no CPU."""
    backend = svm()
    control = backend.create_vcpu(0)
    backend.record_exit(control, HwThread(CPU), PageFault(0x7F12_3456_7008, pf.P | pf.W | pf.U))
    assert control.vmcb.read(Field.EXITCODE) == 0x4E
    assert control.vmcb.read(Field.EXITINFO1) == 7
    assert control.vmcb.read(Field.EXITINFO2) == 0x7F12_3456_7008


@pytest.mark.parametrize(("cr", "register"), [(3, 0), (4, 9), (0, 15)])
def test_a_cr_write_names_its_register(cr: int, register: int) -> None:
    """If wrong, the value of a MOV to CR is read from another register than it names."""
    backend = svm()
    control = backend.create_vcpu(0)
    control.vmcb.write(Field.EXITCODE, 0x10 + cr)
    control.vmcb.write(Field.EXITINFO1, 1 << 63 | register)
    control.vmcb.write(Field.RAX, 0xAAAA)
    core = HwThread(CPU, gprs=[n << 4 for n in range(16)])
    expected = 0xAAAA if register == 0 else register << 4
    assert backend.decode_exit(control, core) == CrWrite(cr, expected)


def test_an_exit_that_nothing_causes_is_our_bug() -> None:
    """If wrong, a nested page fault passes for something else under shadow paging."""
    backend = svm()
    control = backend.create_vcpu(0)
    control.vmcb.write(Field.EXITCODE, 0x400)
    with pytest.raises(InvariantError, match="VMEXIT 0x400"):
        backend.decode_exit(control, HwThread(CPU))


def test_exit_reasons_have_the_vendors_names() -> None:
    """If wrong, the counters call an exit by no name that a reader of the manual knows."""
    backend = svm()
    control = backend.create_vcpu(0)
    for code in ExitCode:
        control.vmcb.write(Field.EXITCODE, code)
        assert backend.exit_reason(control) == code.name


# Entries.


@given(U64, st.integers(0, (1 << 16) - 1))
def test_injection_sets_cr2_in_the_vmcb_and_happens_once(gva: int, pfec: int) -> None:
    """If wrong, the guest finds a stale CR2 (EVENTINJ loads none), or takes the fault twice."""
    backend = svm()
    control, core = backend.create_vcpu(0), HwThread(CPU, cr2=1)
    backend.record_exit(control, core, PageFault(gva ^ 8, pfec))
    backend.inject_page_fault(control, core, gva, pfec)
    # Valid, error code valid, exception (3), vector 14; the error code above.
    assert control.vmcb.read(Field.EVENTINJ) == pfec << 32 | 1 << 31 | 1 << 11 | 3 << 8 | 14
    assert control.vmcb.read(Field.CR2) == gva
    assert backend.enter(control, core) == VmEntry(vector=14, error_code=pfec)
    assert core.cr2 == gva
    assert backend.enter(control, core) == VmEntry()


@pytest.mark.parametrize(
    ("explicit", "scope", "gva", "tlb_control"),
    [
        ([(Scope.PAGE, 0x5000)], Scope.PAGE, 0x5000, 0),
        ([(Scope.PAGE, 0x5000), (Scope.PAGE, 0x5000)], Scope.PAGE, 0x5000, 0),
        ([(Scope.PAGE, 0x5000), (Scope.PAGE, 0x6000)], Scope.ALL, 0, 3),
        ([(Scope.NON_GLOBAL, 0)], Scope.ALL, 0, 3),
        ([(Scope.ALL, 0), (Scope.PAGE, 0x6000)], Scope.ALL, 0, 3),
        ([(Scope.PAGE, 0x6000), (Scope.ALL, 0)], Scope.ALL, 0, 3),
    ],
)
def test_flushes_wait_for_the_entry(
    explicit: list[tuple[Scope, int]], scope: Scope, gva: int, tlb_control: int
) -> None:
    """If wrong, an entry drops less from the TLB than was asked for, or drops it again later.

    One address goes by INVLPGA; anything more by TLB_CONTROL, which flushes all of this guest's.
    """
    backend = svm()
    control = backend.create_vcpu(0)
    for one in explicit:
        backend.flush_tlb(control, *one)
    assert control.vmcb.read(Field.TLB_CONTROL) == tlb_control
    entry = entered(backend, control)
    assert entry.flush is scope
    assert scope is not Scope.PAGE or entry.gva == gva
    assert control.vmcb.read(Field.TLB_CONTROL) == 0
    assert entered(backend, control).flush is None
