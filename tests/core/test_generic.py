"""The backend in nobody's dialect: what a subclass of it may leave undone."""

from __future__ import annotations

from typing import ClassVar

import attrs
import pytest
from structlog.testing import capture_logs

from hvmmu.arch.regs import CpuFeatures
from hvmmu.errors import BackendUnavailableError
from hvmmu.generic import GenericBackend
from hvmmu.params import param


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
