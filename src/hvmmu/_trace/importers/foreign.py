"""Explain why a file is no lackey trace: which format it has, and how to import it."""

from __future__ import annotations

import re

from hvmmu._trace.importers import IMPORTERS
from hvmmu._trace.importers.champsim import is_champsim
from hvmmu.errors import TraceError

_AS_CSV = "write its references as lines of kind,address,size, and import them with --format csv"
_KINDS = rb"(?:[rwxflism]|read|write|i?fetch|load|store|modify|instr\w*)"
_TOOLS = (
    (rb"(?:#.*\n|\s)*0x[0-9a-f]+: [RW] 0x[0-9a-f]+\s", "the output of Pin's pinatrace"),
    (rb"[0-4] (?:0x)?[0-9a-f]+(?: .*)?\r?\n", "a Dinero trace"),
    (rb"(?:0x)?[0-9a-f]+[, \t]+" + _KINDS + rb"\s", "addresses with their kinds behind them"),
    (_KINDS + rb"[ \t]+(?:0x)?[0-9a-f]+\s", "kinds and addresses without a comma"),
    (rb"\s*\S+ +[0-9]+ +(?:\[[0-9]+\] +)?[0-9]+\.[0-9]+: ", "the output of perf script"),
)
_STARTS = tuple((re.compile(start, re.IGNORECASE), name) for start, name in _TOOLS)
"""The first lines of other tools' files that can be turned into CSV."""


def explained(error: TraceError, head: bytes) -> TraceError:
    """Return the error of a file that was read as lackey's though nothing says that it is.

    *head* is its start, decompressed.
    """
    first = next((one for one in IMPORTERS.values() if one.recognises(head)), None)
    name = "champsim" if first is None and is_champsim(head) else first and first.name
    if name == "lackey":
        return error
    if name is not None:
        what, todo = (
            f"looks like a trace in the format {name}",
            (f"import it with `hvmmu trace import --format {name} FILE -o FILE.hvt`"),
        )
        return TraceError(error.path, None, what, todo)
    for start, tool in _STARTS:
        if start.match(head):
            return TraceError(error.path, None, f"looks like {tool}", _AS_CSV)
    if error.line != 1:
        return error
    todo = f"{error.todo}; for a trace in another format use `hvmmu trace import --format NAME`"
    return TraceError(error.path, error.line, error.what, todo)
