"""The conformance kit: tests a backend or an MMU against rules of the manuals and of hvmmu.

Use `check_backend` and `check_mmu` in a notebook, `hvmmu check` on the command line, and
`BackendConformance` and `MmuConformance` under pytest, the only part that needs pytest.
"""

from typing import TYPE_CHECKING, Any

from hvmmu.testing.check import CheckFailure
from hvmmu.testing.report import SUITE_VERSION, Report, Result
from hvmmu.testing.suite import check_backend, check_mmu

if TYPE_CHECKING:
    from hvmmu.testing.conformance import BackendConformance, MmuConformance

__all__ = [
    "SUITE_VERSION",
    "BackendConformance",
    "CheckFailure",
    "MmuConformance",
    "Report",
    "Result",
    "check_backend",
    "check_mmu",
]


def __getattr__(name: str) -> Any:  # noqa: ANN401 - whatever a module has
    """Import the part that needs pytest on demand."""
    if name in ("BackendConformance", "MmuConformance"):
        from hvmmu.testing import conformance  # noqa: PLC0415 - needs pytest

        return getattr(conformance, name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
