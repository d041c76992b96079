"""The VMX backend of hvmmu: page faults filtered by error code."""

from collections.abc import Iterable
from typing import Any

from hvmmu.backend import Backend
from hvmmu.hookspecs import hookimpl
from hvmmu_vmx.backend import VmxBackend


@hookimpl
def hvmmu_backends() -> Iterable[type[Backend[Any]]]:
    """Offer the VMX backend."""
    return (VmxBackend,)
