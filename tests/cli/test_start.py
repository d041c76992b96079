"""What a command loads before it does anything: time that each of them takes, used or not."""

import json
import subprocess
import sys
from pathlib import Path

import pytest

from hvmmu.workloads import SHIPPED

HEAVY = {
    "asyncio",
    "concurrent.futures",
    "ctypes",
    "dask",
    "dataclasses",
    "distributed",
    "email",
    "importlib.metadata",
    "importlib.resources",
    "logging",
    "multiprocessing",
    "numpy",
    "pandas",
    "pyarrow",
    "rich",
    "socket",
    "sqlite3",
    "ssl",
    "structlog",
    "subprocess",
    "tempfile",
    "tomllib",
    "unittest",
    "zipfile",
}
"""Modules that take milliseconds to load, and that no command here has a use for."""

TRACES = {"hvmmu._trace.codec", "hvmmu._trace.hvt", "hvmmu._trace.lackey"}
OF_A_RUN = {"attrs", "cffi", "hvmmu.machine", "hvmmu._plugins", "pluggy", "tomllib"}
"""What takes part in a run, and in nothing that only prints what is known."""

LOADED = """
import sys
from hvmmu._cli import main
code = main(sys.argv[1:])
import json
print("\\n" + json.dumps([code, sorted(sys.modules)]))
"""

AT_THE_END = """
import atexit, gc, sys
collected = []
gc.callbacks.append(lambda phase, _: collected.append(phase))
atexit.register(lambda: print("\\n", gc.get_freeze_count() > 0, len(collected)))
from hvmmu._cli import main
collected.clear()
main()
"""


def loaded(folder: Path, *argv: str) -> set[str]:
    """Return the modules that a command line has loaded when it ends."""
    run = [sys.executable, "-I", "-c", LOADED, *argv]
    ended = subprocess.run(run, cwd=folder, capture_output=True, text=True, timeout=60, check=True)
    code, modules = json.loads(ended.stdout.splitlines()[-1])
    assert (code, ended.stderr) == (0, "")
    return set(modules)


@pytest.fixture
def bare() -> set[str]:
    """Return what an interpreter loads in this environment, before anything is asked of it."""
    explicit = [sys.executable, "-I", "-c", "import sys; print(*sys.modules)"]
    return set(subprocess.run(explicit, capture_output=True, text=True, check=True).stdout.split())


def test_the_version_loads_next_to_nothing(tmp_path: Path, bare: set[str]) -> None:
    """`hvmmu --version` imports the plugins, or what only a run needs."""
    modules = loaded(tmp_path, "--version")
    assert "hvmmu._cli.commands" in modules
    assert modules & (HEAVY | TRACES | OF_A_RUN) - bare == set()
    assert not any(name.startswith(("hvmmu_", "hvmmu.workloads")) for name in modules)


@pytest.mark.parametrize("command", ["run", "compare"])
def test_a_run_loads_what_it_uses(tmp_path: Path, bare: set[str], command: str) -> None:
    """A run that has nothing to log or to fold pays for what logs and folds, or reads traces."""
    modules = loaded(tmp_path, command, "-b", "native", "demand-zero:pages=8")
    assert "hvmmu.machine" in modules
    assert modules & (HEAVY | TRACES) - bare == set()


def test_a_trace_loads_its_reader(tmp_path: Path, bare: set[str]) -> None:
    """A run of a trace loads the writers of traces, or another log than the run has need of."""
    modules = loaded(tmp_path, "run", "-b", "native")
    assert "hvmmu._trace.lackey" in modules
    assert modules & HEAVY - bare == set()
    assert not modules & {"hvmmu._trace.hvt", "hvmmu.workloads._record", "hvmmu._sweep"}


def test_a_trace_loads_only_what_it_is_packed_with(tmp_path: Path, bare: set[str]) -> None:
    """A compact trace pays for xz, gzip and the synthetic workloads, and uses none of them."""
    loaded(tmp_path, "trace", "import", str(SHIPPED), "-o", "dd.hvt")
    modules = loaded(tmp_path, "run", "--backend", "native", "dd.hvt")
    assert "hvmmu._trace.hvt" in modules
    unused = {"difflib", "gzip", "lzma", "random", "hvmmu.workloads._synthetic"}
    assert modules & unused - bare == set()


def test_a_command_of_the_process_searches_for_no_garbage(tmp_path: Path) -> None:
    """A short run stops to look through all that it has imported, or does so before it ends."""
    run = [sys.executable, "-I", "-c", AT_THE_END, "run", "-b", "native", "demand-zero:pages=8"]
    ended = subprocess.run(run, cwd=tmp_path, capture_output=True, text=True, check=True)
    assert ended.stdout.splitlines()[-1].split() == ["True", "0"]
