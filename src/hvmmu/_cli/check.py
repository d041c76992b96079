"""`hvmmu check`: run the conformance kit on a backend or an MMU."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

import click

from hvmmu._cli import DIFFERS, DONE, options
from hvmmu._cli.output import write_stdout
from hvmmu._files import write_atomically
from hvmmu.errors import InputError
from hvmmu.params import did_you_mean, printable, quote

if TYPE_CHECKING:
    from hvmmu._plugins import Registry
    from hvmmu.engine import Engine

_LEVEL = click.IntRange(0, 6)


@click.command(short_help="Test a backend or an MMU with the conformance kit.")
@click.option("--level", type=_LEVEL, default=6, metavar="N", help="The highest level, 0 to 6.")
@click.option(
    "--examples",
    type=click.IntRange(min=1),
    metavar="N",
    help="The number of random programs to run.",
)
@click.option(
    "--seed",
    type=click.IntRange(0, (1 << 64) - 1),
    default=0,
    metavar="N",
    help="The seed of the random programs.",
)
@click.option(
    "--json",
    "target",
    type=click.Path(path_type=Path, allow_dash=True),
    metavar="FILE",
    help="Write the report as JSON to FILE, - for stdout.",
)
@options.engine
@options.verbose
@click.argument("name", metavar="NAME")
@click.pass_context
def check(
    ctx: click.Context,
    name: str,
    *,
    level: int,
    examples: int | None,
    seed: int,
    target: Path | None,
    engine: str | None,
) -> None:
    """Run the conformance kit on the backend or the MMU NAME.

    Its levels go from packaging (0) to robustness (6).

    Exit code 1 if a check failed.
    """
    from hvmmu._cli.plugin_options import load_registry  # noqa: PLC0415 - not for --help
    from hvmmu._cli.progress import Counter  # noqa: PLC0415 - as above
    from hvmmu.testing.suite import check_named  # noqa: PLC0415 - as above

    to_stdout = target is not None and str(target) == "-"
    if target is not None and not to_stdout:
        _refuse_early(target)
    registry = load_registry(ctx)
    with Counter("checks run") as progress:
        report = check_named(
            name,
            level=level,
            examples=examples,
            seed=seed,
            registry=registry,
            progress=progress.update,
            engine=None if engine is None else _engine(registry, engine),
        )
    if target is not None and not to_stdout:
        write_atomically(target, report.to_json().encode())
    write_stdout(report.to_json() if to_stdout else f"{report}\n")
    ctx.exit(DONE if report.ok else DIFFERS)


def _engine(registry: Registry, name: str) -> type[Engine]:
    if name not in registry.engines:
        known = sorted(registry.engines)
        raise InputError(
            f"no engine {quote(name)}{did_you_mean(name, known)}; hvmmu engines lists them"
        )
    return registry.engines[name]


def _refuse_early(target: Path) -> None:
    """Raise InputError for a file that could not be written in the end."""
    if target.is_dir() or not target.parent.is_dir():
        why = "is a folder" if target.is_dir() else "is in a folder that does not exist"
        raise InputError(f"--json {printable(str(target))}: {why}; name a file")
