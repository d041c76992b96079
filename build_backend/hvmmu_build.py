"""Build hvmmu with setuptools, and with a C compiler from the package index where there is none.

These are the hooks of PEP 517. `ziglang`, clang in a wheel, becomes a build requirement only where
CC is not set and neither Python's own compiler nor cc, gcc or clang works. A build that fails ends
in one line.
"""

from __future__ import annotations

import importlib
import importlib.util
import os
import re
import shlex
import sys
import tempfile
import traceback
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any, NoReturn

from setuptools import Distribution, Extension, build_meta
from setuptools.build_meta import (
    build_sdist,
    get_requires_for_build_sdist,
    prepare_metadata_for_build_editable,
    prepare_metadata_for_build_wheel,
)

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping

__all__ = [
    "build_editable",
    "build_sdist",
    "build_wheel",
    "get_requires_for_build_editable",
    "get_requires_for_build_sdist",
    "get_requires_for_build_wheel",
    "prepare_metadata_for_build_editable",
    "prepare_metadata_for_build_wheel",
]

ZIG = "ziglang>=0.13"
"""The compiler in a wheel, from the oldest version that was tried."""
TRIAL = "#include <stdlib.h>\nint trial(void) { return abs(-1); }\n"
"""Needs the C library's headers, which may be missing beside a compiler."""

Settings = dict[str, Any] | None
"""Options that a front end passes on."""


def get_requires_for_build_wheel(config_settings: Settings = None) -> list[str]:
    """Return what a build needs beside pyproject.toml's list: ziglang where no compiler works."""
    needed = build_meta.get_requires_for_build_wheel(config_settings)
    return [*needed, ZIG] if compiler() is None else needed


def get_requires_for_build_editable(config_settings: Settings = None) -> list[str]:
    """Return what an editable build needs: the same."""
    return get_requires_for_build_wheel(config_settings)


def build_wheel(
    wheel_directory: str, config_settings: Settings = None, metadata_directory: str | None = None
) -> str:
    """Build a wheel, and return its name."""
    with compiling():
        return build_meta.build_wheel(wheel_directory, config_settings, metadata_directory)


def build_editable(
    wheel_directory: str, config_settings: Settings = None, metadata_directory: str | None = None
) -> str:
    """Build a wheel that points at this folder, with the C compiled in place; return its name."""
    with compiling():
        return build_meta.build_editable(wheel_directory, config_settings, metadata_directory)


def compiler() -> dict[str, str] | None:
    """Return the variables that make setuptools use a compiler that works; None if there is none.

    CC is taken as it is: a user who sets it wants no other.
    """
    if os.environ.get("CC"):
        return {}
    choices: tuple[dict[str, str], ...] = ({}, {"CC": "cc"}, {"CC": "gcc"}, {"CC": "clang"})
    return next(filter(works, choices), None)


def works(variables: Mapping[str, str]) -> bool:
    """Tell whether setuptools compiles and links a small extension with these variables.

    The user's flags are left out: a slip in them is no reason to bring another compiler.
    """
    plain: dict[str, str | None] = dict.fromkeys(("CFLAGS", "CPPFLAGS", "LDFLAGS"))
    with (
        tempfile.TemporaryDirectory() as folder,
        Path(folder, "log").open("wb") as log,
        environment({**plain, **variables}),
        printing_to(log.fileno()),
    ):
        source = Path(folder, "trial.c")
        source.write_text(TRIAL, encoding="ascii")
        trial = Extension("trial", [str(source)])
        try:
            build = Distribution({"ext_modules": [trial]}).get_command_obj("build_ext")
            build.build_lib = build.build_temp = folder
            build.ensure_finalized()
            build.run()
        except Exception:  # noqa: BLE001 - whatever it is, the build would end with it too
            return False
    return True


@contextmanager
def compiling() -> Iterator[None]:
    """Provide a compiler that works to what is built inside."""
    with tempfile.TemporaryDirectory() as cache:
        variables = compiler()
        if variables is None:
            importlib.invalidate_caches()  # the front end may have installed it just now
            if importlib.util.find_spec("ziglang") is None:
                fail("no C compiler works here: install gcc or clang, or ziglang with pip")
            variables = zig(cache)
        with environment(variables), one_line():
            yield


def zig(cache: str) -> dict[str, str]:
    """Return the variables that make setuptools use ziglang, which keeps its work in *cache*.

    The flags that Python was built with are left out: they are for another compiler.
    """
    # baseline: zig compiles for the very CPU it runs on, and a home folder may have several;
    # it also keeps the frame pointer, which gcc does not
    flags = ["-mcpu=baseline", "-fomit-frame-pointer"]
    cc = shlex.join([sys.executable, "-m", "ziglang", "cc", *flags])
    # -O3: zig builds its sanitizer's runtime for a link without, which takes 20 s
    link = "-O3 -shared" + " -undefined dynamic_lookup" * (sys.platform == "darwin")
    return {
        "CC": cc,
        "LDSHARED": f"{cc} {link}",
        "AR": shlex.join([sys.executable, "-m", "ziglang", "ar"]),
        "CFLAGS": os.environ.get("CFLAGS", "-DNDEBUG"),
        "ZIG_GLOBAL_CACHE_DIR": os.environ.get("ZIG_GLOBAL_CACHE_DIR", cache),
    }


@contextmanager
def one_line() -> Iterator[None]:
    """Print what a build prints when it is done; where it fails, one line that names the log."""
    number, name = tempfile.mkstemp(prefix="hvmmu-build-", suffix=".log")
    log = Path(name)
    with open(number, "wb") as file:  # noqa: PTH123 - opened already
        try:
            with printing_to(file.fileno()):
                yield
        except (Exception, SystemExit) as error:  # noqa: BLE001 - the log has all of it
            trace = "" if isinstance(error, SystemExit) else traceback.format_exc()
            file.write((trace or f"{error}\n").encode())
            file.flush()
            fail(f"{reason(log, error)}; log: {log}")
    sys.stdout.write(log.read_text("utf-8", "replace"))
    log.unlink()


def reason(log: Path, error: BaseException) -> str:
    """Return why a build failed, by its log, and what can be done."""
    if not isinstance(error, SystemExit):
        return f"the build failed: {type(error).__name__}: {error}"
    found = re.search(r"^.*\berror: .*$", log.read_text("utf-8", "replace"), re.MULTILINE)
    first = found[0].strip() if found else str(error)
    if re.search(r"\b(Python|pyconfig)\.h\b", first):
        return f"Python's headers are missing ({first}): install python3-dev or python3-devel"
    return f"the C does not compile ({first}): install a recent gcc or clang, or set CC to one"


def fail(line: str) -> NoReturn:
    """End the build with one line."""
    raise SystemExit(f"hvmmu: {line}") from None


@contextmanager
def environment(variables: Mapping[str, str | None]) -> Iterator[None]:
    """Set environment variables for a while; None: a variable is not set."""
    kept = dict(os.environ)
    for name, value in variables.items():
        os.environ.pop(name, None)
        if value is not None:
            os.environ[name] = value
    try:
        yield
    finally:
        os.environ.clear()
        os.environ.update(kept)


@contextmanager
def printing_to(file: int) -> Iterator[None]:
    """Send what this process and its children print to an open file for a while."""
    kept = {number: os.dup(number) for number in (1, 2)}
    _flush()
    for number in kept:
        os.dup2(file, number)
    try:
        yield
    finally:
        _flush()
        for number, copy in kept.items():
            os.dup2(copy, number)
            os.close(copy)


def _flush() -> None:
    """Write out what Python still holds back."""
    sys.stdout.flush()
    sys.stderr.flush()
