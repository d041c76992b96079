"""`hvmmu backends`, `plugins`, `params` and `config`: what is there, and how it is set."""

from collections.abc import Sequence

import click

from hvmmu._cli import options
from hvmmu._cli.output import say, width
from hvmmu.errors import InputError
from hvmmu.params import nearest, plain, shown


@click.command(short_help="List the backends, and the plugins that are broken.")
@options.verbose
@click.pass_context
def backends(ctx: click.Context) -> None:
    """List the backends, which distribution each comes from, and the plugins that are broken."""
    from hvmmu._cli.session import open_registry  # noqa: PLC0415 - not for --help
    from hvmmu._plugins.known import known_settings  # noqa: PLC0415 - as above
    from hvmmu._report import listing  # noqa: PLC0415 - as above
    from hvmmu._report.terminal import rendered  # noqa: PLC0415 - as above

    registry = open_registry(ctx)
    rows = [
        (name, _versioned(registry.origin(name)), made.summary, listing.capabilities(made))
        for name, made in known_settings(registry).backends.items()
    ]
    lines = [
        f"{plugin.state.value}: {plugin.name} (from {plugin.origin}): {plain(plugin.cause)}"
        for plugin in registry.unusable
    ]
    say(rendered([listing.backends(rows), *([""] if lines else []), *lines], width()))


def _versioned(distribution: str) -> str:
    """Return a distribution's name with its version; what is built in has none."""
    from importlib.metadata import PackageNotFoundError, version  # noqa: PLC0415 - 20 ms

    try:
        return f"{distribution} {version(distribution)}"
    except PackageNotFoundError:
        return distribution


@click.command(short_help="List the engines: what can play the hardware.")
@options.verbose
@click.pass_context
def engines(ctx: click.Context) -> None:
    """List the engines, which distribution each comes from, and what each can do."""
    from hvmmu._cli.session import open_registry  # noqa: PLC0415 - not for --help
    from hvmmu._report import listing  # noqa: PLC0415 - as above
    from hvmmu._report.terminal import rendered  # noqa: PLC0415 - as above

    registry = open_registry(ctx)
    rows = [
        (
            name,
            _versioned(registry.origin(name, "engine")),
            made.summary,
            getattr(made, "why_not", "") or listing.capabilities(made),
        )
        for name, made in registry.engines.items()
    ]
    say(rendered([listing.engines(rows)], width()))


@click.command(short_help="List the plugins, what each is for, and what is wrong with it.")
@options.as_json
@options.verbose
@click.pass_context
def plugins(ctx: click.Context, *, as_json: bool) -> None:
    """List every plugin: its distribution, its state, what it registered, and what is wrong.

    With -v, stderr says what each printed while it was loaded.
    """
    from hvmmu._cli.session import open_registry  # noqa: PLC0415 - not for --help
    from hvmmu._report import listing  # noqa: PLC0415 - as above
    from hvmmu._report.terminal import rendered  # noqa: PLC0415 - as above

    registry = open_registry(ctx)
    if as_json:
        say(listing.plugins_json(registry.plugins))
    elif registry.plugins:
        say(rendered([listing.plugins(registry.plugins)], width()))
    else:
        say("no plugin is installed\n")


@click.command(short_help="List the parameters, as modinfo does.")
@options.options(options.settings, options.verbose)
@click.argument("section", metavar="[BACKEND]", required=False)
@click.pass_context
def params(ctx: click.Context, section: str | None, settings: Sequence[str]) -> None:
    """List the parameters of BACKEND as modinfo does, each with its value and where it is from.

    Without BACKEND all sections are listed: mmu, cpu, guest, the plugins' own and every backend.
    """
    from hvmmu._cli.session import open_session  # noqa: PLC0415 - not for --help
    from hvmmu._report import listing  # noqa: PLC0415 - as above

    session = open_session(ctx, settings=settings)
    sections = list(session.known.classes())
    if section is not None and section not in sections:
        near = nearest(section, sections) or " (see `hvmmu backends`)"
        raise InputError(f"no section {shown(section)}; there are {', '.join(sections)}{near}")
    chosen = sections if section is None else [section]
    blocks = [
        "\n".join(listing.params(name, session.known, session.config.rows)) for name in chosen
    ]
    say("\n\n".join(blocks) + "\n")


@click.command(short_help="Print the resolved configuration.")
@click.option("--explain", is_flag=True, help="Show where each value is from, and its default.")
@options.options(options.backends, options.settings, options.costs, options.engine, options.verbose)
@click.pass_context
def config(
    ctx: click.Context,
    *,
    explain: bool,
    backends: Sequence[str],
    settings: Sequence[str],
    costs: str | None,
    engine: str | None,
) -> None:
    """Print the resolved configuration, as a hvmmu.toml that says the same."""
    from hvmmu._cli.session import open_session  # noqa: PLC0415 - not for --help
    from hvmmu._report import listing  # noqa: PLC0415 - as above
    from hvmmu._report.terminal import rendered  # noqa: PLC0415 - as above

    session = open_session(ctx, settings=settings, backends=backends, costs=costs, engine=engine)
    if explain:
        say(rendered([listing.explained(session.config.rows)], width()))
    else:
        say("\n".join(listing.toml(session.config.rows, session.known)) + "\n")
