"""`hvmmu run`: one workload on one backend, in depth."""

from collections.abc import Sequence

import click

from hvmmu._cli import options
from hvmmu._cli.output import terminal_width, write_stdout
from hvmmu.errors import InputError


@click.command(short_help="Run a workload on one backend, in depth.")
@options.measuring
@click.pass_context
def run(
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
    """Run WORKLOAD on one backend; print its counters and the outcome of every page fault."""
    from hvmmu._cli.run_side_by_side import run_machines  # noqa: PLC0415 - not for --help
    from hvmmu._cli.session import open_session  # noqa: PLC0415 - as above
    from hvmmu._plugins.registry import BASELINE  # noqa: PLC0415 - as above
    from hvmmu._report import document, text  # noqa: PLC0415 - as above

    session = open_session(
        ctx, settings=settings, backends=backends, costs=costs, engine=engine, mmus=mmus
    )
    chosen = session.backends()
    if len(chosen) > 1:
        raise InputError(f"run takes one backend: say which with -b ({', '.join(chosen)})")
    if len(session.config.mmus) > 1:
        raise InputError(f"run takes one MMU: give --mmu once ({', '.join(session.config.mmus)})")
    machine = session.machine(chosen[0], {}, session.config.mmus[0])
    made = run_machines(session, session.registry.workload(workload, limit), [machine])
    if as_json:
        write_stdout(document.dumps(made))
    else:
        write_stdout(text.single(made, baseline=BASELINE, width=terminal_width()))
