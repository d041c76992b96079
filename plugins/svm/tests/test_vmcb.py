"""The VMCB: fields at the manual's offsets, no wider than the manual makes them."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from hvmmu_svm.vmcb import ExitCode, Field, Vmcb

LAYOUT = {
    "INTERCEPT_CR_WRITE": (0x002, 2),
    "INTERCEPT_EXCEPTIONS": (0x008, 4),
    "INTERCEPT_MISC1": (0x00C, 4),
    "GUEST_ASID": (0x058, 4),
    "TLB_CONTROL": (0x05C, 1),
    "EXITCODE": (0x070, 8),
    "EXITINFO1": (0x078, 8),
    "EXITINFO2": (0x080, 8),
    "EVENTINJ": (0x0A8, 8),
    "CR3": (0x400 + 0x150, 8),
    "RAX": (0x400 + 0x1F8, 8),
    "CR2": (0x400 + 0x240, 8),
}
"""APM "Layout of VMCB": offset and bytes; the state-save area begins at 0x400."""


def test_offsets_and_sizes() -> None:
    """If wrong, a field lies on another's bytes."""
    assert {field.name: field.value for field in Field} == LAYOUT


def test_no_two_fields_overlap() -> None:
    """If wrong, the table above has a slip of its own."""
    taken = [at for start, size in LAYOUT.values() for at in range(start, start + size)]
    assert len(taken) == len(set(taken))
    assert max(taken) < Vmcb.SIZE == 4096


def test_exit_codes() -> None:
    """If wrong, an exit goes by another number than the manual's."""
    assert {code.name: code.value for code in ExitCode} == {
        "VMEXIT_CR0_WRITE": 0x10,
        "VMEXIT_CR3_WRITE": 0x13,
        "VMEXIT_CR4_WRITE": 0x14,
        "VMEXIT_EXCP14": 0x40 + 14,
        "VMEXIT_INVLPG": 0x79,
        "VMEXIT_MSR": 0x7C,
    }


@given(st.dictionaries(st.sampled_from(Field), st.integers(0, 255)))
def test_fields_are_apart(written: dict[Field, int]) -> None:
    """If wrong, writing one field changes another, or a field does not start as zero."""
    vmcb = Vmcb()
    for field, value in written.items():
        vmcb.write(field, value)
    assert {field: vmcb.read(field) for field in Field} == dict.fromkeys(Field, 0) | written


@pytest.mark.parametrize("field", Field, ids=lambda field: field.name)
def test_size_is_kept(field: Field) -> None:
    """If wrong, a value runs over into the next field, or one that fits is refused."""
    vmcb = Vmcb()
    most = (1 << 8 * field.value[1]) - 1
    vmcb.write(field, most)
    assert vmcb.read(field) == most
    for wrong in (most + 1, -1):
        with pytest.raises(OverflowError):
            vmcb.write(field, wrong)
    assert vmcb.read(field) == most
