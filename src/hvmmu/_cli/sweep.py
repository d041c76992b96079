"""`hvmmu sweep`: the cells of a grid, each run once and kept in a file of its own."""

import os
import re
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING

import click

from hvmmu._cli import DIFFERS, DONE, options
from hvmmu._cli.output import say
from hvmmu.params import plain, shown

if TYPE_CHECKING:
    from hvmmu._sweep import Outcome

EXECUTORS = ("process", "thread", "loky", "dask")
MOST_SHOWN = 20
"""Failed cells that the summary lists."""


def _shard(_: click.Context, __: click.Parameter, text: str) -> tuple[int, int]:
    """Return both numbers of I/N."""
    match = re.fullmatch(r"([1-9][0-9]{0,5})/([1-9][0-9]{0,5})", text)
    if match is None or int(match[1]) > int(match[2]):
        raise click.BadParameter(f"{shown(text)} is not I/N with I from 1 to N, as 2/3")
    return int(match[1]), int(match[2])


@click.command(short_help="Run every cell of a grid, and keep each in a file of its own.")
@click.argument("grid", type=click.Path(path_type=Path))
@click.option(
    "-o",
    "--output",
    type=click.Path(path_type=Path),
    metavar="DIR",
    help="Where the cells go; by default GRID.cells in the current folder.",
)
@click.option(
    "-j",
    "--jobs",
    type=click.IntRange(min=1, max=4096),
    metavar="N",
    help="Workers; by default as many as there are usable CPUs.",
)
@click.option(
    "--executor",
    type=click.Choice(EXECUTORS),
    default="process",
    help="Where cells run; loky and dask are extras.",
)
@click.option("--scheduler", metavar="ADDRESS", help="A dask cluster's; without it, a local one.")
@click.option(
    "--shard", callback=_shard, default="1/1", metavar="I/N", help="Run the I-th of N parts."
)
@click.option("--resume", is_flag=True, help="Keep the cells that are there, and run the others.")
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

    Each cell goes to a file named for what was run. Whatever ends the sweep, the cells that are
    there are whole; --resume goes on with the others.

    Exit code 1 if a cell failed.
    """
    from hvmmu._sweep.warm import warm_up  # noqa: PLC0415 - nothing of this for --help

    if executor == "process":
        warm_up()
    from hvmmu._cli.ahead import Ahead  # noqa: PLC0415 - as above
    from hvmmu._cli.built_in import BUILT_IN  # noqa: PLC0415 - as above
    from hvmmu._cli.loading import choice, warn  # noqa: PLC0415 - as above
    from hvmmu._cli.session import open_registry  # noqa: PLC0415 - as above
    from hvmmu._sweep import run  # noqa: PLC0415 - as above
    from hvmmu._sweep.site import open_site  # noqa: PLC0415 - as above

    registry = open_registry(ctx)
    warn(registry)
    explicit = choice(ctx.obj.get("plugins", ()), os.environ)
    with Ahead() as ahead:
        outcome = run(
            grid,
            executor,
            folder=output,
            jobs=jobs,
            shard=shard,
            resume=resume,
            scheduler=scheduler,
            site=open_site({**explicit, "commands": sorted(BUILT_IN)}, registry),
            tell=ahead.at,
        )
    say("".join(f"{line}\n" for line in _summary(outcome)))
    ctx.exit(DIFFERS if outcome.failed else DONE)


def _summary(outcome: "Outcome") -> Iterator[str]:
    """Yield the lines that say what the sweep came to."""
    folder, failed = plain(str(outcome.folder)), outcome.failed
    part = "" if outcome.mine == outcome.planned else f" of {outcome.planned:,}"
    yield (
        f"{folder}: {outcome.mine:,}{part} cells: {outcome.ran:,} run, {len(failed):,} failed, "
        f"{outcome.kept:,} kept"
    )
    for cell, failure in failed[:MOST_SHOWN]:
        yield f"failed: {cell.id[:12]} {cell.told}: {failure.kind}: {failure.reason}"
    if len(failed) > MOST_SHOWN:
        yield f"and {len(failed) - MOST_SHOWN:,} more; `hvmmu collect` lists them"
