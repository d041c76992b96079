"""The test matrix itself: what is not declared is refused, and what CI runs is what README says."""

import os
import re
import subprocess
import sys
import tomllib
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]


def tox(tmp_path: Path, *arguments: str) -> subprocess.CompletedProcess[str]:
    """Run tox with a work folder of its own."""
    pytest.importorskip("tox", reason="tox is installed where both plugins are")
    return subprocess.run(
        [sys.executable, "-m", "tox", *arguments, "--workdir", str(tmp_path)],
        cwd=ROOT,
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
    )


PYTHON = f"py3{sys.version_info.minor}"


NIGHTLY = os.environ.get("HYPOTHESIS_PROFILE") == "nightly"


@pytest.mark.parametrize("names", [["nosuch", f"{PYTHON}-nosuch"], [f"{PYTHON}-vmx-svm"]])
def test_an_undeclared_environment_is_refused(names: list[str], tmp_path: Path) -> None:
    """A name with a slip in it runs no test and is congratulated."""
    if len(names) > 1 and not NIGHTLY:
        pytest.skip("it makes environments: HYPOTHESIS_PROFILE=nightly")
    ended = tox(tmp_path, "run", "-e", ",".join(names))
    said = ended.stdout + ended.stderr
    assert ended.returncode > 0
    assert "congratulations" not in said
    for name in names:
        assert (
            f"{name}: no such environment" in said or f"\n{name}" in said.partition("not found")[2]
        )


def test_the_paths_exist() -> None:
    """A test was moved, and tox ignores a file that is not there or fails only where it runs it."""
    text = (ROOT / "tox.ini").read_text(encoding="utf-8").replace("{/}", "/")
    named = re.findall(r"((?:tests|plugins|examples)/[\w/.-]+)(?:::(\w+))?", text)
    assert len(named) > 20
    for path, function in named:
        assert (ROOT / path).exists(), path
        assert not function or f"def {function}(" in (ROOT / path).read_text(encoding="utf-8")


def test_every_supported_python_is_tested() -> None:
    """A Python that pip would install hvmmu on is in no environment, or the other way round."""
    project = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]
    oldest = int(project["requires-python"].removeprefix(">=3."))
    declared = re.findall(r"py\{([\d,]+)\}-", (ROOT / "tox.ini").read_text(encoding="utf-8"))
    assert len(set(declared)) == 1
    minors = [int(version[1:]) for version in declared[0].split(",")]
    assert minors == list(range(oldest, minors[-1] + 1))


def test_ci_runs_what_readme_says() -> None:
    """CI passes with a test command that is not the one users are told."""
    readme = (ROOT / "README.md").read_text(encoding="utf-8")
    assert "install tox && .venv/bin/tox\n" in readme
    script = (ROOT / ".ci" / "run").read_text(encoding="utf-8")
    assert re.findall(r"-m tox\b(.*?)2>&1", script) == [' --discover "${discover[@]}" ']
