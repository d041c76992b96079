"""The vendor-neutral backend: what a subclass of it may leave undone."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, ClassVar

import attrs
import pytest
from structlog.testing import capture_logs

from hvmmu.arch import pfec as pf
from hvmmu.arch.regs import CpuFeatures
from hvmmu.errors import BackendUnavailableError, PluginError
from hvmmu.fault import PageFault
from hvmmu.generic import Controls, GenericBackend, NoParams, profile_of
from hvmmu.machine import Machine, MachineConfig
from hvmmu.params import param
from hvmmu.tlb import Scope
from hvmmu.workloads import open_workload

if TYPE_CHECKING:
    from hvmmu.backend import SwitchProfile


@attrs.frozen
class Params:
    """Two parameters, of which one is about to be turned off."""

    trick: bool = param(default=True, doc="a trick of the CPU's")
    other: bool = param(default=True, doc="something else")


class Tricky(GenericBackend):
    """A backend with a trick that no CPU can do."""

    name: ClassVar[str] = "tricky"
    summary: ClassVar[str] = "a trick that no CPU can do"
    params: ClassVar[type] = Params

    def __init__(self, params: Params, cpu: CpuFeatures, explicit: frozenset[str]) -> None:
        super().__init__(params, cpu, explicit)
        self.do_without("trick", explicit, "no CPU can")


def test_what_a_cpu_cannot_do_is_turned_off() -> None:
    """A parameter says that a trick is in force which is not, or nobody hears of it."""
    with capture_logs() as logs:
        made = Tricky(Params(), CpuFeatures(), frozenset({"other"}))
    assert made.effective == Params(trick=False)
    assert logs == [
        {
            "event": "trick_turned_off",
            "log_level": "warning",
            "backend": "tricky",
            "why": "no CPU can",
        }
    ]


def test_what_was_asked_for_is_refused() -> None:
    """Somebody asks for a trick, and measures a machine without it."""
    with pytest.raises(BackendUnavailableError, match=r"^tricky\.trick=1: no CPU can; set it to 0"):
        Tricky(Params(), CpuFeatures(), frozenset({"trick"}))


class NamedByAccess(GenericBackend):
    """Names the exit of a page fault after the access; nothing else is its own."""

    name = "named"
    summary = "for tests"

    def exit_reason(self, control: Controls) -> str:
        """Return PF_WRITE or PF_READ for page faults."""
        if not isinstance(control.exit, PageFault):
            return super().exit_reason(control)
        return "PF_WRITE" if control.exit.pfec & pf.W else "PF_READ"


@pytest.mark.parametrize("simulate", [False, True])
def test_exits_are_named_as_the_backend_names_them(simulate: bool) -> None:
    """If wrong, a switch by the profile counts exits under another name than the backend's own."""
    machine = Machine(MachineConfig(NamedByAccess, NoParams(), simulate=simulate))
    for step in open_workload(None).steps():
        machine.step(step)
    exits = machine.vcpu.ledger.exits
    machine.close()
    assert (exits["PF_WRITE"], exits["PF_READ"]) == (257, 203)


@pytest.mark.parametrize(
    ("wrong", "said"),
    [
        ({"page_faults": ("A",) * 63}, "63 names, not one for each of 64"),
        ({"page_faults": (7,) * 64}, "a name of an exit is no text"),
        ({"invlpg": ""}, "a name of an exit is no text"),
        ({"flushes": {}}, "for None and for each Scope"),
        ({"flushes": dict.fromkeys((None, *Scope), "all")}, "for None and for each Scope"),
    ],
)
def test_a_malformed_profile_is_refused(wrong: dict[str, Any], said: str) -> None:
    """If wrong, C counts exits under names that are not there."""

    def profile(self: GenericBackend, control: Controls) -> SwitchProfile:
        del control
        return attrs.evolve(profile_of(self), **wrong)

    backend = type("Malformed", (NamedByAccess,), {"switch_profile": profile})
    with pytest.raises(PluginError, match=f"'named', switch_profile: .*{said}"):
        Machine(MachineConfig(backend, NoParams()))
