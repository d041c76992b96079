"""`hvmmu sweep`: run each cell of a grid once, and keep it in its own file."""

import os
import re
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING

import click

from hvmmu._cli import DIFFERS, DONE, options
from hvmmu._cli.output import write_stdout
from hvmmu.params import printable, quote

if TYPE_CHECKING:
    from hvmmu._sweep import SweepResult

EXECUTORS = ("process", "thread", "loky", "dask")
MOST_SHOWN = 20
"""The largest number of causes of failed cells in the summary."""


def _shard(_: click.Context, __: click.Parameter, text: str) -> tuple[int, int]:
    """Return both numbers of I/N."""
    match = re.fullmatch(r"([1-9][0-9]{0,5})/([1-9][0-9]{0,5})", text)
    if match is None or int(match[1]) > int(match[2]):
        raise click.BadParameter(f"{quote(text)} is not I/N with I from 1 to N, as 2/3")
    return int(match[1]), int(match[2])


@click.command(short_help="Run every cell of a parameter grid, and keep each in its own file.")
@click.argument("grid", type=click.Path(path_type=Path))
@click.option(
    "-o",
    "--output",
    type=click.Path(path_type=Path),
    metavar="DIR",
    help="The folder of the cells; by default GRID.cells in the current folder.",
)
@click.option(
    "-j",
    "--jobs",
    type=click.IntRange(min=1, max=4096),
    metavar="N",
    help="The number of workers; by default that of usable CPUs.",
)
@click.option(
    "--executor",
    type=click.Choice(EXECUTORS),
    default="process",
    help="The executor of the cells; loky and dask are extras.",
)
@click.option(
    "--scheduler",
    metavar="ADDRESS",
    help="The address of a dask cluster; by default a local one is started.",
)
@click.option(
    "--shard", callback=_shard, default="1/1", metavar="I/N", help="Run the I-th of N parts."
)
@click.option("--resume", is_flag=True, help="Keep the cells that exist, and run the others.")
@options.verbose
@click.pass_context
def sweep(
    ctx: click.Context,
    *,
    grid: Path,
    output: Path | None,
    jobs: int | None,
    executor: str,
    scheduler: str | None,
    shard: tuple[int, int],
    resume: bool,
) -> None:
    """Run the cells of GRID: a hvmmu.toml in which every value may be a list.

    Each cell is written to a file named for its inputs. After an interruption the files that exist
    are whole; --resume runs the others.

    Exit code 1 if a cell failed.
    """
    from hvmmu._sweep.forkserver import start_forkserver  # noqa: PLC0415 - not for --help

    if executor == "process":
        start_forkserver()
    from hvmmu._cli.command_table import MODULES  # noqa: PLC0415 - as above
    from hvmmu._cli.eta import SweepProgress  # noqa: PLC0415 - as above
    from hvmmu._cli.plugin_options import plugin_selection, warn_unusable  # noqa: PLC0415 - as above
    from hvmmu._cli.session import open_registry  # noqa: PLC0415 - as above
    from hvmmu._sweep import run  # noqa: PLC0415 - as above
    from hvmmu._sweep.installation import open_installation  # noqa: PLC0415 - as above

    registry = open_registry(ctx)
    warn_unusable(registry)
    selection = plugin_selection(ctx.obj.get("plugins", ()), os.environ)
    selection["commands"] = sorted(MODULES)
    with SweepProgress() as progress:
        result = run(
            grid,
            executor,
            folder=output,
            jobs=jobs,
            shard=shard,
            resume=resume,
            scheduler=scheduler,
            installation=open_installation(selection, registry),
            report=progress.update,
        )
    write_stdout("".join(f"{line}\n" for line in _summary(result)))
    ctx.exit(DIFFERS if result.failed else DONE)


def _summary(result: "SweepResult") -> Iterator[str]:
    """Yield the summary of a sweep: the counts, then each cause of failed cells once."""
    folder, failed = printable(str(result.folder)), result.failed
    part = "" if result.mine == result.planned else f" of {result.planned:,}"
    yield (
        f"{folder}: {result.mine:,}{part} cells: {result.ran:,} run, {len(failed):,} failed, "
        f"{result.kept:,} kept"
    )
    causes: dict[str, list[str]] = {}
    for cell, failure in failed:
        cause = f"{failure.kind}: {failure.reason}"
        causes.setdefault(cause, []).append(f"{cell.id[:12]} {cell.label}")
    for cause, cells in list(causes.items())[:MOST_SHOWN]:
        more = f" and {len(cells) - 1:,} more" if len(cells) > 1 else ""
        yield f"failed: {cells[0]}{more}: {cause}"
    if len(causes) > MOST_SHOWN:
        yield f"and {len(causes) - MOST_SHOWN:,} other causes; `hvmmu collect` lists them"
