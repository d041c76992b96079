"""Run pytest with the C built with AddressSanitizer and UndefinedBehaviorSanitizer.

    CFLAGS="$FLAGS" LDFLAGS="$FLAGS" pip install .    # FLAGS: see tox.ini
    python tests/sanitize/run.py tests/hw         # or, instead of pytest: -c PROGRAM

What a sanitizer says goes to files, as pytest would swallow it together with the process that died
of it; it is printed at the end, and makes the run fail.
"""

from __future__ import annotations

import importlib.util
import os
import shutil
import subprocess
import sys
import tempfile
from pathlib import Path

EXTENSIONS = ("_core", "_trace")
"""Packages with an extension, which is called _lib."""
MARKS = (b"__asan_init", b"__ubsan_handle")
"""What code built with each sanitizer refers to."""


def compiler() -> list[str]:
    """Return the C compiler as a command."""
    return os.environ.get("CC", "cc").split()


def runtime() -> tuple[str, str]:
    """Return where the sanitizer's runtime lies, or an empty string and why there is none."""
    command = compiler()
    if shutil.which(command[0]) is None:
        return "", f"no C compiler: {command[0]} is not there"
    for name in ("libasan.so", "libclang_rt.asan-x86_64.so"):
        told = subprocess.run(
            [*command, f"-print-file-name={name}"], capture_output=True, text=True, check=False
        )
        found = told.stdout.strip()
        if Path(found).is_absolute() and Path(found).exists():
            return found, ""
    return "", f"{command[0]} has no AddressSanitizer runtime"


def unsanitized() -> list[str]:
    """Return the packages whose extension is not there, or was built without either sanitizer."""
    spec = importlib.util.find_spec("hvmmu")  # which loads none of them
    folders = spec.submodule_search_locations if spec else None
    wrong = []
    for name in EXTENSIONS:
        built = [path for at in folders or () for path in Path(at, name).glob("_lib*.so")]
        code = built[0].read_bytes() if built else b""
        if not all(mark in code for mark in MARKS):
            wrong.append(f"hvmmu.{name}._lib")
    return wrong


def environment(library: str, reports: Path | None) -> dict[str, str]:
    """Return the environment for a Python that loads sanitized code; None: reports are printed."""
    common = "abort_on_error=1" + (f":log_path={reports}/report" if reports else "")
    return os.environ | {
        "LD_PRELOAD": library,
        "ASAN_OPTIONS": f"detect_leaks=0:{common}",  # Python itself leaves much behind
        "UBSAN_OPTIONS": f"print_stacktrace=1:halt_on_error=1:{common}",
        "PYTHONMALLOC": "malloc",  # what Python allocates for C is guarded on its own
        "HVMMU_SANITIZED": "1",
    }


def run(command: list[str], library: str) -> int:
    """Run a command with the sanitizers; print what they said, and return the exit code."""
    with tempfile.TemporaryDirectory() as folder:
        reports = Path(folder)
        ended = subprocess.run(command, env=environment(library, reports), check=False)
        said = sorted(reports.glob("report*"))
        for report in said:
            sys.stderr.write(report.read_text("utf-8", "replace"))
    return ended.returncode or (1 if said else 0)


def main(arguments: list[str]) -> int:
    """Run what the arguments say; return its exit code, 0 where nothing can be run."""
    library, reason = runtime()
    if not library:
        sys.stdout.write(f"skipped: {reason}\n")
        return 0
    wrong = unsanitized()
    if wrong:
        sys.stderr.write(f"not built with the sanitizers: {', '.join(wrong)}; see tox.ini\n")
        return 1
    if arguments[:1] == ["-c"]:
        return run([sys.executable, *arguments], library)
    # pytest's own handler would catch the signal that the sanitizer explains.
    return run([sys.executable, "-m", "pytest", "-p", "no:faulthandler", *arguments], library)


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
