"""What a user can choose about the guest."""

from attrs import frozen

from hvmmu._guest.layout import LARGE_PAGE
from hvmmu.errors import ConfigError
from hvmmu.params import param


@frozen(eq=False)
class PagerPolicy:
    """How the pager writes the entries that a fault asks for."""

    set_accessed_dirty: bool = True


@frozen(eq=False)
class GuestParams:
    """The guest's module parameters."""

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

    @property
    def policy(self) -> PagerPolicy:
        """Return the part of the parameters that the pager reads."""
        return PagerPolicy(set_accessed_dirty=self.set_accessed_dirty)
