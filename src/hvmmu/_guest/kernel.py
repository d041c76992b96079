"""The guest's kernel in C: its state, how it is called, and the errors that a call can end in.

`_core/guest.h` says what the state holds; Python reads it where it lies.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import attrs

from hvmmu._core.binding import ffi, lib
from hvmmu._guest.layout import LARGE_PAGE, MOST_REPEATS
from hvmmu.arch import pfec as pf
from hvmmu.errors import GuestMemoryError, InputError, InvariantError
from hvmmu.types import PAGE_SIZE

if TYPE_CHECKING:
    from collections.abc import Callable

    from hvmmu._guest.policy import GuestParams
    from hvmmu._guest.process import Process
    from hvmmu.vcpu import Vcpu

_SEGFAULTS = {
    lib.HV_GUEST_KERNEL_ADDRESS: "user mode touched kernel addresses",
    lib.HV_GUEST_NOT_MAPPED: "nothing is mapped there",
    lib.HV_GUEST_NOT_WRITABLE: "the mapping is not writable",
    lib.HV_GUEST_NOT_EXECUTABLE: "the mapping is not executable",
    lib.HV_GUEST_NO_ACCESS: "the mapping allows no access",
}
_IMPOSSIBLE = {
    lib.HV_GUEST_UNEXPECTED: "this guest sets up nothing that could raise it",
    lib.HV_GUEST_DIRECT_MAP: "the direct map is always present and writable",
    lib.HV_GUEST_REPEATED: f"delivered {MOST_REPEATS} times in a row for nothing",
}
_BROKEN = {
    lib.HV_GUEST_NOT_SHARED: "data frame {:#x} was dropped or shared, and nothing holds it",
    lib.HV_GUEST_NO_TABLE: "{:#x} is no page table whose entries are counted",
    lib.HV_GUEST_PARKED: "the page at {:#x} is parked, yet its region allows access",
    lib.HV_GUEST_NO_FILE: "the region at {:#x} has no file behind it",
}


class SegfaultError(InputError):
    """The workload touched memory that its process may not touch so."""

    def __init__(self, pid: int, gva: int, pfec: int, why: str) -> None:
        """Keep the faulting address and the error code."""
        self.pid, self.gva, self.pfec = pid, gva, pfec
        super().__init__(
            f"process {pid} at {gva:#x} ({pf.describe(pfec)}): {why};"
            " map it so before the workload touches it"
        )


class Kernel:
    """The kernel of one guest, which does to memory what *vcpu* lets it do."""

    process: Process
    """The one that runs."""

    def __init__(self, vcpu: Vcpu, params: GuestParams) -> None:
        memory = vcpu.guest_memory
        border = max(LARGE_PAGE, memory // 8 // LARGE_PAGE * LARGE_PAGE)
        chosen = {**attrs.asdict(params), "memory": memory}
        made = lib.hv_guest_new(ffi.new("hv_guest_params *", chosen), border)
        if made == ffi.NULL:
            raise MemoryError(f"no memory for the books of a guest of {memory:#x} bytes")
        self.vcpu = vcpu
        self.state = ffi.gc(made, lib.hv_guest_free)
        """The struct `hv_guest`."""
        self.drain: Callable[[], None] = lambda: None
        """Empties the buffer of the fault log."""
        self._self = self.state.self = ffi.new_handle(self)
        self.state.nx = vcpu.cpu.nx
        self.cpu = vcpu.guest_cpu
        """The struct `hv_guest_cpu`: how *vcpu* runs the kernel's instructions."""

    def call(self, function: Callable[..., int], *arguments: object) -> None:
        """Call a function in C with the state and *arguments*; raise what it ends in."""
        wrong = function(self.state, *arguments)
        self.vcpu.check(went=wrong != lib.HV_GUEST_RAISED)
        if wrong:
            raise self.error()

    def run(self, process: Process) -> None:
        """Have faults handled for *process* from now on."""
        self.process = process
        self.state.root, self.state.regions = process.root, process.regions.described

    def error(self) -> Exception:
        """Return the error that the last call ended in."""
        state = self.state
        wrong, value, gva, pfec = state.wrong, state.value, state.wrong_gva, state.wrong_pfec
        if wrong in _SEGFAULTS:
            return SegfaultError(self.process.pid, gva, pfec, _SEGFAULTS[wrong])
        if wrong in _IMPOSSIBLE:
            what = f"guest page fault at {gva:#x} ({pf.describe(pfec)})"
            return InvariantError(f"{what}: {_IMPOSSIBLE[wrong]}")
        if wrong in _BROKEN:
            return InvariantError(_BROKEN[wrong].format(value))
        if wrong == lib.HV_GUEST_NO_TABLE_FRAME:
            return _used_up("page-table", state.tables)
        if wrong == lib.HV_GUEST_NO_DATA_FRAME:
            return _used_up("data", state.data)
        return MemoryError("no memory for the guest's page cache")


def _used_up(name: str, zone: Any) -> GuestMemoryError:  # noqa: ANN401 - a struct of cffi's
    size = (zone.end - zone.first) // PAGE_SIZE
    return GuestMemoryError(
        f"the guest used up its {size} {name} frames, the last at"
        f" {zone.end - PAGE_SIZE:#x}; raise guest.memory"
    )


@ffi.def_extern()  # type: ignore[untyped-decorator]  # cffi's
def hv_guest_call(handle: Any, what: int) -> int:  # noqa: ANN401 - cffi's
    """Do what C asks for; return 0 if that ends in an exception, which the vCPU keeps."""
    kernel: Kernel = ffi.from_handle(handle)
    try:
        if what == lib.HV_GUEST_CALL_DRAIN:
            kernel.drain()
        else:
            kernel.process.regions.describe()
    except BaseException as error:  # noqa: BLE001 - raised again when C is out of the way
        kernel.vcpu.keep(error)
        return 0
    return 1
