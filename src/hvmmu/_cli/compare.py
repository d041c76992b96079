"""`hvmmu compare`: the same workload on several backends, side by side."""

from collections.abc import Sequence

import click

from hvmmu._cli import DIFFERS, DONE, options
from hvmmu._cli.output import say, width


@click.command(short_help="Run a workload on several backends, side by side.")
@options.measuring
@click.pass_context
def compare(
    ctx: click.Context,
    *,
    workload: str | None,
    backends: Sequence[str],
    settings: Sequence[str],
    costs: str | None,
    engine: str | None,
    limit: int | None,
    as_json: bool,
) -> None:
    """Run WORKLOAD on several backends and set the results side by side.

    WORKLOAD is a trace (plain, .gz, .xz, .zst), or a synthetic one with options after a colon, as
    demand-zero:pages=4096; the shipped trace if none is named. All installed backends
    run unless -b names some; what a backend can do in two ways is run both ways.

    Exit code 1 if the guest could tell two runs apart, or a plugin ended a run.
    """
    from hvmmu._cli.lockstep import measured  # noqa: PLC0415 - nothing of this for --help
    from hvmmu._cli.session import open_session  # noqa: PLC0415 - as above
    from hvmmu._plugins.known import BASELINE  # noqa: PLC0415 - as above
    from hvmmu._report import document, reading, text  # noqa: PLC0415 - as above

    session = open_session(ctx, settings=settings, backends=backends, costs=costs, engine=engine)
    made = measured(session, session.registry.workload(workload, limit), list(session.runs()))
    if as_json:
        say(document.dumps(made))
    else:
        say(text.comparison(made, baseline=BASELINE, width=width()))
    ctx.exit(DIFFERS if reading.differences(made) or made["failures"] else DONE)
