"""The commands of `hvmmu`, each in its own module, imported when it is called."""

import errno
from collections.abc import Sequence
from importlib import import_module
from importlib.metadata import version
from typing import Any

import click

from hvmmu.cli import NO_READER, drop_stdout, options

_MODULES = {
    "compare": "compare",
    "run": "run",
    "backends": "show",
    "plugins": "show",
    "params": "show",
    "config": "show",
    "check": "check",
    "record": "record",
}


class _OnDemand(click.Group):
    """A group that imports a command's module when the command is asked for."""

    def list_commands(self, ctx: click.Context) -> list[str]:
        """Return the commands in the order in which a person meets them."""
        del ctx
        return list(_MODULES)

    def get_command(self, ctx: click.Context, cmd_name: str) -> click.Command | None:
        """Return the command of this name, or None."""
        del ctx
        if cmd_name not in _MODULES:
            return None
        module: Any = import_module(f"hvmmu.cli.{_MODULES[cmd_name]}")
        command: click.Command = getattr(module, cmd_name)
        return command

    def invoke(self, ctx: click.Context) -> Any:  # noqa: ANN401 - what a command returns
        """Run the command; end it before click does, which would say more, or exit with 1."""
        try:
            return super().invoke(ctx)
        except KeyboardInterrupt:
            raise click.Abort from None
        except OSError as error:
            if error.errno != errno.EPIPE:
                raise
            drop_stdout()
            raise click.exceptions.Exit(NO_READER) from None


@click.group(
    cls=_OnDemand,
    invoke_without_command=True,
    context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 100},
)
@click.version_option(version("hvmmu"), message="hvmmu %(version)s")
@options.plugins
@options.strict
@options.verbose
@click.pass_context
def hvmmu(ctx: click.Context, *, plugins: Sequence[str], strict: bool) -> None:
    """Run real workloads on a hypervisor's MMU: who handled every page fault, at what cost."""
    ctx.ensure_object(dict).update(plugins=plugins, strict=strict)
    if (strict or plugins) and ctx.invoked_subcommand is not None:
        from hvmmu.cli.loading import loaded  # noqa: PLC0415 - else a command loads what it needs

        loaded(ctx)
    if ctx.invoked_subcommand is None:
        click.echo(ctx.get_help())
