"""The engines that come with hvmmu, the default first."""

from hvmmu._core.engine import CompiledEngine
from hvmmu.engine import Engine
from hvmmu.spec.engine import ReferenceEngine

ENGINES: tuple[type[Engine], ...] = (CompiledEngine, ReferenceEngine)
DEFAULT = ENGINES[0]
