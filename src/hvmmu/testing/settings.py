"""Settings of a backend's parameters to try: enough of them, and never too many."""

from __future__ import annotations

import itertools
from typing import Any

from hvmmu.errors import ConfigError
from hvmmu.params import Param, Value, declared

Setting = Any
"""An instance of a backend's attrs class of parameters."""

MOST = 16
"""Settings tried at most."""


def values(param: Param) -> list[Value]:
    """Return the values of a parameter to try, its default first."""
    found: list[Value] = [param.default]
    if param.type is bool:
        found.append(not param.default)
    elif param.type is int:
        found += [bound for bound in (param.least, param.most) if bound is not None]
    else:
        found += param.choices
    return list(dict.fromkeys(found))


def settings(params: type) -> list[Setting]:
    """Return instances of *params*: the defaults, each parameter changed alone, and mixtures.

    All combinations if they are few; else those at even distances. A combination that the class
    itself refuses is left out.
    """
    tried = {param.name: values(param) for param in declared(params)}
    default = {name: some[0] for name, some in tried.items()}
    alone = [default | {name: one} for name, some in tried.items() for one in some[1:]]
    chosen = [default, *alone][:MOST]
    mixed = [dict(zip(tried, one, strict=True)) for one in _spread(list(tried.values()))]
    chosen += [one for one in mixed if one not in chosen]
    return [made for one in chosen[:MOST] if (made := _accepted(params, one)) is not None]


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
