"""The build backend's decisions: which compiler, when ziglang is brought, how a failure ends."""

from __future__ import annotations

import importlib.util
import os
import shlex
import shutil
import subprocess
import sys
import sysconfig
import tomllib
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

if TYPE_CHECKING:
    from types import ModuleType

ROOT = Path(__file__).parents[2]
PYTHONS_OWN = Path(shlex.split(sysconfig.get_config_var("CC"))[0]).name
COMPILES = 'while [ $# -gt 0 ]; do [ "$1" = -o ] && : > "$2"; shift; done\n'
"""A compiler, in shell: whatever it is given, there is an output."""
FAILS = "echo 'walk.c:7:1: error: odd' >&2\necho '2 errors' >&2\nexit 1\n"
ONLY_THE_TRIAL = f'case "$*" in *trial*) {COMPILES};; *) {FAILS};; esac\n'


@pytest.fixture(scope="module")
def backend() -> ModuleType:
    """Return the backend that pyproject.toml names."""
    system = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["build-system"]
    name, (folder,) = system["build-backend"], system["backend-path"]
    spec = importlib.util.spec_from_file_location(name, ROOT / folder / f"{name}.py")
    assert spec is not None
    assert spec.loader is not None
    made = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(made)
    return made


@pytest.fixture
def programs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Return the only folder on PATH, empty; CC and the flags are not set."""
    for name in ("CC", "LDSHARED", "CFLAGS", "CPPFLAGS", "LDFLAGS"):
        monkeypatch.delenv(name, raising=False)
    folder = tmp_path / "bin"
    folder.mkdir()
    monkeypatch.setenv("PATH", str(folder))
    return folder


def program(path: Path, script: str) -> None:
    """Write a program."""
    path.write_text(f"#!/bin/sh\n{script}", encoding="utf-8")
    path.chmod(0o755)


@pytest.fixture
def in_a_copy(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Work in a copy of the project, without what has been built in it."""
    copy = tmp_path / "project"
    copy.mkdir()
    for name in ("pyproject.toml", "setup.py", "README.md", "LICENSE"):
        shutil.copy(ROOT / name, copy)
    for name in ("src", "build_backend"):
        unwanted = shutil.ignore_patterns("*.so", "*.egg-info", "__pycache__")
        shutil.copytree(ROOT / name, copy / name, ignore=unwanted)
    monkeypatch.chdir(copy)


def failed(backend: ModuleType, printed: str, error: BaseException) -> tuple[str, str]:
    """Return how a build ends that prints this and fails so, and its log."""
    try:
        with backend.one_line():
            os.write(2, printed.encode())
            raise error
    except SystemExit as ended:
        line, _, name = str(ended).partition("; log: ")
        log = Path(name).read_text(encoding="utf-8")
        Path(name).unlink()
        return line, log


def required(backend: ModuleType, monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """Return what the backend asks for; setuptools itself asks for nothing."""
    monkeypatch.setattr(backend.build_meta, "get_requires_for_build_wheel", lambda _: [])
    wheel: list[str] = backend.get_requires_for_build_wheel()
    assert backend.get_requires_for_build_editable() == wheel
    return wheel


@pytest.mark.parametrize("name", sorted({PYTHONS_OWN, "cc", "gcc", "clang"}))
def test_a_compiler_is_used(
    name: str, backend: ModuleType, programs: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A compiler is there, and another is brought; or setuptools calls one that is not there."""
    program(programs / name, COMPILES)
    assert required(backend, monkeypatch) == []
    assert backend.compiler() == ({} if name == PYTHONS_OWN else {"CC": name})


def test_ziglang_is_brought(
    backend: ModuleType, programs: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Without a compiler the build fails, as nothing brings one."""
    assert not list(programs.iterdir())
    assert required(backend, monkeypatch) == [backend.ZIG]


def test_a_compiler_that_does_not_work_is_none(
    backend: ModuleType, programs: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A gcc without the C library's headers is taken for a compiler, and the build fails."""
    program(programs / PYTHONS_OWN, FAILS)
    assert required(backend, monkeypatch) == [backend.ZIG]
    program(programs / "clang", COMPILES)
    assert backend.compiler() == {"CC": "clang"}


def test_cc_is_respected(
    backend: ModuleType, programs: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A user names a compiler, and another one is used."""
    program(programs / "gcc", COMPILES)
    monkeypatch.setenv("CC", "/nowhere/cc -m64")
    assert required(backend, monkeypatch) == []
    assert backend.compiler() == {}


def test_flags_of_the_user_bring_no_compiler(
    backend: ModuleType, programs: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A slip in CFLAGS downloads a compiler, instead of being reported by the one that is there."""
    program(programs / PYTHONS_OWN, f'case "$*" in *slip*) {FAILS};; *) {COMPILES};; esac\n')
    monkeypatch.setenv("CFLAGS", "--slip")
    assert required(backend, monkeypatch) == []
    assert os.environ["CFLAGS"] == "--slip"


def test_how_ziglang_is_called(backend: ModuleType, monkeypatch: pytest.MonkeyPatch) -> None:
    """A folder with a space, or flags for gcc, break it; or the wheel runs on this CPU only."""
    monkeypatch.delenv("CFLAGS", raising=False)
    monkeypatch.setattr(sys, "executable", "/my own/python")
    variables = backend.zig("/cache")
    command = ["/my own/python", "-m", "ziglang", "cc", "-mcpu=baseline"]
    for name in ("CC", "LDSHARED"):
        assert shlex.split(variables[name])[:5] == command
    assert "-shared" in shlex.split(variables["LDSHARED"])
    assert variables["CFLAGS"] == "-DNDEBUG"
    monkeypatch.setenv("CFLAGS", "-g")
    assert backend.zig("/cache")["CFLAGS"] == "-g"


def test_no_compiler_at_all_is_one_line(
    backend: ModuleType, programs: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Without build isolation nothing is brought, and setuptools' own words do not say why."""
    assert not list(programs.iterdir())
    monkeypatch.setattr(importlib.util, "find_spec", lambda _: None)
    with pytest.raises(SystemExit, match=r"^hvmmu: no C compiler works here: install [^\n]*$"):
        backend.build_wheel("unused")


@pytest.mark.usefixtures("in_a_copy")
def test_a_failed_compilation_is_one_line(programs: Path, tmp_path: Path) -> None:
    """A wheel without its C is built, or pages of output say why not."""
    program(programs / PYTHONS_OWN, ONLY_THE_TRIAL)
    ended = subprocess.run(
        [sys.executable, "-c", "import hvmmu_build; hvmmu_build.build_wheel('out')"],
        env=os.environ | {"PYTHONPATH": "build_backend", "TMPDIR": str(tmp_path)},
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )
    assert (ended.returncode, ended.stdout) == (1, "")
    (log,) = tmp_path.glob("hvmmu-build-*.log")
    assert ended.stderr == (
        "hvmmu: the C does not compile (walk.c:7:1: error: odd): "
        f"install a recent gcc or clang, or set CC to one; log: {log}\n"
    )
    assert "2 errors" in log.read_text(encoding="utf-8")


@pytest.mark.parametrize(
    "error",
    [
        "k.c:55:14: fatal error: pyconfig.h: No such file or directory",  # gcc
        "k.c:55:14: fatal error: 'pyconfig.h' file not found",  # clang
        "k.c:60:14: fatal error: 'Python.h' file not found",
    ],
)
def test_missing_headers_are_named(error: str, backend: ModuleType) -> None:
    """The user installs another compiler, and what is missing are Python's headers."""
    line, _ = failed(backend, f"{error}\n", SystemExit("error: command failed"))
    assert line == (
        f"hvmmu: Python's headers are missing ({error}): install python3-dev or python3-devel"
    )


def test_another_failure_is_one_line(backend: ModuleType) -> None:
    """An error that is not the compiler's is blamed on it, or its traceback is lost."""
    line, log = failed(backend, "compiled\n", ValueError("a header is odd"))
    assert line == "hvmmu: the build failed: ValueError: a header is odd"
    assert log.startswith("compiled\nTraceback")


def test_a_build_that_succeeds_prints_its_log(
    backend: ModuleType, capfd: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    """`pip -v` shows nothing of the build, or logs are left behind."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(backend.tempfile, "tempdir", str(tmp_path))
        with backend.one_line():
            os.write(1, b"compiled\n")
            assert capfd.readouterr().out == ""
    assert capfd.readouterr().out == "compiled\n"
    assert list(tmp_path.iterdir()) == []
