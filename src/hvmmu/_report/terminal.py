"""Tables as text: for a terminal with its colours and width, for a file plain and unbroken."""

from io import StringIO
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Sequence

    from rich.console import RenderableType

UNBROKEN = 10_000
"""The width of what is no terminal: nothing is ever folded there."""


def rendered(parts: "Sequence[RenderableType]", width: int | None) -> str:
    """Return *parts* one below the other; *width* None: no terminal, so no colours."""
    from rich.console import Console  # noqa: PLC0415 - 50 ms that --json does not pay

    out = StringIO()
    console = Console(
        file=out,
        width=width or UNBROKEN,
        force_terminal=width is not None,
        color_system="auto" if width is not None else None,
        highlight=False,
        markup=False,
        emoji=False,
    )
    for part in parts:
        console.print(part, soft_wrap=width is None)
    lines = [line.rstrip() for line in out.getvalue().splitlines()]
    return "\n".join(lines) + "\n"
