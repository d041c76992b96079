"""The lowest versions that are said to do: what `lowest` installs is what pyproject declares."""

import os
import tomllib
from importlib.metadata import version
from pathlib import Path

import pytest
from packaging.requirements import Requirement
from packaging.version import Version

ROOT = Path(__file__).parents[1]
LINES = [
    line
    for line in (ROOT / "tests" / "lowest.txt").read_text(encoding="utf-8").splitlines()
    if not line.startswith("#")
]


def dependencies(project: Path) -> list[str]:
    """Return what a project depends on at run time."""
    table = tomllib.loads(project.read_text(encoding="utf-8"))["project"]
    return [line for line in table["dependencies"] if Requirement(line).name != "hvmmu"]


def test_they_are_what_is_declared() -> None:
    """A bound is lowered, or a dependency added, and nobody runs a test with it."""
    declared = dependencies(ROOT / "pyproject.toml")
    assert [line.replace(">=", "==") for line in declared] == LINES


@pytest.mark.parametrize(
    "project",
    [path for top in ("plugins", "examples") for path in (ROOT / top).glob("*/pyproject.toml")],
    ids=lambda path: path.parent.name,
)
def test_plugins_ask_for_nothing_newer(project: Path) -> None:
    """A plugin of ours cannot be installed beside the lowest versions that the core admits."""
    core = {Requirement(line).name: line for line in dependencies(ROOT / "pyproject.toml")}
    for line in dependencies(project):
        assert line == core[Requirement(line).name]


@pytest.mark.skipif(
    not os.environ.get("TOX_ENV_NAME", "").endswith("-lowest"),
    reason="the tox environment `lowest` installs them",
)
@pytest.mark.parametrize("line", LINES)
def test_they_are_installed(line: str) -> None:
    """The environment for the lowest versions has others, and proves nothing."""
    wanted = Requirement(line)
    if wanted.marker and not wanted.marker.evaluate():
        pytest.skip("not for this Python")
    (pinned,) = wanted.specifier
    assert Version(version(wanted.name)) == Version(pinned.version)
