"""`hvmmu compare`: the same workload on several backends, side by side."""

from collections.abc import Sequence

import click

from hvmmu._cli import DIFFERS, DONE, options
from hvmmu._cli.output import terminal_width, write_stdout


@click.command(short_help="Run a workload on several backends, side by side.")
@options.measuring
@click.pass_context
def compare(
    ctx: click.Context,
    *,
    workload: str | None,
    backends: Sequence[str],
    mmus: Sequence[str],
    settings: Sequence[str],
    costs: str | None,
    engine: str | None,
    limit: int | None,
    as_json: bool,
) -> None:
    """Run WORKLOAD on several backends and print the results side by side.

    WORKLOAD is a trace (plain, .gz, .xz, .zst), or a synthetic one with options after a colon, as
    demand-zero:pages=4096; by default the bundled trace. All installed backends run unless -b
    names some; a backend with a parameter to compare runs with it off and on.

    Exit code 1 if the guest could tell two runs apart, or a plugin failed.
    """
    from hvmmu._cli.run_side_by_side import run_machines  # noqa: PLC0415 - not for --help
    from hvmmu._cli.session import open_session  # noqa: PLC0415 - as above
    from hvmmu._plugins.registry import BASELINE  # noqa: PLC0415 - as above
    from hvmmu._report import conclusions, document, text  # noqa: PLC0415 - as above

    session = open_session(
        ctx, settings=settings, backends=backends, costs=costs, engine=engine, mmus=mmus
    )
    made = run_machines(session, session.registry.workload(workload, limit), list(session.runs()))
    if as_json:
        write_stdout(document.dumps(made))
    else:
        write_stdout(text.comparison(made, baseline=BASELINE, width=terminal_width()))
    ctx.exit(DIFFERS if conclusions.differences(made) or made["failures"] else DONE)
