"""`hvmmu collect`: write the cells of sweeps as one table."""

import os
from collections.abc import Sequence
from pathlib import Path

import click

from hvmmu._cli import options
from hvmmu._cli.output import write_stdout
from hvmmu.errors import InputError
from hvmmu.params import printable


@click.command(short_help="Collect the cells of sweeps into one table.")
@click.argument("folders", metavar="DIR...", nargs=-1, required=True)
@click.option(
    "-o",
    "--output",
    required=True,
    metavar="FILE",
    help="The file to write, by its ending .csv, .sqlite or .parquet; - is CSV on stdout.",
)
@click.option("--force", is_flag=True, help="Replace FILE if it exists.")
@options.verbose
def collect(folders: Sequence[str], output: str, force: bool) -> None:
    """Write the cells in each DIR to FILE, a row for each: shards become one table.

    The same cell in two folders is one row. Two files of one cell that differ are an error.
    """
    from hvmmu._sweep.tabulate import collect as write_table  # noqa: PLC0415 - not for --help
    from hvmmu._sweep.tabulate import csv_of, table  # noqa: PLC0415 - as above

    if output == "-":
        write_stdout(csv_of(table(folders)))
        return
    if not force and os.path.lexists(output):
        raise InputError(f"{printable(output)} exists; give another FILE, or --force to replace it")
    written = write_table(folders, Path(output))
    write_stdout(
        f"{printable(output)}: {len(written.rows):,} cells in {len(written.names):,} columns\n"
    )
