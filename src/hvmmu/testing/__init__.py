"""The conformance kit: tests a backend against rules of the manuals and of hvmmu.

Use `check_backend` in a notebook, `hvmmu check` on the command line, and `BackendConformance` under
pytest, the only part that needs pytest.
"""

from typing import TYPE_CHECKING, Any

from hvmmu.testing.check import CheckFailure
from hvmmu.testing.report import SUITE_VERSION, Report, Result
from hvmmu.testing.suite import check_backend

if TYPE_CHECKING:
    from hvmmu.testing.conformance import BackendConformance

__all__ = [
    "SUITE_VERSION",
    "BackendConformance",
    "CheckFailure",
    "Report",
    "Result",
    "check_backend",
]


def __getattr__(name: str) -> Any:  # noqa: ANN401 - whatever a module has
    """Import the part that needs pytest on demand."""
    if name == "BackendConformance":
        from hvmmu.testing.conformance import BackendConformance  # noqa: PLC0415 - needs pytest

        return BackendConformance
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
