"""The environment that an installed hvmmu runs in: its byte code is there, and no setting is."""

from __future__ import annotations

import os
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from pathlib import Path


def environment(folder: Path | str) -> dict[str, str]:
    """Return this environment without settings of ours and of Python's; byte code goes to *folder*.

    pip compiles what it installs. A source tree is compiled by the first run, if it may write: a
    run that does not count has to come before those that do, or half of a start is the compiler's.
    """
    left = {k: v for k, v in os.environ.items() if not k.startswith(("HVMMU_", "PYTHON"))}
    return left | {"PYTHONPYCACHEPREFIX": f"{folder}/bytecode"}
