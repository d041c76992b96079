"""The VMCS: fields where the manual puts them, no wider than the manual makes them."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from hvmmu_vmx.vmcs import ExitReason, Field, Vmcs, width

ENCODINGS = {
    "VIRTUAL_PROCESSOR_ID": (0x0000, 16),
    "EXCEPTION_BITMAP": (0x4004, 32),
    "PAGE_FAULT_ERROR_CODE_MASK": (0x4006, 32),
    "PAGE_FAULT_ERROR_CODE_MATCH": (0x4008, 32),
    "CR3_TARGET_COUNT": (0x400A, 32),
    "CPU_BASED_VM_EXEC_CONTROL": (0x4002, 32),
    "SECONDARY_VM_EXEC_CONTROL": (0x401E, 32),
    "VM_ENTRY_INTR_INFO": (0x4016, 32),
    "VM_ENTRY_EXCEPTION_ERROR_CODE": (0x4018, 32),
    "VM_EXIT_REASON": (0x4402, 32),
    "VM_EXIT_INTR_INFO": (0x4404, 32),
    "VM_EXIT_INTR_ERROR_CODE": (0x4406, 32),
    "CR0_GUEST_HOST_MASK": (0x6000, 64),
    "CR4_GUEST_HOST_MASK": (0x6002, 64),
    "EXIT_QUALIFICATION": (0x6400, 64),
    "GUEST_CR3": (0x6802, 64),
}
"""SDM "Field Encoding in VMCS": encoding, and width in bits (natural width is 64)."""
FIELDS = st.sampled_from(Field)


def test_encodings_and_widths() -> None:
    """If wrong, a field has another field's encoding or width."""
    assert {field.name: (field.value, width(field)) for field in Field} == ENCODINGS


def test_exit_reasons() -> None:
    """If wrong, an exit goes by another number than the manual's."""
    assert {reason.name: reason.value for reason in ExitReason} == {
        "EXCEPTION_NMI": 0,
        "INVLPG": 14,
        "CR_ACCESS": 28,
        "MSR_WRITE": 32,
    }


@given(st.dictionaries(FIELDS, st.integers(0, (1 << 16) - 1)))
def test_fields_are_apart(written: dict[Field, int]) -> None:
    """If wrong, writing one field changes another, or a field does not start as zero."""
    vmcs = Vmcs()
    for field, value in written.items():
        vmcs.write(field, value)
    assert {field: vmcs.read(field) for field in Field} == dict.fromkeys(Field, 0) | written


@pytest.mark.parametrize("field", Field, ids=lambda field: field.name)
def test_width_is_kept(field: Field) -> None:
    """If wrong, a field holds a value that silicon would cut off, or refuses one that fits."""
    vmcs = Vmcs()
    most = (1 << width(field)) - 1
    vmcs.write(field, most)
    assert vmcs.read(field) == most
    for wrong in (most + 1, -1):
        with pytest.raises(ValueError, match=f"{field.name} has {width(field)} bits"):
            vmcs.write(field, wrong)
    assert vmcs.read(field) == most
