"""The kit under pytest: a class to inherit from, with a test for each check."""

from __future__ import annotations

from types import MappingProxyType
from typing import TYPE_CHECKING, Any, ClassVar

from hvmmu.errors import ConfigError
from hvmmu.params import did_you_mean, quote
from hvmmu.testing.check import HIGHEST
from hvmmu.testing.report import FAILED, SKIPPED
from hvmmu.testing.suite import LOADS, checks, context_of, run_check
from hvmmu.testing.target import find_target

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

    from hvmmu.backend import Backend
    from hvmmu.testing.context import Context

try:
    import pytest
except ImportError as error:  # pragma: no cover - the rest of the kit needs no pytest
    raise ImportError("BackendConformance needs pytest: pip install pytest") from error


class BackendConformance:
    """Inherit from this in a test module, and name the backend.

    ::

        class TestMine(BackendConformance):
            backend = "mine"

    Each check up to *level* is a test, with the check's id. Those in *expected_failures* are
    expected to fail, and it is a failure if one passes.
    """

    backend: ClassVar[str | type[Backend[Any]]]
    plugin: ClassVar[object] = None
    """The object whose hooks the backend relies on, unless an installed plugin has them."""
    level: ClassVar[int] = HIGHEST
    examples: ClassVar[int | None] = None
    seed: ClassVar[int] = 0
    expected_failures: ClassVar[Mapping[str, str]] = MappingProxyType({})
    """Ids of checks, each with the reason for its failure."""

    def __init_subclass__(cls, **kwargs: object) -> None:
        """Give the subclass its tests."""
        super().__init_subclass__(**kwargs)
        if not hasattr(cls, "backend"):
            return  # an intermediate base class
        known = [check.id for check in checks()]
        for name in cls.expected_failures:
            if name not in known:
                near = did_you_mean(name, known)
                raise ConfigError([f"{cls.__name__}: there is no check {quote(name)}{near}"])
        cls.test_conformance = _tests(cls)  # type: ignore[attr-defined]


def _tests(cls: type[BackendConformance]) -> Callable[..., None]:
    """Return the test function of a class, parametrised with the checks."""
    chosen = {check.id: check for check in checks(cls.level)}
    shared: list[Context] = []

    def context() -> Context:
        """Return the context that all checks of the class share, created by the first."""
        if not shared:
            tested = find_target(cls.backend, plugin=cls.plugin)
            if tested.backend is None:
                pytest.fail(f"{LOADS}: {tested.plugin}", pytrace=False)
            shared.append(context_of(tested, examples=cls.examples, seed=cls.seed))
        return shared[0]

    @pytest.mark.parametrize("check_id", list(chosen))
    def test_conformance(self: BackendConformance, check_id: str) -> None:  # noqa: ARG001
        """The rule of the check is broken."""
        __tracebackhide__ = True
        result = run_check(chosen[check_id], context())
        reason = cls.expected_failures.get(check_id)
        if result.outcome == SKIPPED:
            pytest.skip(result.message)
        if reason is not None and result.outcome == FAILED:
            pytest.xfail(reason)
        if reason is not None:
            pytest.fail(f"{check_id} was expected to fail ({reason}), and passes", pytrace=False)
        if result.outcome == FAILED:
            pytest.fail(str(result), pytrace=False)

    return test_conformance
