"""`hvmmu trace`: compact traces, made from other tools' traces, described, and given back."""

import sys
from pathlib import Path

import click

from hvmmu._cli import options
from hvmmu._cli.output import say
from hvmmu.errors import InputError
from hvmmu.params import plain

_PIPE = "-"
_force = click.option("--force", is_flag=True, help="Replace FILE if it exists.")


@click.group(no_args_is_help=False, short_help="Make, describe and export compact traces (.hvt).")
def trace() -> None:
    """Make, describe and export compact traces: an .hvt file is a workload like any other trace."""


@trace.command("import", short_help="Make a compact trace of another tool's trace.")
@click.option(
    "-o",
    "--output",
    required=True,
    type=click.Path(path_type=Path),
    metavar="FILE",
    help="Where it goes: a name in .hvt, or .hvt.gz, .hvt.xz, .hvt.zst to have it packed.",
)
@click.option(
    "--format",
    "fmt",
    metavar="NAME",
    help="lackey, champsim, dynamorio, csv or parquet; told by its start if not given.",
)
@options.limit
@_force
@options.verbose
@click.argument("source", metavar="IN")
def import_(*, source: str, output: Path, fmt: str | None, limit: int | None, force: bool) -> None:
    """Make a compact trace of IN: a file (plain, .gz, .xz, .zst), a pipe, - for standard input.

    Nothing is left behind unless the trace is whole.
    """
    from hvmmu._cli.progress import Progress  # noqa: PLC0415 - not for --help
    from hvmmu._trace.hvt.import_trace import import_trace  # noqa: PLC0415 - as above

    if source == _PIPE and sys.stdin is None:
        raise InputError("standard input is closed; pipe a trace in, or name a file")
    piped = sys.stdin.buffer if source == _PIPE else None
    path = None if source == _PIPE else Path(source)
    with Progress("references imported") as progress:
        made = import_trace(
            path, piped, output, fmt=fmt, limit=limit, force=force, progress=progress.at
        )
    size = output.stat().st_size
    say(
        f"{plain(str(output))}: {made.references:,} references in {size:,} bytes, "
        f"{size / made.references:.3f} each; {made.span_kept / made.accesses:.1%} of the accesses "
        "can change a TLB\n"
    )


@trace.command("info", short_help="Say what a compact trace holds, and check all of it.")
@options.verbose
@click.argument("path", type=click.Path(path_type=Path), metavar="FILE")
def describe(*, path: Path) -> None:
    """Say what the compact trace FILE holds and where it came from; all of it is checked."""
    from hvmmu._trace.hvt.reader import opened  # noqa: PLC0415 - not for --help

    with opened(path) as file:
        for _ in file.windows():
            pass
        head = file.header
    size = path.stat().st_size
    rows = [
        ("references", f"{head.references:,}"),
        ("accesses", f"{head.accesses:,} (a reference that crosses a page is two)"),
        ("kinds", f"{head.fetches:,} fetches, {head.reads:,} reads, {head.writes:,} writes"),
        ("pages", f"{head.pages:,} of 4 KiB"),
        ("reduced", f"{head.span_kept:,} accesses, {head.span_kept / head.accesses:.2%}"),
        ("by windows", f"{head.window_kept:,} accesses, {head.window_kept / head.accesses:.2%}"),
        (
            "filters",
            (
                f"{head.sets} sets of {head.ways} ways, anew after {head.span:,} accesses; "
                f"of the latest page, after {head.window:,}"
            ),
        ),
        ("size", f"{size:,} bytes, {size / head.references:.4f} a reference"),
        ("chunks", f"{head.chunks:,}, the largest of {head.most_chunk:,} bytes"),
        ("sha256", f"{head.sha256.hex()} of the accesses"),
        *(("from", plain(line)) for line in head.provenance.splitlines()),
    ]
    say("".join(f"{key:<12}{value}\n" for key, value in rows))


@trace.command(short_help="Write a compact trace as text, page by page.")
@click.option(
    "-o",
    "--output",
    type=click.Path(path_type=Path),
    metavar="FILE",
    help="Where it goes, standard output if not given: .gz, .xz or .zst is packed.",
)
@click.option(
    "--format",
    "fmt",
    type=click.Choice(["lackey", "csv"]),
    default="lackey",
    show_default=True,
    help="What kind of text.",
)
@_force
@options.verbose
@click.argument("path", type=click.Path(path_type=Path), metavar="FILE")
def export(*, path: Path, output: Path | None, fmt: str, force: bool) -> None:
    """Write every reference of the compact trace FILE, in order.

    Addresses are right to the page, and to the byte where a page is first accessed by a kind.
    """
    from hvmmu._cli.progress import Progress  # noqa: PLC0415 - not for --help
    from hvmmu._trace.atomic_output import whole_file  # noqa: PLC0415 - as above
    from hvmmu._trace.codec import writer  # noqa: PLC0415 - as above
    from hvmmu._trace.hvt.export import export as exported  # noqa: PLC0415 - as above
    from hvmmu._trace.hvt.import_trace import is_hvt  # noqa: PLC0415 - as above
    from hvmmu._trace.hvt.reader import opened  # noqa: PLC0415 - as above

    with opened(path) as file, Progress("references exported") as progress:
        if output is None:
            if sys.stdout is not None:
                exported(file, fmt, sys.stdout.buffer, progress.at)
            return
        if is_hvt(output):
            raise InputError(f"{plain(str(output))}: an export is text; name it so")
        with whole_file(output, force=force) as plain_file:
            packed = writer(plain_file, output.suffix)
            count = exported(file, fmt, packed or plain_file, progress.at)
            if packed is not None:
                packed.close()
    say(f"{plain(str(output))}: {count:,} references in {output.stat().st_size:,} bytes\n")
