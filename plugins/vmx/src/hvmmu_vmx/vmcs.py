"""The VMCS: fields under their manual names and encodings, SDM "Field Encoding in VMCS"."""

import enum


class Field(enum.IntEnum):
    """The fields in use; bits 14:13 of an encoding give the field's width."""

    VIRTUAL_PROCESSOR_ID = 0x0000
    EXCEPTION_BITMAP = 0x4004
    PAGE_FAULT_ERROR_CODE_MASK = 0x4006
    PAGE_FAULT_ERROR_CODE_MATCH = 0x4008
    CR3_TARGET_COUNT = 0x400A
    CPU_BASED_VM_EXEC_CONTROL = 0x4002
    SECONDARY_VM_EXEC_CONTROL = 0x401E
    VM_ENTRY_INTR_INFO = 0x4016
    VM_ENTRY_EXCEPTION_ERROR_CODE = 0x4018
    VM_EXIT_REASON = 0x4402
    VM_EXIT_INTR_INFO = 0x4404
    VM_EXIT_INTR_ERROR_CODE = 0x4406
    CR0_GUEST_HOST_MASK = 0x6000
    CR4_GUEST_HOST_MASK = 0x6002
    EXIT_QUALIFICATION = 0x6400
    GUEST_CR3 = 0x6802


class ExitReason(enum.IntEnum):
    """Basic exit reasons in use: SDM "VMX Basic Exit Reasons"."""

    EXCEPTION_NMI = 0
    INVLPG = 14
    CR_ACCESS = 28
    MSR_WRITE = 32


_WIDTHS = {0: 16, 1: 64, 2: 32, 3: 64}


def width(field: Field) -> int:
    """Return the width of a field in bits, which its encoding tells."""
    return _WIDTHS[field >> 13 & 3]


class Vmcs:
    """One VMCS; every field starts as zero."""

    def __init__(self) -> None:
        self._fields = dict.fromkeys(Field, 0)

    def read(self, field: Field) -> int:
        """VMREAD: return the value of a field."""
        return self._fields[field]

    def write(self, field: Field, value: int) -> None:
        """VMWRITE: set a field; ValueError if the value is wider than the field."""
        if value >> width(field):
            raise ValueError(f"{field.name} has {width(field)} bits, and {value:#x} does not fit")
        self._fields[field] = value
