"""The options that several commands share."""

from collections.abc import Callable
from typing import Any, TypeVar

import click

F = TypeVar("F", bound=Callable[..., Any])

backends = click.option(
    "-b",
    "--backend",
    "backends",
    multiple=True,
    metavar="NAME",
    help="A backend to run; may be given more than once.",
)
settings = click.option(
    "-p",
    "--param",
    "settings",
    multiple=True,
    metavar="NAME=VALUE",
    help="Set a parameter: name=value or section.name=value (see `hvmmu params`).",
)
costs = click.option("--costs", metavar="NAME", help="The cost model for estimating cycles.")
engine = click.option("--engine", metavar="NAME", help="The MMU model: see `hvmmu engines`.")
mmus = click.option(
    "--mmu",
    "mmus",
    multiple=True,
    metavar="NAME",
    help="The MMU of the hypervisor, as -p mmu.type=NAME: see `hvmmu mmus`.",
)
limit = click.option(
    "--limit",
    type=click.IntRange(min=1),
    metavar="N",
    help="Stop after N references of the workload.",
)
as_json = click.option("--json", "as_json", is_flag=True, help="Print one JSON document.")
plugins = click.option(
    "-P",
    "--plugin",
    "plugins",
    multiple=True,
    metavar="[no:]NAME",
    is_eager=True,  # before --help, which lists the commands of plugins
    help="Load this plugin or module as well; with no: leave it out. See `hvmmu plugins`.",
)
strict = click.option(
    "--strict",
    is_flag=True,
    is_eager=True,
    help="Fail if a plugin is broken, duplicate or incompatible, or a setting is for none.",
)
workload = click.argument("workload", required=False)


def _be_verbose(ctx: click.Context, _: click.Parameter, value: bool) -> bool:
    chosen = ctx.ensure_object(dict)  # shared by `hvmmu -v compare` and `hvmmu compare -v`
    chosen["verbose"] = chosen.get("verbose", False) or value
    return value


verbose = click.option(
    "-v",
    "--verbose",
    is_flag=True,
    expose_value=False,
    is_eager=True,
    callback=_be_verbose,
    help="Log more, on stderr.",
)


def options(*decorators: Callable[[F], F]) -> Callable[[F], F]:
    """Return one decorator for several, in the order in which --help lists them."""

    def decorate(command: F) -> F:
        for decorator in reversed(decorators):
            command = decorator(command)
        return command

    return decorate


measuring = options(workload, backends, mmus, settings, costs, engine, limit, as_json, verbose)
"""The options of commands that run a workload."""
