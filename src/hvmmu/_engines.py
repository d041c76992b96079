"""The engines that come with hvmmu, the default first: the compiled one wherever it was built."""

from hvmmu._core.engine import CompiledEngine
from hvmmu.engine import Engine
from hvmmu.log import get_logger
from hvmmu.spec.engine import ReferenceEngine

ENGINES: tuple[type[Engine], ...] = (
    (ReferenceEngine, CompiledEngine)
    if CompiledEngine.why_not
    else (CompiledEngine, ReferenceEngine)
)
DEFAULT = ENGINES[0]


def tell_of_fallback() -> None:
    """Log that the slow engine is the default because the fast one was not built, if it was not."""
    if CompiledEngine.why_not:
        get_logger().warning(
            "compiled_engine_missing", instead=DEFAULT.name, why=CompiledEngine.why_not
        )
