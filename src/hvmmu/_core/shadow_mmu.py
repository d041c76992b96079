"""Shadow paging of a 4-level guest: the Python face of `shadow_mmu.c`.

A 1 GiB page is mapped in pieces of 2 MiB or 4 KiB. Of a *deprivileged* guest, which hardware runs
as user even in its kernel, there are two roots: one for the guest's kernel, and one for its user
mode, in which no supervisor page is mapped.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import attrs

from hvmmu._core.binding import ffi, lib
from hvmmu._core.engine import c_formats
from hvmmu._core.shadow_pages import ShadowPage, ShadowPages, checked
from hvmmu.arch.paging import LONG4, formats, mode_of
from hvmmu.arch.regs import CpuFeatures, Regs
from hvmmu.arch.role import Role
from hvmmu.errors import BackendUnavailableError
from hvmmu.fault import Cause, FaultOutcome, PageFault, Route
from hvmmu.flush import Flush
from hvmmu.tlb import SCOPES, Scope
from hvmmu.types import PAGE_SHIFT

if TYPE_CHECKING:
    from collections.abc import Callable

    from hvmmu._mmu_params import MmuParams
    from hvmmu.memory import Memslots
    from hvmmu.spte import Nonpresent

_ROUTES, _CAUSES = tuple(Route), tuple(Cause)
_REGS = tuple(field.name for field in attrs.fields(Regs))


class ShadowVm:
    """What the vCPUs of one virtual machine share: memory, shadow pages and parameters.

    Host frames below *end_frame* are the shadow tables'. *write* stores an entry (hpa, value) that
    hardware may be using; without it, memory is written.
    """

    def __init__(
        self,
        slots: Memslots,
        nonpresent: Nonpresent,
        params: MmuParams,
        *,
        end_frame: int,
        deprivileged: bool = False,
        write: Callable[[int, int], None] | None = None,
    ) -> None:
        self.params, self._write = params, write
        self._error: BaseException | None = None
        memory = slots.memory
        self._bytes = ffi.from_buffer("uint8_t[]", memory.bytes.obj)
        memory.before_close(lambda: ffi.release(self._bytes))
        parts = ffi.new("hv_memslot[]", [(s.gpa, s.size, s.hpa) for s in slots.slots])
        made = lib.hv_vm_new(self._bytes, memory.size, parts, len(parts), end_frame)
        if made == ffi.NULL:
            checked(lib.HV_NO_HOST_MEMORY)
        vm = self.pointer = ffi.gc(made, lib.hv_vm_free)
        for field in attrs.fields(type(params)):
            if field.type is not str:
                setattr(vm.params, field.name, getattr(params, field.name))
        vm.deprivileged = deprivileged
        vm.pages.trap, vm.pages.notrap = nonpresent
        if write is not None:
            self._self = vm.pages.writer = ffi.new_handle(self)
            vm.pages.write = ffi.addressof(lib, "hv_write_pte")
        self.pages = ShadowPages(vm.pages, slots, nonpresent)

    def write(self, hpa: int, value: int) -> None:
        """Store an entry for C; an exception is kept until C has returned."""
        try:
            if self._write is not None:
                self._write(hpa, value)
        except BaseException as error:  # noqa: BLE001 - raised again when C is out of the way
            self._error = error

    def checked(self, result: int) -> int:
        """Return what C returned; raise what went wrong in it."""
        if self._error is not None:
            error, self._error = self._error, None
            raise error
        return checked(result)


class ShadowMmu:
    """The MMU of one vCPU; several may share a virtual machine."""

    def __init__(self, vm: ShadowVm, cpu: CpuFeatures) -> None:
        self.vm, self._cpu = vm, cpu
        self.pointer = lib.hv_mmu_new(vm.pointer)
        if self.pointer == ffi.NULL:
            checked(lib.HV_NO_HOST_MEMORY)
        self._out = ffi.new("hv_fault_outcome *")
        self._walked = ffi.new("hv_walked *")
        self._formats: dict[tuple[int, int], Any] = {}
        self._regs = self._hardware = Regs()

    @property
    def pages(self) -> ShadowPages:
        """The shadow pages."""
        return self.vm.pages

    @property
    def guest_regs(self) -> Regs:
        """The guest's registers as last loaded."""
        return self._regs

    @property
    def role(self) -> Role:
        """The part of a role that comes from the guest's registers."""
        return Role(self.pointer.role)

    @property
    def root(self) -> ShadowPage | None:
        """The shadow of the guest's root table, its kernel's if two; None while paging is off."""
        frame = self.pointer.root.page
        return self.pages.page(frame) if frame else None

    @property
    def user_root(self) -> int | None:
        """Where the root for a deprivileged guest's user mode lies; None if there is none."""
        return (self.pointer.user_root.page << PAGE_SHIFT) or None

    @property
    def built(self) -> int:
        """Shadow pages that were built since the start."""
        return len(self.pages) + self.zapped

    @property
    def zapped(self) -> int:
        """Shadow pages that were zapped since the start."""
        return self.pages.zapped

    def load_guest(self, regs: Regs) -> tuple[Regs, Flush]:
        """Take over the guest's registers; return those that hardware must run with.

        Raise BackendUnavailableError for a paging mode that is not shadowed, GuestMemoryError where
        there is no room for a root.
        """
        mode = mode_of(regs)
        if mode is not None and mode is not LONG4:
            raise BackendUnavailableError(
                f"the guest turned on {mode.name} paging, and shadow paging has only {LONG4.name};"
                " run it on the native backend"
            )
        known = ffi.NULL if mode is None else self._formats_of(regs)
        self._regs = regs
        given = ffi.new("hv_regs *", [getattr(regs, name) for name in _REGS])
        scope = self.vm.checked(lib.hv_mmu_load_guest(self.pointer, given, known))
        hardware = self.pointer.hardware
        self._hardware = Regs(*[getattr(hardware, name) for name in _REGS])
        return self._hardware, Flush(SCOPES[scope])

    def _formats_of(self, regs: Regs) -> Any:  # noqa: ANN401 - a struct of cffi's
        key = regs.cr4, regs.efer
        if key not in self._formats:
            self._formats[key] = c_formats(formats(LONG4, regs, self._cpu))
        return self._formats[key]

    def reload(self) -> tuple[Regs, Flush]:
        """Return hardware's registers once more, with new roots if the old ones were zapped."""
        scope = self.vm.checked(lib.hv_mmu_reload(self.pointer))
        root = self.pointer.hardware.cr3
        if root != self._hardware.cr3:
            self._hardware = attrs.evolve(self._hardware, cr3=root)
        return self._hardware, Flush(SCOPES[scope])

    def handle(self, fault: PageFault) -> tuple[FaultOutcome, Flush]:
        """Route one fault that exited.

        INSTALL, ACCESSED_DIRTY and SPURIOUS mean that the access is to be tried again; INJECT that
        the guest gets the fault with the error code returned; EMULATE and MMIO that the caller
        completes the access at the guest-physical address returned.
        """
        out = self._out
        self.vm.checked(lib.hv_mmu_handle(self.pointer, fault.gva, fault.pfec, out, self._walked))
        route, cause = _ROUTES[out.route], _CAUSES[out.cause]
        outcome = FaultOutcome(route, cause, out.pfec, out.level, out.gpa, out.walk_refs)
        return outcome, Flush(SCOPES[out.flush])

    def invlpg(self, gva: int) -> Flush:
        """Return the flush INVLPG is: the shadow is in step with the guest's tables anyway."""
        return Flush(Scope.PAGE, gva)

    def emulate_store(self, gpa: int, value: int, size: int) -> Flush:
        """Complete a guest's store of *size* bytes at *gpa*, and carry it into the shadow."""
        return Flush(SCOPES[self.vm.checked(lib.hv_mmu_store(self.pointer, gpa, value, size))])


@ffi.def_extern()  # type: ignore[untyped-decorator]
def hv_write_pte(handle: Any, hpa: int, value: int) -> None:  # noqa: ANN401
    """Store an entry that hardware may be using."""
    vm: ShadowVm = ffi.from_handle(handle)
    vm.write(hpa, value)
