"""A shadow page's role: all that decides, beside the guest frame, what its entries must be.

A role is one integer, here and in C: `Role` names its bits, and C has the same names from here. The
MMU makes roles; everything else reads them. KVM's word is `kvm_mmu_page_role`.
"""

from collections.abc import Iterator
from typing import Self, overload

from hvmmu.arch import pfec as pf


class Field:
    """Some bits of a role, read as a number."""

    def __init__(self, shift: int, width: int) -> None:
        self.shift, self.width = shift, width

    @property
    def mask(self) -> int:
        """The field's bits, in their place."""
        return (1 << self.width) - 1 << self.shift

    @overload
    def __get__(self, role: None, owner: type) -> Self: ...

    @overload
    def __get__(self, role: int, owner: type) -> int: ...

    def __get__(self, role: int | None, owner: type) -> "int | Self":
        """Return the field's value in *role*; of the class, the field itself."""
        return self if role is None else (role & self.mask) >> self.shift


class Flag(Field):
    """One bit of a role, read as a boolean."""

    def __init__(self, shift: int) -> None:
        super().__init__(shift, 1)

    @overload
    def __get__(self, role: None, owner: type) -> Self: ...

    @overload
    def __get__(self, role: int, owner: type) -> bool: ...

    def __get__(self, role: int | None, owner: type) -> "bool | Self":
        """Return the flag's value in *role*; of the class, the flag itself."""
        return self if role is None else bool(role & self.mask)


class Role(int):
    """The role of a shadow page."""

    __slots__ = ()

    level = Field(0, 3)
    """Level of the page's entries; 1 is the one that maps 4 KiB pages."""
    direct = Flag(3)
    """Maps a guest large page in smaller pieces: no guest table lies behind it."""
    access = Field(4, 5)
    """Permissions of the path above, in the bits of a kind."""
    pkey = Field(9, 4)
    """Of a direct page: the protection key of the large page."""
    dirty = Flag(13)
    """Of a direct page: the large page's D, without which nothing in it may be writable."""
    bypassable = Flag(14)
    """Entries may be left for the guest alone to fault on: hardware's error code is the guest's."""
    pke = Flag(15)
    nxe = Flag(16)
    cr0_wp = Flag(17)
    smep_andnot_wp = Flag(18)
    smap_andnot_wp = Flag(19)
    deprivileged = Flag(20)
    """Belongs to one privilege of a guest that hardware runs as user: *user* says to which."""
    user = Flag(21)
    """Belongs to the user mode of a deprivileged guest."""

    def replace(self, **values: int) -> "Role":
        """Return the role with other values of some fields."""
        bits = int(self)
        for name, value in values.items():
            field = FIELDS[name]
            if not 0 <= value < 1 << field.width:
                raise ValueError(f"{name} of a role has {field.width} bits, and {value} has more")
            bits = bits & ~field.mask | value << field.shift
        return Role(bits)

    def __repr__(self) -> str:
        """Return the fields that are set."""
        values = {name: getattr(self, name) for name in FIELDS}
        values["access"] = pf.describe(self.access)
        return f"Role({', '.join(f'{name}={value}' for name, value in values.items() if value)})"


FIELDS = {name: field for name, field in vars(Role).items() if isinstance(field, Field)}
"""The layout by name, from bit 0 up."""


def layout() -> Iterator[tuple[str, int]]:
    """Yield name and value of C's constants: a mask for each field, and a shift if it is wider."""
    for name, field in FIELDS.items():
        yield name.upper(), field.mask
        if field.width > 1:
            yield f"{name.upper()}_SHIFT", field.shift
