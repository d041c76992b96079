"""A new backend's package as a third party has it: generated, built, installed, its own tox run.

It takes an index for its build backend. Its own tox makes environments for a minute: nightly.
"""

import json
import os
import re
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path

import pytest

NAME = "built-here"
FACTOR = f"py3{sys.version_info.minor}"
NIGHTLY = os.environ.get("HYPOTHESIS_PROFILE") == "nightly"
UNREACHABLE = re.compile(r"NewConnectionError|NameResolutionError|ProxyError|ReadTimeoutError")


def run(folder: Path, *command: str | Path, path: str = "") -> subprocess.CompletedProcess[str]:
    """Run a command there as a shell of a third party's would, with a folder on Python's path."""
    ours = re.compile("TOX_|HVMMU_|COVERAGE_|HYPOTHESIS_|PYTHONPATH|VIRTUAL_ENV|PYTEST_")
    theirs = {key: value for key, value in os.environ.items() if not ours.match(key)}
    return subprocess.run(
        command,
        cwd=folder,
        env=theirs | {"PIP_NO_COMPILE": "1", "PYTHONPATH": path},  # what is installed is used once
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
        timeout=300,
        check=False,
    )


def reached(ended: subprocess.CompletedProcess[str]) -> subprocess.CompletedProcess[str]:
    """Return how it ended; skip if no index could be reached."""
    if ended.returncode and UNREACHABLE.search(ended.stdout + ended.stderr):
        pytest.skip("no package index can be reached")
    return ended


def tox(folder: Path, environments: Sequence[str]) -> subprocess.CompletedProcess[str]:
    """Run its tox."""
    return reached(run(folder, sys.executable, "-m", "tox", "run", "-e", ",".join(environments)))


def generate(parent: Path) -> Path:
    """Return the folder of a new package."""
    made = run(parent, sys.executable, "-m", "hvmmu", "new-backend", NAME, NAME)
    assert (made.returncode, made.stderr) == (0, "")
    return parent / NAME


@pytest.fixture(scope="module")
def package(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return a package as generated, its tox run and its environments made."""
    if not NIGHTLY:
        pytest.skip("its tox makes environments: HYPOTHESIS_PROFILE=nightly")
    pytest.importorskip("tox", reason="tox is installed in the environment `nightly`")
    folder = generate(tmp_path_factory.mktemp("third-party"))
    ended = tox(folder, [f"{FACTOR}-native", f"{FACTOR}-{NAME}"])
    assert ended.returncode == 0, ended.stdout + ended.stderr
    assert "congratulations" in ended.stdout
    return folder


def test_its_own_tox_passes(package: Path) -> None:
    """What a third party begins with fails before a line was changed, or tested nothing."""
    wheels = list((package / ".tox").rglob("hvmmu_built_here-0.1.0-py3-none-any.whl"))
    assert wheels
    for environment in ("native", NAME):
        assert (package / ".tox" / f"{FACTOR}-{environment}").is_dir()


def test_it_passes_the_suite_as_installed(tmp_path: Path) -> None:
    """The backend that we give people to start from breaks one of our rules."""
    folder, site = generate(tmp_path), tmp_path / "site"
    pip = (sys.executable, "-m", "pip", "install", "--quiet", "--no-deps", "--target", site)
    installed = reached(run(tmp_path, *pip, folder))
    assert installed.returncode == 0, installed.stdout + installed.stderr
    few = ("--examples", "5")  # its own tests run them all
    check = (sys.executable, "-m", "hvmmu", "--strict", "check", NAME, *few)
    ended = run(tmp_path, *check, "--json", "report.json", path=str(site))
    assert ended.returncode == 0, ended.stdout + ended.stderr
    report = json.loads((tmp_path / "report.json").read_text(encoding="utf-8"))
    assert report["level"] == 6  # the highest
    assert report["counts"]["passed"] > report["counts"]["failed"] == 0


def test_its_tox_refuses_what_is_not_declared(package: Path) -> None:
    """A name with a slip in it runs no test and is congratulated."""
    ended = tox(package, ["nosuch"])
    assert ended.returncode > 0
    assert "congratulations" not in ended.stdout
