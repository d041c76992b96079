"""A check: one rule that a backend or an MMU must keep, and a function that finds out if it does.

Checks ask for capabilities, never for a backend's name.
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
"""What each level is about; a check's id begins with its level's name."""

HIGHEST = len(LEVELS) - 1

BACKEND, MMU = "backend", "MMU"
BOTH = (BACKEND, MMU)
"""What a check may be of."""


class CheckFailure(Exception):  # noqa: N818 - what has failed is the backend
    """The rule of a check is broken; the message gives the values that show it."""


class NotApplicable(Exception):  # noqa: N818 - nothing is wrong
    """The check says nothing about this backend; the message says why."""


class Need(enum.Enum):
    """What a check needs of its backend; the value is what a skipped one lacks."""

    HYPERVISOR = "no hypervisor stands between this backend's guest and hardware"
    FILTER = "its hardware cannot choose by error code which page faults exit"
    DISTRIBUTION = "it does not come from an installed distribution"

    def is_met(self, context: Context) -> bool:
        """Say whether the backend has it."""
        caps = context.backend.caps
        if self is Need.DISTRIBUTION:
            return context.distribution is not None
        if self is Need.FILTER:
            return caps.filters_page_faults
        return caps.paging is not Paging.BARE


@attrs.frozen
class Check:
    """One rule, and how to find out whether it is kept."""

    id: str
    level: int
    rule: str
    """One sentence; it stands in every message of a failure."""
    reference: str
    """The manual's section, or the page of ours, that the rule is from."""
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
    """Register a function as a check; *name* is ``level.what-holds``."""
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
