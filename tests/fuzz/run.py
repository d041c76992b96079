"""Fuzz every target for a while, guided by what of the C and of the Python has run.

    tox -e fuzz                                       # ten minutes, all of them
    tox -e fuzz -- --seconds 60 guests hvt

Atheris, which has libFuzzer in it, makes up the bytes; where it is not installed chance does,
guided by nothing. What fails is printed, and goes to tests/fuzz/failed: once mended, move it to
tests/fuzz/corpus, where every test run tries it.
"""

from __future__ import annotations

import argparse
import importlib.util
import os
import random
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from collections.abc import Sequence

HERE = Path(__file__).parent
CORPUS, FAILED = HERE / "corpus", HERE / "failed"
WEIGHTS = {
    "engines": 3,
    "guests": 4,
    "tokens": 1,
    "frames": 1,
    "reduce": 1,
    "hvt": 3,
    "imports": 3,
}
READERS = ("hvt", "imports")
"""Guided by what of the Python has run, too; the others are about the C, and it makes them slow."""
MOST_BYTES = 2000
ARCHIVE = "libclang_rt.fuzzer_no_main.a"
"""libFuzzer, as Atheris brings it along."""


def libfuzzer(folder: Path, compiler: Sequence[str]) -> str:
    """Return a library of coverage.c, and of libFuzzer where Atheris is installed; built here."""
    spec = importlib.util.find_spec("atheris")
    archive = Path(spec.origin).parents[1] / ARCHIVE if spec and spec.origin else None
    library = folder / "libfuzzer.so"
    command = [*compiler, "-O2", "-shared", "-fPIC", "-o", library, HERE / "coverage.c"]
    if archive is not None and archive.exists():
        # Its own __sanitizer_cov_trace_pc only says that it is none: the first one is taken.
        command += ["-Wl,--allow-multiple-definition", "-Wl,--whole-archive", archive]
        command += ["-Wl,--no-whole-archive", "-lstdc++", "-lpthread", "-lm", "-ldl"]
    subprocess.run(command, check=True)
    return str(library)


def sanitizing() -> Any:  # noqa: ANN401 - a module
    """Return tests/sanitize/run.py."""
    spec = importlib.util.spec_from_file_location("run", HERE.parent / "sanitize" / "run.py")
    assert spec is not None
    assert spec.loader is not None
    made = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(made)
    return made


def environment(folder: Path) -> dict[str, str]:
    """Return the environment to fuzz in: with the sanitizers and libFuzzer, if they are there."""
    run = sanitizing()
    library, reason = run.runtime()
    if run.unsanitized():
        library, reason = "", reason or "the C was built without them"
    if not library:
        sys.stderr.write(f"without the sanitizers, and blind to what runs in C: {reason}\n")
        return dict(os.environ)
    environ: dict[str, str] = run.environment(library, None)
    # Before the sanitizer, which has empty functions for what libFuzzer does.
    environ["LD_PRELOAD"] = f"{libfuzzer(folder, run.compiler())} {library}"
    environ["ASAN_OPTIONS"] += ":verify_asan_link_order=0"
    return environ


def guided(target: str, seconds: int, corpus: Path) -> None:
    """Fuzz one target with Atheris, which ends this process."""
    import atheris  # noqa: PLC0415 - not installed everywhere

    read = ["hvmmu.workloads", "targets"] if target in READERS else ["nothing"]
    with atheris.instrument_imports(include=read):
        import targets  # noqa: PLC0415 - instrumented

    options = [f"-max_total_time={seconds}", f"-max_len={MOST_BYTES}", "-len_control=0"]
    options += ["-timeout=60", "-rss_limit_mb=3000", f"-artifact_prefix={FAILED}/{target}-"]
    places = [str(corpus), *(str(at) for at in (CORPUS / target,) if at.is_dir())]
    atheris.Setup([sys.argv[0], *options, *places], targets.TARGETS[target])
    atheris.Fuzz()


def blind(target: str, seconds: float) -> None:
    """Fuzz one target with random bytes, other ones each time."""
    import targets  # noqa: PLC0415 - as above

    seed, tried, end = random.SystemRandom().getrandbits(32), 0, time.monotonic() + seconds
    draw = random.Random(seed)  # noqa: S311 - not for secrets
    while time.monotonic() < end:
        content = draw.randbytes(draw.choice((3, 20, 100, 400, MOST_BYTES)))
        tried += 1
        try:
            targets.TARGETS[target](content)
        except BaseException:
            (FAILED / f"{target}-{seed:x}-{tried}").write_bytes(content)
            raise
    sys.stderr.write(f"{target}: {tried} inputs, none of them guided\n")


def child(target: str, seconds: int, environ: dict[str, str]) -> int:
    """Fuzz one target in a process of its own; return its exit code."""
    with tempfile.TemporaryDirectory() as corpus:
        for nth, size in enumerate((30, 100, 300, 600, 1000, 1500, MOST_BYTES)):
            # From nothing, it takes long to come upon bytes that are a program of some length.
            Path(corpus, str(nth)).write_bytes(random.Random(nth).randbytes(size))  # noqa: S311
        command = [sys.executable, __file__, "--child", corpus, "--seconds", str(seconds), target]
        return subprocess.run(command, env=environ, check=False).returncode


def fuzz(chosen: Sequence[str], seconds: int) -> int:
    """Fuzz the targets one after the other; return 1 if anything failed."""
    total = sum(WEIGHTS[target] for target in chosen)
    FAILED.mkdir(exist_ok=True)
    with tempfile.TemporaryDirectory() as folder:
        environ = environment(Path(folder))
        failed = [
            target
            for target in chosen
            if child(target, max(1, seconds * WEIGHTS[target] // total), environ)
        ]
    sys.stderr.write(f"failed: {', '.join(failed)}\n" if failed else "nothing found\n")
    return 1 if failed else 0


def main() -> int:
    """Do what the command line says."""
    parser = argparse.ArgumentParser(description="Fuzz every target for a while.")
    parser.add_argument("--seconds", type=int, default=600, help="for all targets together")
    parser.add_argument("--child", help=argparse.SUPPRESS)
    parser.add_argument("targets", nargs="*", help=f"of {', '.join(WEIGHTS)}; default: all")
    explicit = parser.parse_args()
    chosen = explicit.targets or list(WEIGHTS)
    if unknown := set(chosen) - set(WEIGHTS):
        parser.error(f"no such target: {', '.join(sorted(unknown))}")
    if explicit.child is None:
        return fuzz(chosen, explicit.seconds)
    sys.path.insert(0, str(HERE))
    if importlib.util.find_spec("atheris"):
        guided(chosen[0], explicit.seconds, Path(explicit.child))
    else:
        blind(chosen[0], explicit.seconds)
    return 0


if __name__ == "__main__":
    sys.exit(main())
