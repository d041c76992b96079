"""`hvmmu backends`, `engines`, `mmus`, `plugins`, `params` and `config`: lists."""

from collections.abc import Iterable, Mapping, Sequence
from typing import TYPE_CHECKING, Any

import click

from hvmmu._cli import options
from hvmmu._cli.output import terminal_width, write_stdout
from hvmmu.errors import InputError
from hvmmu.params import did_you_mean, printable, quote
from hvmmu.types import PAGE_SIZE

if TYPE_CHECKING:
    from hvmmu.engine import Engine


@click.command(short_help="List the backends, and the plugins that are broken.")
@options.verbose
@click.pass_context
def backends(ctx: click.Context) -> None:
    """List the backends with their distributions and capabilities, and the broken plugins.

    With -v the capabilities include those that only hvmmu itself uses.
    """
    from hvmmu._cli.session import open_registry  # noqa: PLC0415 - not for --help
    from hvmmu._report import listing  # noqa: PLC0415 - as above
    from hvmmu._report.text_table import render  # noqa: PLC0415 - as above

    registry = open_registry(ctx)
    found = registry.config_schema().backends
    origins = {name: registry.origin(name) for name in found}
    lines = [
        f"{plugin.state.value}: {plugin.name} (from {plugin.origin}): {printable(plugin.cause)}"
        for plugin in registry.unusable
    ]
    table = listing.backends(_described(ctx, found, origins))
    write_stdout(render([table, *([""] if lines else []), *lines], terminal_width()))


@click.command(short_help="List the engines: the MMU models.")
@options.verbose
@click.pass_context
def engines(ctx: click.Context) -> None:
    """List the engines with their distributions and capabilities: each is a model of an MMU.

    With -v the capabilities include those that only hvmmu itself uses.
    """
    from hvmmu._cli.session import open_registry  # noqa: PLC0415 - not for --help
    from hvmmu._report import listing  # noqa: PLC0415 - as above
    from hvmmu._report.text_table import render  # noqa: PLC0415 - as above

    registry = open_registry(ctx)
    origins = {name: registry.origin(name, "engine") for name in registry.engines}
    table = listing.engines(_described(ctx, registry.engines, origins))
    write_stdout(render([table], terminal_width()))


@click.command(short_help="List the MMUs: the hypervisor's ways to translate for its guest.")
@options.verbose
@click.pass_context
def mmus(ctx: click.Context) -> None:
    """List the MMUs with their distributions: each backs the guest's page tables in its own way."""
    from hvmmu._cli.session import open_registry  # noqa: PLC0415 - not for --help
    from hvmmu._report import listing  # noqa: PLC0415 - as above
    from hvmmu._report.text_table import render  # noqa: PLC0415 - as above

    registry = open_registry(ctx)
    rows = [
        (name, _versioned(registry.origin(name, "MMU")), mmu.summary)
        for name, mmu in registry.mmus.items()
    ]
    write_stdout(render([listing.mmus(rows)], terminal_width()))


def _described(
    ctx: click.Context, found: Mapping[str, Any], origins: Mapping[str, str]
) -> Iterable[tuple[str, str, str, str]]:
    """Yield name, distribution, summary and capabilities of backends or engines."""
    from hvmmu._report import listing  # noqa: PLC0415 - not for --help

    verbose = bool(ctx.ensure_object(dict).get("verbose"))
    for name, one in found.items():
        described, reason = (one, "") if hasattr(one, "caps") else _tried(one)
        able = reason or listing.capabilities(described, verbose=verbose)
        yield name, _versioned(origins[name]), one.summary, able


def _tried(engine: "type[Engine]") -> "tuple[Engine | None, str]":
    """Return an engine of the default CPU model, or None and why there is none here."""
    from hvmmu.arch.regs import CpuFeatures  # noqa: PLC0415 - not for --help
    from hvmmu.memory import Memory  # noqa: PLC0415 - as above

    memory = Memory(PAGE_SIZE)
    try:
        return engine(memory, CpuFeatures()), ""
    except Exception as error:  # noqa: BLE001 - a plugin's
        return None, f"unavailable: {error}"
    finally:
        memory.close()


def _versioned(distribution: str) -> str:
    """Return a distribution's name with its version; what is built in has none."""
    from importlib.metadata import PackageNotFoundError, version  # noqa: PLC0415 - 20 ms

    try:
        return f"{distribution} {version(distribution)}"
    except PackageNotFoundError:
        return distribution


@click.command(short_help="List the plugins, and what is wrong with them.")
@options.as_json
@options.verbose
@click.pass_context
def plugins(ctx: click.Context, *, as_json: bool) -> None:
    """List every plugin: its distribution, its state, what it registered, and what is wrong.

    With -v, what each printed while it was loaded is logged.
    """
    from hvmmu._cli.session import open_registry  # noqa: PLC0415 - not for --help
    from hvmmu._report import listing  # noqa: PLC0415 - as above
    from hvmmu._report.text_table import render  # noqa: PLC0415 - as above

    registry = open_registry(ctx)
    if as_json:
        write_stdout(listing.plugins_json(registry.plugins))
    elif registry.plugins:
        write_stdout(render([listing.plugins(registry.plugins)], terminal_width()))
    else:
        write_stdout("no plugin is installed\n")


@click.command(short_help="List the parameters, as modinfo does.")
@options.options(options.settings, options.verbose)
@click.argument("section", metavar="[BACKEND]", required=False)
@click.pass_context
def params(ctx: click.Context, section: str | None, settings: Sequence[str]) -> None:
    """List the parameters of BACKEND as modinfo does, each with its value and source.

    Without BACKEND all sections are listed: mmu, cpu, guest, the plugins' own and every backend.
    """
    from hvmmu._cli.session import open_session  # noqa: PLC0415 - not for --help
    from hvmmu._report import listing  # noqa: PLC0415 - as above

    session = open_session(ctx, settings=settings)
    sections = list(session.schema.classes())
    if section is not None and section not in sections:
        near = did_you_mean(section, sections, 0.75) or " (see `hvmmu backends`)"
        raise InputError(f"no section {quote(section)}; there are {', '.join(sections)}{near}")
    chosen = sections if section is None else [section]
    blocks = [
        "\n".join(listing.params(name, session.schema, session.config.rows)) for name in chosen
    ]
    write_stdout("\n\n".join(blocks) + "\n")


@click.command(short_help="Print the resolved configuration.")
@click.option("--explain", is_flag=True, help="Show each value's source and default.")
@options.options(
    options.backends,
    options.mmus,
    options.settings,
    options.costs,
    options.engine,
    options.verbose,
)
@click.pass_context
def config(
    ctx: click.Context,
    *,
    explain: bool,
    backends: Sequence[str],
    mmus: Sequence[str],
    settings: Sequence[str],
    costs: str | None,
    engine: str | None,
) -> None:
    """Print the resolved configuration as an equivalent hvmmu.toml."""
    from hvmmu._cli.session import open_session  # noqa: PLC0415 - not for --help
    from hvmmu._report import listing  # noqa: PLC0415 - as above
    from hvmmu._report.text_table import render  # noqa: PLC0415 - as above

    session = open_session(
        ctx, settings=settings, backends=backends, costs=costs, engine=engine, mmus=mmus
    )
    if explain:
        write_stdout(render([listing.explained(session.config.rows)], terminal_width()))
    else:
        write_stdout("\n".join(listing.toml(session.config.rows, session.schema)) + "\n")
