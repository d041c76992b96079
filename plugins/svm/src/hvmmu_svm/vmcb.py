"""The VMCB: fields under their manual names and offsets, APM "Layout of VMCB"."""

import enum


class Field(enum.Enum):
    """The fields in use: offset and size in bytes; the state-save area begins at 0x400."""

    INTERCEPT_CR_WRITE = (0x002, 2)
    INTERCEPT_EXCEPTIONS = (0x008, 4)
    INTERCEPT_MISC1 = (0x00C, 4)
    GUEST_ASID = (0x058, 4)
    TLB_CONTROL = (0x05C, 1)
    EXITCODE = (0x070, 8)
    EXITINFO1 = (0x078, 8)
    EXITINFO2 = (0x080, 8)
    EVENTINJ = (0x0A8, 8)
    CR3 = (0x550, 8)
    RAX = (0x5F8, 8)
    CR2 = (0x640, 8)


class ExitCode(enum.IntEnum):
    """Exit codes in use: APM "SVM Intercept Exit Codes"."""

    VMEXIT_CR0_WRITE = 0x10
    VMEXIT_CR3_WRITE = 0x13
    VMEXIT_CR4_WRITE = 0x14
    VMEXIT_EXCP14 = 0x4E
    VMEXIT_INVLPG = 0x79
    VMEXIT_MSR = 0x7C


class Vmcb:
    """One VMCB: 4 KiB of memory that starts as zero."""

    SIZE = 0x1000

    def __init__(self) -> None:
        self._bytes = bytearray(self.SIZE)

    def read(self, field: Field) -> int:
        """Return the value of a field."""
        offset, size = field.value
        return int.from_bytes(self._bytes[offset : offset + size], "little")

    def write(self, field: Field, value: int) -> None:
        """Set a field; OverflowError if the value is wider than the field."""
        offset, size = field.value
        self._bytes[offset : offset + size] = value.to_bytes(size, "little")
