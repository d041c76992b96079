"""The native backend: no hypervisor. Hardware walks the guest's own tables, and nothing exits."""

from collections.abc import Mapping
from types import MappingProxyType
from typing import ClassVar, NoReturn

from attrs import frozen

from hvmmu.arch.regs import CpuFeatures
from hvmmu.backend import API_VERSION, Caps, Intercept, Paging, Registers, VmEntry, VmExit
from hvmmu.engine import EXIT_NEVER
from hvmmu.errors import InvariantError
from hvmmu.spte import Nonpresent
from hvmmu.tlb import Scope


@frozen(eq=False)
class NativeParams:
    """A bare machine has no module parameters."""


class NativeBackend:
    """What every other backend is compared with."""

    name: ClassVar[str] = "native"
    api_version: ClassVar[int] = API_VERSION
    summary: ClassVar[str] = "no hypervisor: what a bare machine does"
    caps: ClassVar[Caps] = Caps(Paging.BARE)
    params: ClassVar[type] = NativeParams
    unsupported: ClassVar[Mapping[str, str]] = MappingProxyType({})
    compare_params: ClassVar[tuple[str, ...]] = ()

    def __init__(self, params: NativeParams, cpu: CpuFeatures, explicit: frozenset[str]) -> None:
        del cpu, explicit
        self.effective = params

    def create_vcpu(self, vcpu_id: int) -> None:
        """Return nothing: there is no control structure."""

    def switch_profile(self, control: None) -> None:
        """Return nothing: there is no world switch."""

    def nonpresent(self) -> Nonpresent:
        """Return entries that nobody uses."""
        return Nonpresent()

    def exit_filter(self, control: None) -> int:
        """Return a filter that lets nothing out."""
        return EXIT_NEVER

    def intercepts(self, control: None) -> Intercept:
        """Return none."""
        return Intercept.NONE

    def root(self, control: None) -> int:
        """Refuse: the guest's CR3 is hardware's."""
        raise InvariantError("the native machine has no root but the guest's CR3")

    def load_root(self, control: None, root: int) -> NoReturn:
        """Refuse likewise."""
        raise InvariantError(f"nobody gives the native machine a root ({root:#x})")

    def record_exit(self, control: None, registers: Registers, what: VmExit) -> NoReturn:
        """Refuse: a bare machine has nowhere to exit to."""
        raise InvariantError(f"the native machine exited: {what}")

    def enter(self, control: None, registers: Registers) -> VmEntry:
        """Refuse likewise."""
        raise InvariantError("the native machine was entered")

    def exit_reason(self, control: None) -> str:
        """Refuse likewise."""
        raise InvariantError("the native machine has no exit reason")

    def decode_exit(self, control: None, registers: Registers) -> VmExit:
        """Refuse likewise."""
        raise InvariantError("the native machine has no exit")

    def inject_page_fault(
        self, control: None, registers: Registers, gva: int, pfec: int
    ) -> NoReturn:
        """Refuse likewise."""
        raise InvariantError("nobody injects into the native machine")

    def flush_tlb(self, control: None, scope: Scope, gva: int) -> NoReturn:
        """Refuse likewise."""
        raise InvariantError("nobody flushes the native machine from outside")
