"""Settings of parameters to test, a backend's or the MMU's, boundedly many."""

from __future__ import annotations

import itertools
from typing import TYPE_CHECKING, Any, TypeVar

from hvmmu.errors import ConfigError
from hvmmu.params import Param, Value, params_of

if TYPE_CHECKING:
    import random

T = TypeVar("T")
Setting = Any
"""An instance of a backend's attrs class of parameters."""

MOST = 16
"""The largest number of settings."""


def values(param: Param) -> list[Value]:
    """Return the values of a parameter to test, its default first."""
    found: list[Value] = [param.default]
    if param.type is bool:
        found.append(not param.default)
    elif param.type is int:
        found += [bound for bound in (param.least, param.most) if bound is not None]
    else:
        found += param.choices
    return list(dict.fromkeys(found))


def settings(params: type) -> list[Setting]:
    """Return instances of *params*: the defaults, each parameter changed alone, and combinations.

    These are all of them if they are few, else some at even distances. A combination that the class
    itself rejects is left out.
    """
    tried = {param.name: values(param) for param in params_of(params)}
    default = {name: some[0] for name, some in tried.items()}
    alone = [default | {name: one} for name, some in tried.items() for one in some[1:]]
    chosen = [default, *alone][:MOST]
    mixed = [dict(zip(tried, one, strict=True)) for one in _spread(list(tried.values()))]
    chosen += [one for one in mixed if one not in chosen]
    return [made for one in chosen[:MOST] if (made := _accepted(params, one)) is not None]


def drawn(params: type[T], draw: random.Random, **given: Value) -> T:
    """Return an instance of *params* drawn from the declarations; *given* values are fixed.

    A number is its default half of the time, else low, where limits and thresholds take effect.
    """
    chosen: dict[str, Value] = {}
    for param in params_of(params):
        tried = values(param)
        if param.type is int:
            low = param.least or 0
            tried = [low + more for more in (0, 1, 4, 8) if low + more <= (param.most or low)]
            tried += [param.default] * len(tried)
        chosen[param.name] = draw.choice(tried)
    return params(**{**chosen, **given})


def otherwise(params: type[T]) -> T:
    """Return an instance of *params* without defaults, wherever there is another value to test.

    Numbers have their lower bounds.
    """
    tested = {param.name: values(param)[:2] for param in params_of(params)}
    chosen: dict[str, Value] = {name: some[-1] for name, some in tested.items()}
    return params(**chosen)


def _spread(choices: list[list[Value]]) -> list[tuple[Value, ...]]:
    """Return combinations at even distances in the order of their enumeration."""
    total = 1
    for some in choices:
        total *= len(some)
    step = -(-total // MOST) | 1  # odd: an even step would leave every last bool as it is
    return list(itertools.islice(itertools.product(*choices), 0, min(total, 1 << 16), step))


def _accepted(params: type, chosen: dict[str, Value]) -> Setting:
    try:
        return params(**chosen)
    except ConfigError:
        return None
