"""The kit under pytest: a class to inherit from, with a test for each check."""

from __future__ import annotations

from types import MappingProxyType
from typing import TYPE_CHECKING, Any, ClassVar

from hvmmu.errors import ConfigError
from hvmmu.params import did_you_mean, quote
from hvmmu.testing.check import BACKEND, HIGHEST, MMU
from hvmmu.testing.report import FAILED, SKIPPED
from hvmmu.testing.suite import LOADS, checks, contexts_of, run_check
from hvmmu.testing.target import find_target

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

    from hvmmu.backend import Backend
    from hvmmu.mmu import Mmu
    from hvmmu.testing.context import Context

try:
    import pytest
except ImportError as error:  # pragma: no cover - the rest of the kit needs no pytest
    raise ImportError("the conformance classes need pytest: pip install pytest") from error


class _Conformance:
    """What the classes for backends and MMUs have in common."""

    plugin: ClassVar[object] = None
    """The object whose hooks are relied on, if it is not an installed plugin's."""
    level: ClassVar[int] = HIGHEST
    examples: ClassVar[int | None] = None
    seed: ClassVar[int] = 0
    expected_failures: ClassVar[Mapping[str, str]] = MappingProxyType({})
    """Ids of checks, each with the reason why it fails."""
    kind: ClassVar[str]

    def __init_subclass__(cls, **kwargs: object) -> None:
        """Give the subclass its tests."""
        super().__init_subclass__(**kwargs)
        if not hasattr(cls, cls.kind.lower()):
            return  # a base of somebody's own
        known = [check.id for check in checks(kind=cls.kind)]
        for name in cls.expected_failures:
            if name not in known:
                near = did_you_mean(name, known)
                raise ConfigError([f"{cls.__name__}: there is no check {quote(name)}{near}"])
        cls.test_conformance = _tests(cls)  # type: ignore[attr-defined]


class BackendConformance(_Conformance):
    """Inherit from this in a test module, and name the backend.

    ::

        class TestMine(BackendConformance):
            backend = "mine"

    Each check up to *level* is a test, with the check's id. Those in *expected_failures* are
    expected to fail, and it is a failure if one passes.
    """

    kind = BACKEND
    backend: ClassVar[str | type[Backend[Any]]]


class MmuConformance(_Conformance):
    """The same for an MMU.

    ::

        class TestMine(MmuConformance):
            mmu = "mine"
    """

    kind = MMU
    mmu: ClassVar[str | type[Mmu]]


def _tests(cls: type[_Conformance]) -> Callable[..., None]:
    """Return the test function of a class, parametrised with the checks."""
    chosen = {check.id: check for check in checks(cls.level, cls.kind)}
    shared: list[Context] = []

    def contexts() -> list[Context]:
        """Return the contexts that all checks of the class share, created by the first."""
        if not shared:
            tested = find_target(getattr(cls, cls.kind.lower()), cls.kind, plugin=cls.plugin)
            if tested.made is None:
                pytest.fail(f"{LOADS}: {tested.plugin}", pytrace=False)
            shared.extend(contexts_of(tested, examples=cls.examples, seed=cls.seed))
        return shared

    @pytest.mark.parametrize("check_id", list(chosen))
    def test_conformance(self: _Conformance, check_id: str) -> None:  # noqa: ARG001
        """The rule of the check is broken."""
        __tracebackhide__ = True
        result = run_check(chosen[check_id], *contexts())
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
