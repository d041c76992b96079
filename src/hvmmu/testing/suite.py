"""The suite: runs the checks up to a level, one by one, whatever a backend or an MMU raises."""

from __future__ import annotations

import warnings
from contextlib import ExitStack
from importlib import import_module
from importlib.metadata import version
from typing import TYPE_CHECKING, Any

from structlog.testing import capture_logs

from hvmmu._engines import DEFAULT
from hvmmu._plugins.capture_output import captured_output
from hvmmu.errors import BackendUnavailableError, ConfigError
from hvmmu.params import params_of, printable
from hvmmu.testing.check import (
    BACKEND,
    HIGHEST,
    MMU,
    Check,
    CheckFailure,
    NotApplicable,
    registered,
)
from hvmmu.testing.context import EXAMPLES, Context
from hvmmu.testing.error_text import error_text
from hvmmu.testing.mmu_backends import MMU_BACKENDS
from hvmmu.testing.report import FAILED, PASSED, SKIPPED, Report, Result
from hvmmu.testing.target import Target, find_target, kind_of

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from hvmmu._hooks import RunHooks
    from hvmmu._plugins import Registry
    from hvmmu.backend import Backend
    from hvmmu.engine import Engine
    from hvmmu.mmu import Mmu

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


def checks(level: int = HIGHEST, kind: str | None = None) -> tuple[Check, ...]:
    """Return the checks up to a level, of BACKEND or MMU, in the order of a run."""
    for name in _MODULES:
        import_module(f"hvmmu.testing.{name}")
    found = (check for check in registered() if check.level <= level)
    return tuple(check for check in found if kind is None or kind in check.of)


def run_check(check: Check, *contexts: Context) -> Result:
    """Run one check in each context, up to the first in which it fails.

    Any exception but an interrupt becomes its result.
    """
    results = []
    for context in contexts:
        results.append(_run_in(check, context))
        if results[-1].outcome == FAILED:
            break
    return min(results, key=lambda one: (FAILED, PASSED, SKIPPED).index(one.outcome))


def _run_in(check: Check, context: Context) -> Result:
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


def contexts_of(
    tested: Target,
    *,
    examples: int | None = None,
    seed: int = 0,
    engine: type[Engine] | None = None,
) -> tuple[Context, ...]:
    """Return the contexts that the checks of a loaded target share.

    A backend has one, an MMU one for each of the kit's backends that it supports.
    """
    if tested.made is None:
        raise ConfigError([f"{tested.name} could not be loaded"])
    made = tuple(
        Context(
            backend,
            tested.hooks,
            tested.plugin,
            tested.module,
            tested.distribution,
            EXAMPLES if examples is None else examples,
            seed,
            DEFAULT if engine is None else engine,
            tested.made if tested.kind == MMU else None,
        )
        for backend in ((tested.made,) if tested.kind == BACKEND else MMU_BACKENDS)
    )
    return tuple(one for one in made if one is made[0] or _works(one))


def _works(context: Context) -> bool:
    """Return whether an MMU supports a backend; checks report other failures."""
    try:
        with context.machine(context.settings()[0]):
            return True
    except BackendUnavailableError:
        return False
    except Exception:  # noqa: BLE001 - whatever it raises
        return True


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
    tested = find_target(given, BACKEND, plugin=plugin, hooks=hooks, registry=registry)
    return _report(
        tested, level, examples, seed, first_only=first_only, progress=progress, engine=engine
    )


def check_mmu(
    given: str | type[Mmu],
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
    """Run the suite on an MMU, given as its class or its name; return the report.

    It runs under backends of the kit: with and without a filter of page faults, and with a
    deprivileged guest if the MMU supports one. The arguments are those of `check_backend`;
    *plugin* or *hooks* have the section of the configuration with the MMU's parameters.
    """
    tested = find_target(given, MMU, plugin=plugin, hooks=hooks, registry=registry)
    return _report(
        tested, level, examples, seed, first_only=first_only, progress=progress, engine=engine
    )


def check_named(
    name: str,
    *,
    level: int,
    examples: int | None,
    seed: int,
    registry: Registry,
    progress: Callable[[int], None],
    engine: type[Engine] | None = None,
) -> Report:
    """Run the suite on the backend or the MMU with this name."""
    check = check_mmu if kind_of(name, registry) == MMU else check_backend
    return check(
        name,
        level=level,
        examples=examples,
        seed=seed,
        registry=registry,
        progress=progress,
        engine=engine,
    )


def _report(
    tested: Target,
    level: int,
    examples: int | None,
    seed: int,
    *,
    first_only: bool,
    progress: Callable[[int], None] | None,
    engine: type[Engine] | None,
) -> Report:
    count = EXAMPLES if examples is None else examples
    results: list[Result] = []
    loaded = tested.made is not None
    contexts = contexts_of(tested, examples=count, seed=seed, engine=engine) if loaded else ()
    for nth, check in enumerate(checks(level, tested.kind)):
        if progress is not None:
            progress(nth)
        results.append(_quietly(check, contexts) if loaded else _unloaded(check, tested))
        if first_only and results[-1].outcome == FAILED:
            break
    return Report(
        name=printable(tested.name),
        kind=tested.kind,
        distribution=tested.origin,
        api_version=getattr(tested.made, "api_version", None),
        parameters=_defaults(contexts),
        level=level,
        examples=count,
        seed=seed,
        hvmmu_version=version("hvmmu"),
        results=tuple(results),
    )


def _quietly(check: Check, contexts: Sequence[Context]) -> Result:
    with ExitStack() as stack:
        stack.enter_context(captured_output())
        return run_check(check, *contexts)


def _unloaded(check: Check, tested: Target) -> Result:
    failed = check.id == LOADS
    cause = "" if tested.plugin is None else str(tested.plugin)
    message = cause if failed else f"the {tested.kind} could not be loaded"
    outcome = FAILED if failed else SKIPPED
    return Result(check.id, check.level, outcome, message, check.rule, check.reference)


def _defaults(contexts: Sequence[Context]) -> dict[str, bool | int | str]:
    try:
        return {param.name: param.default for param in params_of(contexts[0].params)}
    except Exception:  # noqa: BLE001 - no attrs class: a check reports it
        return {}
