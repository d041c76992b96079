"""`hvmmu trace`: import, describe and export compact traces."""

import sys
from pathlib import Path

import click

from hvmmu._cli import options
from hvmmu._cli.output import write_stdout
from hvmmu.errors import InputError
from hvmmu.params import printable

_PIPE = "-"
_force = click.option("--force", is_flag=True, help="Replace FILE if it exists.")


@click.group(no_args_is_help=False, short_help="Import, describe, export compact traces (.hvt).")
def trace() -> None:
    """Import, describe and export compact traces: .hvt files, which are workloads like others."""


@trace.command("import", short_help="Import another tool's trace as a compact trace.")
@click.option(
    "-o",
    "--output",
    required=True,
    type=click.Path(path_type=Path),
    metavar="FILE",
    help="The trace to write, a name in .hvt; .hvt.gz, .hvt.xz or .hvt.zst compresses it.",
)
@click.option(
    "--format",
    "fmt",
    metavar="NAME",
    help="lackey, champsim, dynamorio, csv or parquet; by default recognised by content.",
)
@options.limit
@_force
@options.verbose
@click.argument("source", metavar="IN")
def import_(*, source: str, output: Path, fmt: str | None, limit: int | None, force: bool) -> None:
    """Import IN as a compact trace: a file (plain, .gz, .xz, .zst), a pipe, - for standard input.

    FILE is written only if the whole trace could be read.
    """
    from hvmmu._cli.progress import Counter  # noqa: PLC0415 - not for --help
    from hvmmu._trace.hvt.import_trace import import_trace  # noqa: PLC0415 - as above

    if source == _PIPE and sys.stdin is None:
        raise InputError("standard input is closed; pipe a trace in, or name a file")
    piped = sys.stdin.buffer if source == _PIPE else None
    path = None if source == _PIPE else Path(source)
    with Counter("references imported") as progress:
        made = import_trace(
            path, piped, output, fmt=fmt, limit=limit, force=force, progress=progress.update
        )
    size = output.stat().st_size
    write_stdout(
        f"{printable(str(output))}: {made.references:,} references in {size:,} bytes, "
        f"{size / made.references:.3f} each; {made.span_kept / made.accesses:.1%} of the accesses "
        "can change a TLB\n"
    )


@trace.command("info", short_help="Describe a compact trace, and check all of it.")
@options.verbose
@click.argument("path", type=click.Path(path_type=Path), metavar="FILE")
def describe(*, path: Path) -> None:
    """Describe the compact trace FILE, its source included, and check all of it."""
    from hvmmu._trace.hvt.reader import opened  # noqa: PLC0415 - not for --help

    with opened(path) as file:
        for _ in file.windows():
            pass
        head = file.header
    size = path.stat().st_size
    rows = [
        ("references", f"{head.references:,}"),
        ("accesses", f"{head.accesses:,} (a reference that crosses a page is two)"),
        ("access types", f"{head.fetches:,} fetches, {head.reads:,} reads, {head.writes:,} writes"),
        ("pages", f"{head.pages:,} of 4 KiB"),
        ("kept (run)", f"{head.span_kept:,} accesses, {head.span_kept / head.accesses:.2%}"),
        (
            "kept by window filter",
            f"{head.window_kept:,} accesses, {head.window_kept / head.accesses:.2%}",
        ),
        (
            "reduction",
            (
                f"{head.sets} sets of {head.ways} ways, restarted every {head.span:,} accesses; "
                f"window filter every {head.window:,}"
            ),
        ),
        ("size", f"{size:,} bytes, {size / head.references:.4f} a reference"),
        ("chunks", f"{head.chunks:,}, the largest of {head.most_chunk:,} bytes"),
        ("sha256", f"{head.sha256.hex()} of the accesses"),
        *(("source", printable(line)) for line in head.provenance.splitlines()),
    ]
    write_stdout("".join(f"{key:<23}{value}\n" for key, value in rows))


@trace.command(short_help="Export a compact trace as text.")
@click.option(
    "-o",
    "--output",
    type=click.Path(path_type=Path),
    metavar="FILE",
    help="The file to write, by default standard output; .gz, .xz or .zst compresses it.",
)
@click.option(
    "--format",
    "fmt",
    type=click.Choice(["lackey", "csv"]),
    default="lackey",
    show_default=True,
    help="The format of the text.",
)
@_force
@options.verbose
@click.argument("path", type=click.Path(path_type=Path), metavar="FILE")
def export(*, path: Path, output: Path | None, fmt: str, force: bool) -> None:
    """Export every reference of the compact trace FILE, in order.

    Addresses are exact to the page, and to the byte for the first access of each type to a page.
    """
    from hvmmu._cli.progress import Counter  # noqa: PLC0415 - not for --help
    from hvmmu._trace.atomic_output import whole_file  # noqa: PLC0415 - as above
    from hvmmu._trace.codec import writer  # noqa: PLC0415 - as above
    from hvmmu._trace.hvt.export import export as write_text  # noqa: PLC0415 - as above
    from hvmmu._trace.hvt.import_trace import is_hvt  # noqa: PLC0415 - as above
    from hvmmu._trace.hvt.reader import opened  # noqa: PLC0415 - as above

    with opened(path) as file, Counter("references exported") as progress:
        if output is None:
            if sys.stdout is not None:
                write_text(file, fmt, sys.stdout.buffer, progress.update)
            return
        if is_hvt(output):
            raise InputError(f"{printable(str(output))}: an export is text; give it another name")
        with whole_file(output, force=force) as plain_file:
            packed = writer(plain_file, output.suffix)
            count = write_text(file, fmt, packed or plain_file, progress.update)
            if packed is not None:
                packed.close()
    write_stdout(
        f"{printable(str(output))}: {count:,} references in {output.stat().st_size:,} bytes\n"
    )
