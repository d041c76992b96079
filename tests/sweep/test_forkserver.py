"""The process that workers are forked from: what it has imported, no worker needs to."""

import json
import subprocess
import sys

from hvmmu._sweep.grid import grid_of
from hvmmu._sweep.installation import open_installation
from hvmmu._sweep.plan import cells

CHOICE = {"autoload": False}
HEAVY = "hvmmu", "email", "importlib", "zipfile"
WORKER = """\
import contextlib, importlib, json, sys

from hvmmu._sweep import forkserver

for name in forkserver._PRELOADED:
    with contextlib.suppress(ImportError):
        importlib.import_module(name)
before = set(sys.modules)
from hvmmu._sweep.worker import run_unit

_, failure = run_unit(json.load(sys.stdin))
late = {name for name in set(sys.modules) - before if name.partition(".")[0] in sys.argv[1:]}
json.dump([sorted(late), failure and failure.reason], sys.stdout)
"""


def test_a_worker_has_all_it_needs() -> None:
    """Every worker would import modules at its first cell, while the others wait for the CPU."""
    installation = open_installation(CHOICE)
    grid = grid_of({"backend": "native", "workload": "demand-zero:pages=4"}, installation.schema)
    (cell,) = cells(grid, installation)
    ran = subprocess.run(
        [sys.executable, "-c", WORKER, *HEAVY],
        input=json.dumps(dict(cell.unit)),
        text=True,
        capture_output=True,
        check=True,
    )
    assert json.loads(ran.stdout) == [[], None]
