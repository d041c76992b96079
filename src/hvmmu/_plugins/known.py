"""What can be configured with the plugins that are loaded."""

from collections.abc import Mapping
from typing import Any

from hvmmu._config import Known
from hvmmu._cpu_params import CpuParams
from hvmmu._guest.policy import GuestParams
from hvmmu._mmu_params import MmuParams
from hvmmu._plugins.registry import Registry

BASELINE = "native"
"""The backend that others are compared with, and that comes first."""

CORE: Mapping[str, type] = {"mmu": MmuParams, "cpu": CpuParams, "guest": GuestParams}
"""The core's sections."""


def known_settings(registry: Registry) -> Known:
    """Return what can be configured with these plugins: the baseline first, then by name."""
    names = sorted(registry.backends, key=lambda name: (name != BASELINE, name))
    backends: dict[str, Any] = {name: registry.backends[name] for name in names}
    engines, models = tuple(registry.engines), tuple(registry.cost_models)
    return Known(CORE, backends, engines, models, registry.parameters)
