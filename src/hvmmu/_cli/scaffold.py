"""`hvmmu new-backend`: write a package with a working backend as a starting point."""

import shlex
from pathlib import Path

import click

from hvmmu._cli import options
from hvmmu._cli.output import write_stdout
from hvmmu.params import printable


@click.command(short_help="Write a package with a working backend as a starting point.")
@options.verbose
@click.argument("name")
@click.argument("folder", metavar="[DIR]", required=False, type=click.Path(path_type=Path))
@click.pass_context
def new_backend(ctx: click.Context, name: str, folder: Path | None) -> None:
    """Write a package with a backend NAME into DIR, a new or empty folder, by default hvmmu-NAME.

    It has parameters, a cost model, passing tests and a tox.ini.
    """
    from hvmmu._cli.session import open_registry  # noqa: PLC0415 - not for --help
    from hvmmu._plugins.contributions import RESERVED_NAMES  # noqa: PLC0415 - as above
    from hvmmu._scaffold import check_name, origin, render, write  # noqa: PLC0415 - as above
    from hvmmu.log import get_logger  # noqa: PLC0415 - as above

    registry = open_registry(ctx)
    taken = (registry.backends, registry.cost_models, registry.parameters, RESERVED_NAMES)
    plugins = {plugin.name for plugin in registry.plugins}
    check_name(name, plugins.union(*taken))
    folder = Path(f"hvmmu-{name}") if folder is None else folder
    mine = origin()
    made = render(name, mine)
    write(made, folder)
    if mine.is_gone:
        get_logger().warning(
            "hvmmu_origin_is_gone", url=mine.url, so="its tox.ini cannot install it: edit `deps`"
        )
    write_stdout(_next(name, folder, len(made)))


def _next(name: str, folder: Path, files: int) -> str:
    """Return the summary, and the commands to type next."""
    where = str(folder) if folder.is_absolute() or folder == Path() else f"./{folder}"
    typed = shlex.quote(where)
    return (
        f"{printable(str(folder))}: a package with the backend {name}, {files} files. Next:\n"
        f"  pip install -e {typed}\n"
        f"  hvmmu check {name}\n"
        f"  cd {typed} && tox\n"
    )
