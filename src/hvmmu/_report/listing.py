"""Lists: backends, engines, MMUs, plugins, parameters as modinfo prints them, the configuration."""

import enum
import json
from collections.abc import Iterable, Iterator, Sequence
from typing import Any

from hvmmu._config import DEFAULT, ConfigSchema, ExplainRow
from hvmmu._plugins import Plugin
from hvmmu._report.text_table import TextTable
from hvmmu.params import Param, printable

LABEL = 15  # modinfo's first column
LONGEST = 800  # characters of a text from a plugin
_INTERNAL = frozenset({"fast_path", "lru_sets", "lru_ways"})
"""Capabilities that only hvmmu itself uses."""


def params(section: str, schema: ConfigSchema, rows: Sequence[ExplainRow]) -> Iterator[str]:
    """Yield the lines of one section: its name and summary, then every parameter and its value."""
    by_key = {row.key: row for row in rows}
    backend = schema.backends.get(section)
    yield _labelled("name", section)
    if backend is not None:
        yield _labelled("description", backend.summary)
    for param in schema.sections()[section].values():
        row = by_key[f"{section}.{param.name}"]
        yield _labelled("parm", f"{param.name}:{param.doc} ({param.kind})")
        yield " " * LABEL + " · ".join(_particulars(param, row))
    for name, reason in getattr(backend, "unsupported", {}).items():
        yield _labelled("unsupported", f"{name}: {reason}")


def _particulars(param: Param, row: ExplainRow) -> Iterator[str]:
    yield f"{row.value} from {row.source}" if row.source != DEFAULT else f"{row.value} by default"
    if row.source != DEFAULT:
        yield f"default {row.default}"
    if param.choices:
        yield f"one of {', '.join(param.choices)}"
    if param.bounds:
        yield param.bounds


def _labelled(label: str, text: str) -> str:
    return f"{label + ':':<{LABEL}}{text}"


def toml(rows: Sequence[ExplainRow], schema: ConfigSchema) -> Iterator[str]:
    """Yield the configuration as the lines of an equivalent `hvmmu.toml`."""
    kinds = {"backend": str, **{f"{s}.{p.name}": p.type for s, p in _every(schema)}}
    section = ""
    for row in rows:
        head, dot, name = row.key.rpartition(".")
        if dot and head != section:
            section = head
            yield ""
            yield f"[{section}]"
        if row.key == "backend":
            yield f"backend = {json.dumps(row.value.split(','))}"
        else:
            yield f"{name} = {_toml_text(row.value, kinds.get(row.key, str))}"


def _every(schema: ConfigSchema) -> Iterator[tuple[str, Param]]:
    for section, params in schema.sections().items():
        yield from ((section, param) for param in params.values())


def _toml_text(value: str, kind: type) -> str:
    if kind is bool:
        return "true" if value == "1" else "false"
    return value if kind is int and value.lstrip("-").isdigit() else json.dumps(value)


def explained(rows: Sequence[ExplainRow]) -> TextTable:
    """Return the configuration as a table: every key, its value, source and default."""
    return _table(
        ("key", "value", "from", "default"),
        [(row.key, row.value, row.source, row.default if row.is_explicit else "") for row in rows],
    )


def backends(rows: Iterable[tuple[str, str, str, str]]) -> TextTable:
    """Return the backends as a table: name, distribution, summary, capabilities."""
    return _table(("name", "from", "summary", "capabilities"), rows)


def engines(rows: Iterable[tuple[str, str, str, str]]) -> TextTable:
    """Return the engines as a table: name, distribution, summary, capabilities."""
    return backends(rows)


def mmus(rows: Iterable[tuple[str, str, str]]) -> TextTable:
    """Return the MMUs as a table: name, distribution, summary."""
    return _table(("name", "from", "summary"), rows)


def plugins(found: Sequence[Plugin]) -> TextTable:
    """Return the plugins as a table: name, distribution, state, what it registered, the cause."""
    return _table(
        ("name", "from", "state", "registered", "cause"),
        [
            (one.name, one.origin, one.state.value, ", ".join(one.registered) or "-", one.cause)
            for one in found
        ],
    )


def plugins_json(found: Sequence[Plugin]) -> str:
    """Return the same as a JSON array, an object for each plugin."""
    listed = [
        {
            "name": one.name,
            "distribution": one.distribution,
            "version": one.version,
            "state": one.state.value,
            "cause": one.cause,
            "registered": list(one.registered),
        }
        for one in found
    ]
    return json.dumps(listed, indent=2, sort_keys=True) + "\n"


def _table(heads: Sequence[str], rows: Iterable[Sequence[str]]) -> TextTable:
    return TextTable.plain(heads, [[printable(text, LONGEST) for text in row] for row in rows])


def capabilities(described: Any, *, verbose: bool) -> str:  # noqa: ANN401 - a class of a plugin
    """Return the capabilities of a backend or an engine in words, with *verbose* all of them."""
    caps = getattr(described, "caps", None)
    fields = [
        field
        for field in getattr(type(caps), "__attrs_attrs__", ())
        if verbose or field.name not in _INTERNAL
    ]
    words = []
    for field in fields:
        value = getattr(caps, field.name)
        text = value.value if isinstance(value, enum.Enum) else value
        text = "-".join(map(str, value)) if isinstance(value, tuple) else text
        words += [field.name if value is True else f"{field.name}={text}"] if value else []
    return ", ".join(words) or "-"
