"""The engines that come with hvmmu, the default first: the compiled one wherever it was built."""

from hvmmu.hw.compiled import CompiledEngine
from hvmmu.hw.engine import Engine
from hvmmu.hw.readable import ReadableEngine
from hvmmu.log import get_logger

ENGINES: tuple[type[Engine], ...] = (
    (ReadableEngine, CompiledEngine) if CompiledEngine.why_not else (CompiledEngine, ReadableEngine)
)
DEFAULT = ENGINES[0]


def tell_of_fallback() -> None:
    """Log that the slow engine is the default because the fast one was not built, if it was not."""
    if CompiledEngine.why_not:
        get_logger().warning(
            "compiled_engine_missing", instead=DEFAULT.name, why=CompiledEngine.why_not
        )
