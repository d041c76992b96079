"""A small world to configure: two sections of the core and three backends, one of them refusing."""

from collections.abc import Callable, Mapping
from pathlib import Path
from types import MappingProxyType, SimpleNamespace
from typing import Any

import attrs
import pytest

from hvmmu._config import Config, ConfigSchema, resolve
from hvmmu.errors import ConfigError
from hvmmu.params import param

NOTHING: Mapping[str, str] = MappingProxyType({})


@attrs.frozen
class Mmu:
    """A section of the core."""

    update_on_write: bool = param(default=True, doc="a bool")
    flood: int = param(default=3, doc="an int", least=0, most=1000)


@attrs.frozen
class Guest:
    """Another one, whose class refuses odd sizes."""

    memory: int = param(default=1 << 30, doc="a size", least=4096, size=True)
    pager: str = param(default="eager", doc="a word", choices=("eager", "lazy"))

    def __attrs_post_init__(self) -> None:
        """Refuse what is no whole number of pages."""
        if self.memory % 4096:
            raise ConfigError(["memory: not whole pages"])


@attrs.frozen
class Nothing:
    """A backend without parameters."""


@attrs.frozen
class Left:
    """A backend's parameters."""

    filter_faults: bool = param(default=True, doc="a bool")
    depth: int = param(default=1, doc="an int", least=1)
    flood: int = param(default=9, doc="named as one of the core's")


@attrs.frozen
class Right:
    """Another backend's."""

    depth: int = param(default=2, doc="an int", least=1)


KNOWN = ConfigSchema(
    core={"mmu": Mmu, "guest": Guest},
    backends={
        "native": SimpleNamespace(params=Nothing, unsupported=NOTHING),
        "left": SimpleNamespace(params=Left, unsupported=NOTHING),
        "right": SimpleNamespace(params=Right, unsupported={"filter_faults": "right CPUs cannot"}),
    },
    engines=("reference", "other"),
    models=("sandy", "nehalem"),
)

Resolver = Callable[..., Config]


@pytest.fixture
def resolved(tmp_path: Path) -> Resolver:
    """Resolve in an empty directory and environment, but for what is given."""

    def made(*settings: str, cwd: Path = tmp_path, **given: Any) -> Config:  # noqa: ANN401
        environ = given.pop("environ", {})
        return resolve(KNOWN, cwd=cwd, environ=environ, settings=settings, **given)

    return made


@pytest.fixture
def problems(resolved: Resolver) -> Callable[..., tuple[str, ...]]:
    """Return the problems of a configuration that has some."""

    def made(*settings: str, **given: Any) -> tuple[str, ...]:  # noqa: ANN401
        with pytest.raises(ConfigError) as caught:
            resolved(*settings, **given)
        return caught.value.problems

    return made
