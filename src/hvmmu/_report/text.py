"""A result document as text: the runs, the table, conclusions, and the sources of costs."""

from hvmmu._report import conclusions, tables
from hvmmu._report.document import Document
from hvmmu._report.text_table import TextTable, render, wrap
from hvmmu.params import printable

WIDTH = 80  # of prose if there is no terminal
LONGEST = 800  # characters of a line from a plugin


def comparison(document: Document, *, baseline: str, width: int | None) -> str:
    """Return the comparison of the document's runs; *width* None: not for a terminal."""
    parts: list[str | TextTable] = [_prose(ran(document), width), ""]
    for table in tables.comparison(document, baseline, width):
        parts += [table, ""]
    failed = (printable(text, LONGEST) for text in conclusions.failures(document))
    parts += [text if width is None else _prose(text, width) for text in failed]
    found = (conclusions.verdict(document), *conclusions.effects(document))
    parts += [_prose(text, width) for text in found]
    return render([*parts, "", *_sources(document, width)], width)


def single(document: Document, *, baseline: str, width: int | None) -> str:
    """Return one run in depth: its parameters, its counters and its fault statistics."""
    run = document["runs"][0]
    set_to = ", ".join(f"{name}={_text(value)}" for name, value in run["params"].items())
    parts: list[str | TextTable] = [_prose(ran(document), width)]
    if set_to:
        parts.append(_prose(f"{run['backend']}: {set_to}", width))
    parts.append("")
    for table in (*tables.comparison(document, baseline, width), tables.fault_outcomes(run)):
        parts += [table, ""]
    parts += [_prose(conclusions.verdict(document), width), "", *_sources(document, width)]
    return render(parts, width)


def ran(document: Document) -> str:
    """Return one line: the workload, the MMU model and the explicit settings."""
    facts = dict(document["workload"])
    name, kind = facts.pop("name"), facts.pop("kind")
    engines = sorted({run["engine"] for run in document["runs"]})
    details = [f"{key} {_text(value)}" for key, value in facts.items()]
    parts = [f"{name} ({', '.join([kind, *details])})", f"engine {', '.join(engines)}"]
    parts += [_setting(key, **setting) for key, setting in document["overrides"].items()]
    return " · ".join(parts)


def _setting(key: str, value: bool | int | str, source: str) -> str:
    """Return a setting, with its source unless it was typed with the command."""
    typed = source.startswith(("-p ", "--mmu "))
    return f"{key}={_text(value)}" + ("" if typed else f" ({source})")


def _sources(document: Document, width: int | None) -> list[str]:
    model = document["cost_model"]
    head = f"Cycles are estimates of the cost model {model['name']} ({model['description']}):"
    costs = [f"  {c['name']} {c['cycles']:,}: {c['source']}" for c in model["costs"]]
    return [_prose(text, width) for text in (head, *costs)]


def _prose(text: str, width: int | None) -> str:
    return wrap(text, width or WIDTH)


def _text(value: bool | int | str) -> str:
    return str(int(value)) if isinstance(value, bool) else str(value)
