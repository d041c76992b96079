"""The world switch as data: found out from a backend that promises it, and from no other."""

from typing import Any, ClassVar

import pytest

from hvmmu._crossing import Crossing, crossing_of
from hvmmu._plugins import load
from hvmmu.arch.regs import CpuFeatures
from hvmmu.backend import Caps, Intercept, Paging, Registers, VmEntry, VmExit
from hvmmu.engine import HwThread
from hvmmu.fault import PageFault
from hvmmu.generic import Controls, GenericBackend, NoParams
from hvmmu.tlb import Scope


class Plain(GenericBackend):
    """The generic backend with the promise."""

    name = "plain"
    summary = "for tests"
    caps: ClassVar[Caps] = Caps(Paging.SHADOW, plain_switch=True)


class Unread(Plain):
    """Reads back another error code than was recorded."""

    caps = Plain.caps

    def decode_exit(self, control: Controls, registers: Registers) -> VmExit:
        """Change it."""
        read = super().decode_exit(control, registers)
        return PageFault(read.gva, 0) if isinstance(read, PageFault) else read


class Deaf(Plain):
    """Delivers nothing that is injected."""

    caps = Plain.caps

    def enter(self, control: Controls, registers: Registers) -> VmEntry:
        """Drop it."""
        entry = super().enter(control, registers)
        return VmEntry(entry.flush, entry.gva)


class Open(Plain):
    """Lets INVLPG through."""

    def intercepts(self, control: Controls) -> Intercept:
        """Leave it out."""
        return super().intercepts(control) & ~Intercept.INVLPG


class Heir(Plain):
    """Does the same, but says nothing of the promise."""

    def enter(self, control: Controls, registers: Registers) -> VmEntry:
        """Enter."""
        return super().enter(control, registers)


class Renamed(Plain):
    """Changes nothing of the switch."""

    name = "renamed"


def crossing(backend: type[Any], **params: bool) -> Crossing | None:
    """Return the facts of a backend under parameters."""
    cpu = CpuFeatures()
    return crossing_of(backend(backend.params(**params), cpu, frozenset()), HwThread(cpu))


def test_what_is_found_out() -> None:
    """If wrong, exits are counted under another name, or the TLB keeps what must go."""
    flushes = (Scope.PAGE, Scope.NON_GLOBAL, Scope.ALL, None)
    assert crossing(Plain) == Crossing("PAGE_FAULT", "INVLPG", flushes)
    assert crossing(Renamed) == crossing(Plain)


@pytest.mark.parametrize("backend", [GenericBackend, Unread, Deaf, Open, Heir])
def test_who_has_none(backend: type[Any]) -> None:
    """If wrong, the lane goes where a backend does what it was not asked for."""
    assert crossing(backend) is None
    assert backend.params is NoParams


@pytest.mark.parametrize(
    ("name", "params", "expected"),
    [
        ("vmx", {"vpid": True}, (Scope.PAGE, Scope.NON_GLOBAL, Scope.ALL, None)),
        ("vmx", {"vpid": False}, (Scope.ALL,) * 4),
        ("svm", {}, (Scope.PAGE, Scope.ALL, Scope.ALL, None)),
    ],
)
def test_the_vendors(name: str, params: dict[str, bool], expected: tuple[object, ...]) -> None:
    """If wrong, the lane flushes more or less than this vendor's entry does."""
    backend = load().backends.get(name)
    if backend is None:
        pytest.skip(f"{name} is not installed")
    found = crossing(backend, **params)
    assert found is not None
    assert found.flushes == expected
