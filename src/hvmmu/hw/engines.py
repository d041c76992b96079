"""The engines that come with hvmmu, the default first: the compiled one wherever it was built."""

from hvmmu.hw.compiled import CompiledEngine
from hvmmu.hw.engine import Engine
from hvmmu.hw.readable import ReadableEngine

ENGINES: tuple[type[Engine], ...] = (
    (ReadableEngine, CompiledEngine) if CompiledEngine.why_not else (CompiledEngine, ReadableEngine)
)
DEFAULT = ENGINES[0]
