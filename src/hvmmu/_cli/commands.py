"""The group of commands: each is imported when it is called."""

import errno
from collections.abc import Sequence
from importlib import import_module
from typing import TYPE_CHECKING, Any

import click

from hvmmu import __version__
from hvmmu._cli import NO_READER, drop_stdout, options
from hvmmu._cli.command_table import MODULES
from hvmmu.errors import HvmmuError, PluginError

if TYPE_CHECKING:
    from hvmmu._plugins import Registry


class _OnDemand(click.Group):
    """A group that imports a command's module when the command is looked up.

    Plugins are loaded only to list all commands, or for a command that is not built in.
    """

    def get_help_option(self, ctx: click.Context) -> click.Option | None:
        """Return --help as an option that is handled after -P, wherever that is typed."""
        option = super().get_help_option(ctx)
        if option is not None:
            option.is_eager = False
        return option

    def list_commands(self, ctx: click.Context) -> list[str]:
        """Return the commands in the order of `hvmmu --help`, the plugins' last."""
        return [*MODULES, *_registry(ctx).commands]

    def get_command(self, ctx: click.Context, cmd_name: str) -> click.Command | None:
        """Return the command of this name, or None."""
        if cmd_name not in MODULES:
            return _plugin_command(ctx, cmd_name)
        module: Any = import_module(f"hvmmu._cli.{MODULES[cmd_name]}")
        command: click.Command = getattr(module, cmd_name.replace("-", "_"))
        return command

    def invoke(self, ctx: click.Context) -> Any:  # noqa: ANN401 - whatever a command returns
        """Run the command; handle an interrupt and a closed pipe before click does."""
        try:
            return self._invoke(ctx)
        except KeyboardInterrupt:
            raise click.Abort from None
        except OSError as error:
            if error.errno != errno.EPIPE:
                raise
            drop_stdout()
            raise click.exceptions.Exit(NO_READER) from None

    def _invoke(self, ctx: click.Context) -> Any:  # noqa: ANN401 - whatever a command returns
        """Run the command; an unexpected exception of a plugin's command names the plugin."""
        try:
            return super().invoke(ctx)
        except (click.ClickException, click.exceptions.Exit, click.Abort, HvmmuError, OSError):
            raise
        except Exception as error:
            name = ctx.invoked_subcommand or ""
            if name in MODULES:
                raise
            plugin = _registry(ctx).plugin("command", name)
            who, what = plugin.name if plugin else "", f"{type(error).__name__}: {error}"
            message = f"plugin {who!r}, in command {name!r}: {what}"
            raise PluginError(message, plugin=who) from error


def _registry(ctx: click.Context) -> "Registry":
    """Load the plugins that the options so far select."""
    from hvmmu._cli.plugin_options import load_registry  # noqa: PLC0415 - for plugins

    ctx.ensure_object(dict)["plugins"] = ctx.params.get("plugins") or ()  # before the callback
    return load_registry(ctx)


def _plugin_command(ctx: click.Context, name: str) -> click.Command | None:
    """Return a plugin's command; warn of unusable plugins, which might have had it."""
    from hvmmu._cli.plugin_options import warn_unusable  # noqa: PLC0415 - for plugins

    registry = _registry(ctx)
    if name not in registry.commands:
        warn_unusable(registry)
    return registry.commands.get(name)


@click.group(
    cls=_OnDemand,
    invoke_without_command=True,
    context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 100},
)
@click.version_option(__version__, message="hvmmu %(version)s")
@options.plugins
@options.strict
@options.verbose
@click.pass_context
def hvmmu(ctx: click.Context, *, plugins: Sequence[str], strict: bool) -> None:
    """Run real workloads on a hypervisor's MMU: who handles each page fault, and at what cost."""
    ctx.ensure_object(dict).update(plugins=plugins, strict=strict)
    if (strict or plugins) and ctx.invoked_subcommand is not None:
        from hvmmu._cli.plugin_options import load_registry  # noqa: PLC0415 - for plugins

        load_registry(ctx)
    if ctx.invoked_subcommand is None:
        click.echo(ctx.get_help())
