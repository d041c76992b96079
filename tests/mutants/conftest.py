"""The compiled code with a mistake in it, and tests run on that: some test must fail."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
import sysconfig
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

if TYPE_CHECKING:
    from collections.abc import Callable

TESTS = Path(__file__).parents[1]
PLUGIN = """
import importlib.util, os, sys
name = "hvmmu._core._lib"
spec = importlib.util.spec_from_file_location(name, os.environ["HVMMU_MUTANT"])
sys.modules[name] = importlib.util.module_from_spec(spec)
spec.loader.exec_module(sys.modules[name])
"""
"""A plugin of pytest's that loads the extension from elsewhere, before any test asks for it."""


class Workshop:
    """A folder with the extension's object files, of which one at a time is compiled anew."""

    def __init__(self, folder: Path) -> None:
        from hvmmu._core import build  # noqa: PLC0415 - which takes half a second

        *_, options = build.ffibuilder._assigned_source
        self._folder, sources = folder, [Path(source) for source in options["sources"]]
        self._sources = {source.name: source for source in sources}
        self._compiler = [*os.environ.get("CC", "cc").split(), "-O0", "-std=c11", "-fPIC"]
        includes = (*options["include_dirs"], sysconfig.get_path("include"))
        self._includes = [f"-I{path}" for path in includes]
        (folder / "mutated.py").write_text(PLUGIN, encoding="utf-8")
        face = folder / "_lib.c"
        build.ffibuilder.emit_c_code(str(face))
        running = [self._start(path, folder / f"{path.stem}.o") for path in (face, *sources)]
        assert {one.wait() for one in running} == {0}

    def _start(self, source: Path, made: Path) -> subprocess.Popen[bytes]:
        return subprocess.Popen([*self._compiler, *self._includes, "-c", source, "-o", made])

    def extension(self, file: str, old: str, new: str) -> Path:
        """Return the extension with *new* in place of *old* in one file."""
        stem = Path(file).stem
        text = self._sources[file].read_text(encoding="utf-8")
        assert text.count(old) == 1, f"{text.count(old)} times in {file}: {old}"
        source, wrong = self._folder / f"wrong_{stem}.c", self._folder / f"wrong_{stem}.o"
        source.write_text(text.replace(old, new), encoding="utf-8")
        assert self._start(source, wrong).wait() == 0
        objects = [path for path in self._folder.glob("*.o") if not path.stem.startswith("wrong_")]
        objects.remove(self._folder / f"{stem}.o")
        made = self._folder / f"{stem}.so"
        subprocess.run([*self._compiler, "-shared", *objects, wrong, "-o", made], check=True)
        return made

    def run(self, tests: str, extension: Path) -> subprocess.CompletedProcess[str]:
        """Run some tests on an extension, up to the first that fails."""
        environment = {**os.environ, "HVMMU_MUTANT": str(extension)}
        environment["PYTHONPATH"] = str(self._folder)
        environment.pop("HYPOTHESIS_PROFILE", None)  # few examples do
        options = ["-x", "-q", "-p", "mutated", "-p", "no:cacheprovider", "-p", "no:xdist"]
        return subprocess.run(
            [sys.executable, "-m", "pytest", *options, TESTS / tests],
            env=environment, cwd=TESTS.parent, capture_output=True, text=True, check=False,
        )  # fmt: skip


@pytest.fixture(scope="session")
def workshop(tmp_path_factory: pytest.TempPathFactory) -> Workshop:
    """Return a folder with the extension's object files."""
    command = os.environ.get("CC", "cc").split()[0]
    if shutil.which(command) is None:
        pytest.skip(f"no C compiler: {command} is not there")
    return Workshop(tmp_path_factory.mktemp("mutants"))


@pytest.fixture
def caught(workshop: Workshop) -> Callable[[str, str, str, str], str]:
    """Return the function that plants a mistake and runs tests.

    It takes a C file, a piece of it, what is to stand there instead, and the tests of which one
    must fail; it returns what pytest says of the failure, and nothing if they pass.
    """

    def run(file: str, old: str, new: str, tests: str) -> str:
        ended = workshop.run(tests, workshop.extension(file, old, new))
        return f"{ended.stdout}\nexit {ended.returncode}" if ended.returncode else ""

    return run
