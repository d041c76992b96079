"""The SVM backend of hvmmu: every page fault exits."""

from collections.abc import Iterable
from typing import Any

from hvmmu.backend import Backend
from hvmmu.hookspecs import hookimpl
from hvmmu_svm.backend import SvmBackend


@hookimpl
def hvmmu_backends() -> Iterable[type[Backend[Any]]]:
    """Offer the SVM backend."""
    return (SvmBackend,)
