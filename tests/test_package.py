"""The packages as they are installed: complete, of one version, and of use from anywhere."""

import re
import subprocess
import sys
import tomllib
from importlib.metadata import PackageNotFoundError, files, requires, version
from importlib.resources import as_file
from importlib.resources import files as resources
from pathlib import Path
from typing import Any

import pytest
from packaging.requirements import Requirement

import hvmmu

ROOT = Path(__file__).parents[1]
PROJECTS = {
    "hvmmu": ROOT / "pyproject.toml",
    "hvmmu-vmx": ROOT / "plugins" / "vmx" / "pyproject.toml",
    "hvmmu-svm": ROOT / "plugins" / "svm" / "pyproject.toml",
}
CARGO = (
    "py.typed",
    "_report/schema.json",
    "_scaffold/template/tox.ini.in",
    "testing/schema.json",
    "workloads/traces/dd.lackey.xz",
)
"""What must be in the core's package beside its modules."""


def project(name: str) -> dict[str, Any]:
    """Return the [project] table of a distribution."""
    return tomllib.loads(PROJECTS[name].read_text(encoding="utf-8"))["project"]


def installed(name: str) -> str:
    """Return the version of an installed distribution; skip if this environment is without it."""
    try:
        return version(name)
    except PackageNotFoundError:
        pytest.skip(f"{name} is not installed here")


@pytest.mark.parametrize("name", PROJECTS)
def test_one_version(name: str) -> None:
    """What is installed, what the project declares and what the changelog begins with differ."""
    changelog = (ROOT / "CHANGELOG.md").read_text(encoding="utf-8")
    newest = re.search(r"^## \[(.+?)\] - (Unreleased|\d{4}-\d\d-\d\d)$", changelog, re.MULTILINE)
    assert newest
    assert project(name)["version"] == newest[1]
    assert installed(name) == newest[1]
    assert hvmmu.__version__ == newest[1]


@pytest.mark.parametrize("name", ["hvmmu-vmx", "hvmmu-svm"])
def test_plugins_accept_this_core(name: str) -> None:
    """A plugin refuses the core beside it, and pip looks for another one elsewhere."""
    installed(name)
    needed = next(r for r in map(Requirement, requires(name)) if r.name == "hvmmu")
    assert needed.specifier.contains(version("hvmmu"))


@pytest.mark.parametrize("name", CARGO)
def test_the_package_is_complete(name: str) -> None:
    """A file that the program opens, or a type checker looks for, was left out of the wheel."""
    with as_file(resources("hvmmu").joinpath(name)) as path:
        assert path.is_file()


@pytest.mark.parametrize("name", ["hvmmu_vmx", "hvmmu_svm"])
def test_plugins_are_typed(name: str) -> None:
    """A type checker ignores the annotations of a plugin."""
    pytest.importorskip(name)
    assert resources(name).joinpath("py.typed").is_file()


@pytest.mark.parametrize("name", PROJECTS)
def test_the_licence_goes_along(name: str) -> None:
    """A distribution is passed on without its licence."""
    installed(name)
    listed = [path.name for path in files(name) or ()]
    if any(file.endswith(".pth") for file in listed):
        pytest.skip("installed editable")
    assert "LICENSE" in listed


def test_it_runs_from_an_empty_folder(tmp_path: Path) -> None:
    """The program needs something of the folder it was cloned into."""
    command = [sys.executable, "-I", "-m", "hvmmu", "run", "-b", "native", "--limit", "2000"]
    ended = subprocess.run(
        command, cwd=tmp_path, env={}, capture_output=True, text=True, timeout=60, check=False
    )
    assert (ended.returncode, ended.stderr) == (0, "")
    assert ended.stdout.startswith("dd.lackey.xz")
    assert list(tmp_path.iterdir()) == []
