"""The suite: runs the checks up to a level, one by one, whatever a backend raises."""

from __future__ import annotations

import warnings
from contextlib import ExitStack
from importlib import import_module
from importlib.metadata import version
from typing import TYPE_CHECKING, Any

from structlog.testing import capture_logs

from hvmmu._engines import DEFAULT
from hvmmu._plugins.capture_output import captured_output
from hvmmu.errors import ConfigError
from hvmmu.params import params_of, printable
from hvmmu.testing.check import HIGHEST, Check, CheckFailure, NotApplicable, registered
from hvmmu.testing.context import EXAMPLES, Context
from hvmmu.testing.error_text import error_text
from hvmmu.testing.report import FAILED, PASSED, SKIPPED, Report, Result
from hvmmu.testing.target import Target, find_target

if TYPE_CHECKING:
    from collections.abc import Callable

    from hvmmu._hooks import RunHooks
    from hvmmu._plugins import Registry
    from hvmmu.backend import Backend
    from hvmmu.engine import Engine

LOADS = "packaging.loads"
"""The check that fails if the plugin cannot be loaded; all others are skipped then."""


_MODULES = (
    "packaging",
    "parameters",
    "architecture",
    "handover",
    "shadow_checks",
    "routing",
    "transparency",
    "robustness",
)


def checks(level: int = HIGHEST) -> tuple[Check, ...]:
    """Return the checks up to a level, in the order of a run."""
    for name in _MODULES:
        import_module(f"hvmmu.testing.{name}")
    return tuple(check for check in registered() if check.level <= level)


def run_check(check: Check, context: Context) -> Result:
    """Run one check; any exception but an interrupt becomes its result."""
    outcome, message = PASSED, ""
    lacking = [need.value for need in check.needs if not need.is_met(context)]
    if lacking:
        return Result(check.id, check.level, SKIPPED, lacking[0], check.rule, check.reference)
    try:
        with capture_logs(), warnings.catch_warnings():
            warnings.simplefilter("ignore")
            check.run(context)
    except CheckFailure as failure:
        outcome, message = FAILED, str(failure)
    except NotApplicable as reason:
        outcome, message = SKIPPED, str(reason)
    except KeyboardInterrupt:
        raise
    except BaseException as error:  # noqa: BLE001 - a backend may raise anything
        outcome, message = FAILED, error_text(error)
    return Result(check.id, check.level, outcome, message, check.rule, check.reference)


def context_of(
    tested: Target,
    *,
    examples: int | None = None,
    seed: int = 0,
    engine: type[Engine] | None = None,
) -> Context:
    """Return the context that the checks of a loaded backend share."""
    if tested.backend is None:
        raise ConfigError([f"{tested.name} could not be loaded"])
    return Context(
        tested.backend,
        tested.hooks,
        tested.plugin,
        tested.module,
        tested.distribution,
        EXAMPLES if examples is None else examples,
        seed,
        DEFAULT if engine is None else engine,
    )


def check_backend(
    given: str | type[Backend[Any]],
    *,
    level: int = HIGHEST,
    examples: int | None = None,
    seed: int = 0,
    plugin: object = None,
    hooks: RunHooks | None = None,
    registry: Registry | None = None,
    first_only: bool = False,
    progress: Callable[[int], None] | None = None,
    engine: type[Engine] | None = None,
) -> Report:
    """Run the suite on a backend, given as its class or its name; return the report.

    *level* is the highest to run, 0 to 6. *examples* random programs are run, drawn from *seed*.
    *plugin* (any object that implements them) or *hooks* give the hooks that a backend relies on; a
    backend of an installed plugin has that plugin's. *first_only* ends at the first failure.
    *engine* is the MMU model, by default the one that users run. Raise InputError for an unknown
    name.
    """
    tested = find_target(given, plugin=plugin, hooks=hooks, registry=registry)
    count = EXAMPLES if examples is None else examples
    results = []
    chosen = checks(level)
    context = (
        None
        if tested.backend is None
        else context_of(tested, examples=count, seed=seed, engine=engine)
    )
    for nth, check in enumerate(chosen):
        if progress is not None:
            progress(nth)
        results.append(_unloaded(check, tested) if context is None else _quietly(check, context))
        if first_only and results[-1].outcome == FAILED:
            break
    backend = tested.backend
    return Report(
        backend=printable(tested.name),
        distribution=tested.origin,
        api_version=getattr(backend, "api_version", None),
        parameters=_defaults(getattr(backend, "params", None)),
        level=level,
        examples=count,
        seed=seed,
        hvmmu_version=version("hvmmu"),
        results=tuple(results),
    )


def _quietly(check: Check, context: Context) -> Result:
    with ExitStack() as stack:
        stack.enter_context(captured_output())
        return run_check(check, context)


def _unloaded(check: Check, tested: Target) -> Result:
    failed = check.id == LOADS
    cause = "" if tested.plugin is None else str(tested.plugin)
    message = cause if failed else "the backend could not be loaded"
    outcome = FAILED if failed else SKIPPED
    return Result(check.id, check.level, outcome, message, check.rule, check.reference)


def _defaults(params: Any) -> dict[str, bool | int | str]:  # noqa: ANN401 - of any type
    try:
        return {param.name: param.default for param in params_of(params)}
    except Exception:  # noqa: BLE001 - no attrs class: a check reports it
        return {}
