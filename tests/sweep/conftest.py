"""A plugin whose backend behaves as a test needs it, and an installation with it."""

from collections.abc import Callable, Iterator
from concurrent.futures import Executor, Future
from pathlib import Path
from typing import Any

import pytest

from hvmmu._sweep import SweepResult, run
from hvmmu._sweep.installation import Installation, open_installation

MODULE = "acme_sweep"
PLUGIN = '''
"""A backend that needs a CPU of odd width for one parameter, and is not always well behaved."""

import os
import signal
import time

import attrs

from hvmmu.errors import BackendUnavailableError
from hvmmu.generic import GenericBackend
from hvmmu.hookspecs import hookimpl
from hvmmu.params import param


@attrs.frozen
class Params:
    odd: bool = param(default=True, doc="needs a CPU of odd width; off without, unless asked for")
    mood: str = param(default="good", choices=("good", "rude", "deadly"), doc="how it behaves")
    nap: int = param(default=0, doc="milliseconds that it sleeps first", least=0)
    size: int = param(default=0, doc="no even number between 10 and 20", least=0)

    def __attrs_post_init__(self):
        if 10 < self.size < 20 and self.size % 2 == 0:
            raise ValueError(f"size {self.size} is no good with this")


class Acme(GenericBackend):
    name = "acme"
    summary = "for tests of sweeps"
    params = Params

    def __init__(self, params, cpu, asked):
        if params.odd and cpu.maxphyaddr % 2 == 0:
            if "odd" in asked:
                raise BackendUnavailableError("acme.odd=1: the CPU is even; set it to 0")
            params = attrs.evolve(params, odd=False)
        super().__init__(params, cpu, asked)

    def create_vcpu(self, vcpu_id):
        time.sleep(self.effective.nap / 1000)
        if self.effective.mood == "rude":
            raise RuntimeError("no manners")
        if self.effective.mood == "deadly":
            os.kill(os.getpid(), signal.SIGKILL)
        return super().create_vcpu(vcpu_id)


@hookimpl
def hvmmu_backends():
    return [Acme]
'''
ALONE = {"block": [], "extra": [MODULE], "autoload": False}
"""The plugin above, whatever else is installed."""


@pytest.fixture
def plugin(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Have the plugin where Python finds it, here and in workers; return the folder."""
    folder = tmp_path / "plugins"
    folder.mkdir()
    (folder / f"{MODULE}.py").write_text(PLUGIN)
    monkeypatch.syspath_prepend(folder)
    return folder


@pytest.fixture
def installation(plugin: Path) -> Installation:
    """Return the installation with that plugin, and no other."""
    del plugin
    return open_installation(ALONE)


@pytest.fixture
def sweep(
    installation: Installation, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> Callable[..., SweepResult]:
    """Return `run` with that installation, in an empty folder, by default with threads."""
    folder = tmp_path / "here"
    folder.mkdir()
    monkeypatch.chdir(folder)

    def swept(grid: Any, executor: Any = "thread", **options: Any) -> SweepResult:  # noqa: ANN401
        return run(grid, executor, installation=installation, **options)

    return swept


class Here(Executor):
    """The simplest executor there can be: what is handed in is done at once."""

    def submit(self, fn: Callable[..., Any], /, *args: Any, **kwargs: Any) -> Future[Any]:  # noqa: ANN401
        """Do it."""
        future: Future[Any] = Future()
        try:
            future.set_result(fn(*args, **kwargs))
        except Exception as error:  # noqa: BLE001 - a future keeps whatever is raised
            future.set_exception(error)
        return future


@pytest.fixture
def contents() -> Callable[[Path], dict[str, bytes]]:
    """Return a function that reads every file of a folder, by name."""
    return lambda folder: {path.name: path.read_bytes() for path in sorted(folder.iterdir())}


@pytest.fixture
def here() -> Iterator[Here]:
    """Return the simplest executor."""
    with Here() as executor:
        yield executor
