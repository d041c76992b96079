"""A build where there is no C compiler: pip brings one from the package index.

It takes minutes and a compiler of 100 MB: only the environment `nocompiler` runs it.
"""

from __future__ import annotations

import json
import os
import re
import shutil
import subprocess
import sys
import tarfile
import zipfile
from pathlib import Path

import pytest

pytestmark = pytest.mark.skipif(
    os.environ.get("TOX_ENV_NAME") != "nocompiler",
    reason="the tox environment `nocompiler` runs it",
)

ROOT = Path(__file__).parents[2]
COMPILERS = ("cc", "c99", "gcc", "clang", "tcc", "zig", "as", "ld", "ld.lld", "ar")
COREUTILS = ("cat", "cp", "env", "ls", "mkdir", "mv", "rm", "uname")
WHEEL = ("-m", "pip", "wheel", "--no-deps", "--wheel-dir", ".")


@pytest.fixture(scope="module")
def programs(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return a folder for PATH: Python and a few of coreutils, and no compiler."""
    folder = tmp_path_factory.mktemp("bin")
    for name in COREUTILS:
        found = shutil.which(name)
        if found:
            (folder / name).symlink_to(found)
    (folder / "python").symlink_to(sys.executable)
    assert not [name for name in COMPILERS if shutil.which(name, path=str(folder))]
    return folder


def run(programs: Path, folder: Path, *command: str | Path) -> subprocess.CompletedProcess[str]:
    """Run a command in a folder, with no compiler on PATH and none named."""
    ours = re.compile("TOX_|HVMMU_|COVERAGE_|PYTHON|PYTEST_|CC$|LDSHARED|(C|CPP|LD)FLAGS|ZIG_")
    theirs = {key: value for key, value in os.environ.items() if not ours.match(key)}
    return subprocess.run(
        command,
        cwd=folder,
        env=theirs | {"PATH": str(programs), "TMPDIR": str(folder)},
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
        timeout=1200,
        check=False,
    )


@pytest.fixture(scope="module")
def sources(tmp_path_factory: pytest.TempPathFactory, programs: Path) -> Path:
    """Return the source distribution; skip if the index has no compiler or cannot be reached."""
    folder = tmp_path_factory.mktemp("sources")
    asked = run(programs, folder, sys.executable, "-m", "pip", "index", "versions", "ziglang")
    if asked.returncode:
        pytest.skip(f"no ziglang in the package index: {asked.stderr.strip().splitlines()[-1]}")
    copy = folder / "project"
    unwanted = shutil.ignore_patterns(".*", "build", "dist", "*.so", "*.egg-info", "__pycache__")
    shutil.copytree(ROOT, copy, ignore=unwanted)
    program = "import hvmmu_build; hvmmu_build.build_sdist('..')"
    made = run(programs, copy, "env", "PYTHONPATH=build_backend", sys.executable, "-c", program)
    assert made.returncode == 0, made.stderr
    (packed,) = folder.glob("*.tar.gz")
    return packed


@pytest.fixture(scope="module")
def wheel(tmp_path_factory: pytest.TempPathFactory, programs: Path, sources: Path) -> Path:
    """Return a wheel that pip built of the source distribution."""
    folder = tmp_path_factory.mktemp("wheel")
    ended = run(programs, folder, sys.executable, *WHEEL, "--verbose", sources)
    assert ended.returncode == 0, ended.stdout + ended.stderr
    assert "-m ziglang cc" in ended.stdout + ended.stderr
    (built,) = folder.glob("*.whl")
    return built


def unpacked(sources: Path, folder: Path) -> Path:
    """Unpack the source distribution, and return its folder."""
    with tarfile.open(sources) as packed:
        packed.extractall(folder, filter="data")
    (project,) = (path for path in folder.iterdir() if path.is_dir())
    return project


def extensions(names: list[str]) -> set[str]:
    """Return the compiled modules among files, each with its package."""
    return {"/".join(Path(name).parts[-2:]) for name in names if name.endswith(".so")}


def test_the_wheel_runs(wheel: Path, programs: Path, tmp_path: Path) -> None:
    """A wheel is built that cannot be imported here, or counts other than gcc's."""
    python = tmp_path / "venv" / "bin" / "python"
    for command in (
        [sys.executable, "-m", "venv", tmp_path / "venv"],
        [python, "-m", "pip", "install", wheel],
    ):
        ended = run(programs, tmp_path, *command)
        assert ended.returncode == 0, ended.stdout + ended.stderr
    command = ["-m", "hvmmu", "run", "-b", "native", "--json"]
    theirs, ours = (run(programs, tmp_path, one, *command) for one in (python, sys.executable))
    for ended in (theirs, ours):
        assert (ended.returncode, ended.stderr) == (0, "")
    assert json.loads(theirs.stdout) == json.loads(ours.stdout)


def test_an_editable_build_compiles_too(
    wheel: Path, sources: Path, programs: Path, tmp_path: Path
) -> None:
    """`pip install -e` fails without a compiler, or compiles only part."""
    project = unpacked(sources, tmp_path)
    command = ["-m", "pip", "install", "--no-deps", "--prefix", tmp_path / "prefix", "-e", project]
    ended = run(programs, tmp_path, sys.executable, *command)
    assert ended.returncode == 0, ended.stdout + ended.stderr
    in_place = extensions([str(path) for path in project.rglob("src/**/*.so")])
    assert in_place == extensions(zipfile.ZipFile(wheel).namelist())
    assert in_place


def test_a_failed_build_is_one_line(sources: Path, programs: Path, tmp_path: Path) -> None:
    """A failure is pages long, or a wheel is built without the C that does not compile."""
    project = unpacked(sources, tmp_path)
    broken = max(project.rglob("src/**/*.c"))
    with broken.open("a", encoding="utf-8") as file:
        file.write("#error planted\n")
    ended = run(programs, tmp_path, sys.executable, *WHEEL, project)
    printed = ended.stdout + ended.stderr
    assert ended.returncode == 1, printed
    assert "Traceback" not in printed
    (line,) = re.findall(r"hvmmu: .*", printed)
    assert "[1 lines of output]" in printed
    assert line.startswith(f"hvmmu: the C does not compile ({broken.relative_to(project)}:")
    assert "error: planted): install a recent gcc or clang, or set CC to one; log: " in line
    assert "planted" in Path(line.rpartition(" ")[2]).read_text(encoding="utf-8")
