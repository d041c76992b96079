"""The programs that are measured, each recorded once; made so that every run of one is the same."""

import os
import shutil
import subprocess
import sys
from collections.abc import Callable, Sequence
from pathlib import Path

import attrs

PATH = "/usr/local/bin:/usr/bin:/bin"
"""Where programs are looked for: those of the system, not of a virtual environment."""

_SQL = """\
create table t(a, b);
with recursive n(i) as (select 1 union all select i + 1 from n where i < {size})
  insert into t select i * 7919 % 30011, 'row ' || i from n;
create index x on t(a);
select count(*), sum(a) from t where b like '%7%';
"""
_PYTHON = """\
counts = {{}}
for n in range({size}):
    key = str(n * 7919 % 20011)
    counts[key] = counts.get(key, 0) + len(key)
print(sum(sorted(counts.values())))
"""


class SkippedError(Exception):
    """Something is not installed; says what, and how to get it."""


@attrs.frozen
class Program:
    """A command that makes one trace; it sees *environment* alone."""

    name: str
    command: tuple[str, ...]
    traces: Path
    """Where its trace is kept."""
    size: int
    environment: dict[str, str] = attrs.field(factory=dict)

    @property
    def trace(self) -> Path:
        """Return its compact trace."""
        return self.traces / f"{self.name}-{self.size}.hvt"

    @property
    def folder(self) -> Path:
        """Return where it runs, which nobody else writes to: Python looks around there."""
        return home(self.traces, self.name)


def home(traces: Path, name: str) -> Path:
    """Return the folder that a program runs in, made if it is not there."""
    folder = traces / name
    folder.mkdir(parents=True, exist_ok=True)
    return folder


def sort(folder: Path, size: int) -> Program:
    """Sort *size* lines, in as much memory always: else it looks how much is free."""
    lines = home(folder, "sort") / f"lines-{size}.txt"
    if not lines.exists():
        made = (f"{n * 7919 % 200_003} line of text {n}\n" for n in range(1, size + 1))
        lines.write_text("".join(made))
    return Program("sort", (found("sort"), "-S", "64M", lines.name, "-o", os.devnull), folder, size)


def sqlite(folder: Path, size: int) -> Program:
    """Fill, index and search a table of *size* rows."""
    command = (found("sqlite3"), ":memory:", _SQL.format(size=size))
    return Program("sqlite3", command, folder, size)


def python(folder: Path, size: int) -> Program:
    """Count *size* words; hashes of strings are made the same in each run."""
    command = (found("python3"), "-S", "-s", "-B", "-c", _PYTHON.format(size=size))
    return Program("python", command, folder, size, {"PYTHONHASHSEED": "0"})


def table(folder: Path, size: int, mebibytes: int = 128) -> Program:
    """Insert *size* random words into a hash table of *mebibytes*; a full one would have no end."""
    if size > 3 * mebibytes << 15:
        raise SkippedError(f"{size:,} words fill more than 3/4 of a table of {mebibytes} MiB")
    command = (_compiled("table", home(folder, "hash-table")), str(mebibytes), str(size))
    return Program("hash-table", command, folder, size)


def crossing(folder: Path, size: int, pages: int = 2_000) -> Program:
    """Access *size* random words at the ends of *pages* pages, half of them across the end."""
    command = (_compiled("crossing", home(folder, "crossing")), str(pages), str(size))
    return Program("crossing", command, folder, size)


def _compiled(name: str, folder: Path) -> str:
    made, source = folder / name, Path(__file__).with_name(f"{name}.c")
    if not made.exists():
        subprocess.run([found("cc"), "-O1", "-o", made, source], check=True)  # noqa: S603
    return f"./{name}"


PROGRAMS: dict[str, tuple[Callable[[Path, int], Program], int]] = {
    "sqlite3": (sqlite, 13_000),
    "sort": (sort, 65_000),
    "python": (python, 27_000),
    "hash-table": (table, 1_200_000),
}
"""What makes each program, and its size: 130 to 160 million references, 34 for the hash table."""


def found(name: str) -> str:
    """Return the path of a command of the system; raise SkippedError."""
    path = shutil.which(name, path=PATH)
    if path is None:
        raise SkippedError(f"{name} is not installed")
    return str(Path(path).resolve()) if name == "python3" else path


def hvmmu(*arguments: str | Path) -> list[str]:
    """Return the command line of the hvmmu that this Python has."""
    return [str(Path(sys.executable).with_name("hvmmu")), *map(str, arguments)]


def valgrind(*options: str) -> list[str]:
    """Return the start of a command line of valgrind's, which no .valgrindrc changes."""
    return [found("valgrind"), "--command-line-only=yes", *options]


def record(program: Program) -> None:
    """Make the program's trace, unless it is there: lackey's lines go into `hvmmu trace import`.

    The program runs by itself before: who reads a folder first in a day changes its time of access,
    and Python takes a few hundred instructions more or less for another time.
    """
    if program.trace.exists():
        return
    if started(program.command, program).wait():
        raise SystemExit(f"{program.name}: failed by itself, before it was recorded")
    reading, writing = os.pipe()
    lackey = valgrind(
        "--tool=lackey", "--trace-mem=yes", "--basic-counts=no", f"--log-fd={writing}"
    )
    importing = hvmmu("trace", "import", "-", "-o", program.trace.resolve())
    traced = started([*lackey, *program.command], program, writing)
    os.close(writing)
    imported = subprocess.Popen(importing, stdin=reading, stdout=subprocess.DEVNULL)  # noqa: S603
    os.close(reading)
    if traced.wait() or imported.wait():
        raise SystemExit(f"{program.name}: recording failed")


def started(command: Sequence[str], program: Program, *fds: int) -> subprocess.Popen[bytes]:
    """Start a command as the program is always run; it keeps the descriptors *fds*."""
    return subprocess.Popen(  # noqa: S603
        command,
        cwd=program.folder,
        env=program.environment,
        stdin=subprocess.DEVNULL,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
        pass_fds=fds,
    )
