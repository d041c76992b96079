"""A check: one rule for backends, MMUs or both, and a function that tests it.

Checks depend on capabilities, never on a backend's name.
"""

from __future__ import annotations

import enum
from typing import TYPE_CHECKING

import attrs

from hvmmu.backend import Paging

if TYPE_CHECKING:
    from collections.abc import Callable

    from hvmmu.testing.context import Context

LEVELS = (
    "packaging",
    "parameters",
    "architecture",
    "shadow",
    "routing",
    "transparency",
    "robustness",
)
"""The levels; a check's id begins with the name of its level."""

HIGHEST = len(LEVELS) - 1

BACKEND, MMU = "backend", "MMU"
BOTH = (BACKEND, MMU)
"""What a check may be of."""


class CheckFailure(Exception):  # noqa: N818 - the backend has failed
    """The rule of a check is broken; the message gives the values that show it."""


class NotApplicable(Exception):  # noqa: N818 - nothing is wrong
    """The check does not apply to this backend; the message gives the reason."""


class Need(enum.Enum):
    """A requirement of a check; the value is the reason for skipping it."""

    HYPERVISOR = "no hypervisor stands between this backend's guest and hardware"
    FILTER = "its hardware cannot choose by error code which page faults exit"
    DISTRIBUTION = "it does not come from an installed distribution"

    def is_met(self, context: Context) -> bool:
        """Return whether the backend meets it."""
        caps = context.backend.caps
        if self is Need.DISTRIBUTION:
            return context.distribution is not None
        if self is Need.FILTER:
            return caps.filters_page_faults
        return caps.paging is not Paging.BARE


@attrs.frozen
class Check:
    """One rule, and the function that tests a backend or an MMU against it."""

    id: str
    level: int
    rule: str
    """One sentence, repeated in the message of a failure."""
    reference: str
    """The source of the rule: a section of a manual, or a page of the docs."""
    needs: tuple[Need, ...]
    run: Callable[[Context], None] = attrs.field(repr=False, eq=False)
    of: tuple[str, ...] = (BACKEND,)
    """Who must keep it."""


_CHECKS: dict[str, Check] = {}


def check(
    name: str,
    *,
    rule: str,
    reference: str,
    needs: tuple[Need, ...] = (),
    of: tuple[str, ...] = (BACKEND,),
) -> Callable[[Callable[[Context], None]], Callable[[Context], None]]:
    """Register a function as a check; *name* is ``level.rule``."""
    level = LEVELS.index(name.partition(".")[0])

    def register(run: Callable[[Context], None]) -> Callable[[Context], None]:
        if name in _CHECKS:
            raise ValueError(f"there are two checks {name}")
        _CHECKS[name] = Check(name, level, rule, reference, needs, run, of)
        return run

    return register


def registered() -> tuple[Check, ...]:
    """Return the checks registered so far, by level, in the order of their definition."""
    return tuple(sorted(_CHECKS.values(), key=lambda one: one.level))
