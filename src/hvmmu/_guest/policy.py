"""What a user can choose about the guest, and what its pager counts faults by."""

from attrs import frozen

from hvmmu._guest.layout import LARGE_PAGE
from hvmmu.errors import ConfigError
from hvmmu.params import param

CAUSES = ("zero", "file", "cow_zero", "cow_copy", "cow_reuse", "exec_upgrade", "spurious")
"""Why a fault was taken; every handled fault has exactly one cause."""


@frozen(eq=False)
class GuestParams:
    """The guest's module parameters; C has them as a struct with the same fields."""

    memory: int = param(
        default=1 << 30,
        doc="guest RAM in bytes, a multiple of 2M; the host commits a page when it is touched",
        least=16 << 20,
        most=64 << 30,
        size=True,
    )
    set_accessed_dirty: bool = param(
        default=True,
        doc="write new entries with A set, and D where the fault was a write, as Linux does",
    )

    def __attrs_post_init__(self) -> None:
        """Refuse RAM that 2 MiB pages cannot map whole."""
        if self.memory % LARGE_PAGE:
            raise ConfigError([f"memory: {self.memory} is not a multiple of 2M; round it up"])
