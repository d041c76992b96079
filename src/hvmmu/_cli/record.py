"""`hvmmu record`: record the memory trace of a program with Valgrind."""

from collections.abc import Sequence
from pathlib import Path

import click

from hvmmu._cli import options
from hvmmu._cli.output import write_stdout
from hvmmu.params import printable


@click.command(
    short_help="Record the memory trace of a program with Valgrind.",
    context_settings={"allow_interspersed_args": False},
)
@click.option(
    "-o",
    "--output",
    required=True,
    type=click.Path(path_type=Path),
    metavar="FILE",
    help="The trace to write; .gz, .xz or .zst compresses it.",
)
@options.limit
@click.option("--force", is_flag=True, help="Replace FILE if it exists.")
@options.verbose
@click.argument("command", nargs=-1, required=True, type=click.UNPROCESSED)
def record(command: Sequence[str], output: Path, limit: int | None, force: bool) -> None:
    """Run COMMAND under Valgrind and write its memory trace: record -o ls.trace.xz -- ls -lR /usr.

    The program gets a fixed environment, so that its trace can be recorded again.
    """
    from hvmmu._cli.progress import Counter  # noqa: PLC0415 - not for --help
    from hvmmu.workloads._record import record as run_and_record  # noqa: PLC0415 - as above

    with Counter("references recorded") as progress:
        made = run_and_record(command, output, limit=limit, progress=progress.update, force=force)
    ended = {None: "stopped at the limit", 0: "the command succeeded"}.get(
        made.exit_code, f"the command ended with exit code {made.exit_code}"
    )
    last = f": {printable(made.said)}" if made.exit_code and made.said else ""
    name = printable(str(made.path))
    write_stdout(f"{name}: {made.references:,} references in {made.size:,} bytes; {ended}{last}\n")
