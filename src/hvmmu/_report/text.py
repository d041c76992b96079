"""A result document for people: what ran, the table, what it says, where costs come from."""

import textwrap
from collections.abc import Iterable

from hvmmu._report import reading, tables
from hvmmu._report.document import Document
from hvmmu._report.grid import Grid, takes_styles
from hvmmu.params import plain

WIDTH = 80  # of prose where there is no terminal
LONGEST = 800  # characters of a line that somebody else may have written


def comparison(document: Document, *, baseline: str, width: int | None) -> str:
    """Return the comparison of the document's runs; *width* None: not for a terminal."""
    parts: list[str | Grid] = [_prose(ran(document), width), ""]
    for table in tables.comparison(document, baseline, width):
        parts += [table, ""]
    failed = (plain(text, LONGEST) for text in reading.failures(document))
    parts += [text if width is None else _prose(text, width) for text in failed]
    told = (reading.verdict(document), *reading.effects(document))
    parts += [_prose(text, width) for text in told]
    return _joined([*parts, "", *_sources(document, width)], width)


def single(document: Document, *, baseline: str, width: int | None) -> str:
    """Return one run in depth: its parameters, its counters and its routes."""
    run = document["runs"][0]
    set_to = ", ".join(f"{name}={_text(value)}" for name, value in run["params"].items())
    parts: list[str | Grid] = [_prose(ran(document), width)]
    if set_to:
        parts.append(_prose(f"{run['backend']}: {set_to}", width))
    parts.append("")
    for table in (*tables.comparison(document, baseline, width), tables.routes(run)):
        parts += [table, ""]
    parts += [_prose(reading.verdict(document), width), "", *_sources(document, width)]
    return _joined(parts, width)


def _joined(parts: Iterable[str | Grid], width: int | None) -> str:
    """Return *parts* one below the other; *width* None: no terminal, so nothing stands out."""
    styled = width is not None and takes_styles()
    texts = (part.text(styled=styled) if isinstance(part, Grid) else part for part in parts)
    return "\n".join(texts) + "\n"


def ran(document: Document) -> str:
    """Return what ran, and what was set otherwise than by default."""
    facts = dict(document["workload"])
    name, kind = facts.pop("name"), facts.pop("kind")
    engines = sorted({run["engine"] for run in document["runs"]})
    told = [f"{key} {_text(value)}" for key, value in facts.items()]
    said = [f"{name} ({', '.join([kind, *told])})", f"engine {', '.join(engines)}"]
    said += [_setting(key, **setting) for key, setting in document["overrides"].items()]
    return " · ".join(said)


def _setting(key: str, value: bool | int | str, source: str) -> str:
    """Return a setting; what was typed with the command needs no source."""
    return f"{key}={_text(value)}" + ("" if source.startswith("-p ") else f" ({source})")


def _sources(document: Document, width: int | None) -> list[str]:
    model = document["cost_model"]
    head = f"Cycles are estimates of the cost model {model['name']} ({model['description']}):"
    costs = [f"  {c['name']} {c['cycles']:,}: {c['source']}" for c in model["costs"]]
    return [_prose(text, width) for text in (head, *costs)]


def _prose(text: str, width: int | None) -> str:
    indent = " " * (len(text) - len(text.lstrip())) * 2
    return textwrap.fill(
        text,
        width or WIDTH,
        subsequent_indent=indent,
        break_on_hyphens=False,
        break_long_words=False,
    )


def _text(value: bool | int | str) -> str:
    return str(int(value)) if isinstance(value, bool) else str(value)
