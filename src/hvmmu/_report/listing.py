"""What is there and how it is set: backends, parameters as modinfo has them, configuration."""

import enum
import json
from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING, Any

from hvmmu._config import DEFAULT, Known, Row
from hvmmu._plugins import Plugin
from hvmmu.params import Param, declared, plain

if TYPE_CHECKING:
    from rich.table import Table

LABEL = 15  # modinfo's first column
MOST_CELL = 800  # characters of a cell, which somebody else may have written


def params(section: str, known: Known, rows: Sequence[Row]) -> Iterator[str]:
    """Yield the lines of one section: first what it is, then every parameter and its value."""
    by_key = {row.key: row for row in rows}
    backend = known.backends.get(section)
    yield _labelled("name", section)
    if backend is not None:
        yield _labelled("description", backend.summary)
    for param in declared(known.classes()[section]):
        row = by_key[f"{section}.{param.name}"]
        yield _labelled("parm", f"{param.name}:{param.doc} ({param.kind})")
        yield " " * LABEL + " · ".join(_particulars(param, row))
    for name, reason in getattr(backend, "unsupported", {}).items():
        yield _labelled("unsupported", f"{name}: {reason}")


def _particulars(param: Param, row: Row) -> Iterator[str]:
    yield f"{row.value} from {row.source}" if row.source != DEFAULT else f"{row.value} by default"
    if row.source != DEFAULT:
        yield f"default {row.default}"
    if param.choices:
        yield f"one of {', '.join(param.choices)}"
    if param.bounds:
        yield param.bounds


def _labelled(label: str, text: str) -> str:
    return f"{label + ':':<{LABEL}}{text}"


def toml(rows: Sequence[Row], known: Known) -> Iterator[str]:
    """Yield the configuration as lines of a `hvmmu.toml` that says the same."""
    kinds = {"backend": str, **{f"{s}.{p.name}": p.type for s, p in _every(known)}}
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


def _every(known: Known) -> Iterator[tuple[str, Param]]:
    for section, params in known.classes().items():
        yield from ((section, param) for param in declared(params))


def _toml_text(value: str, kind: type) -> str:
    if kind is bool:
        return "true" if value == "1" else "false"
    return value if kind is int and value.lstrip("-").isdigit() else json.dumps(value)


def explained(rows: Sequence[Row]) -> "Table":
    """Return the configuration as a table: every key, its value, source and default."""
    return _plain_table(
        ("key", "value", "from", "default"),
        [(row.key, row.value, row.source, row.default if row.is_asked else "") for row in rows],
    )


def backends(rows: Sequence[tuple[str, str, str, str]]) -> "Table":
    """Return the backends as a table: name, distribution, summary, capabilities."""
    return _plain_table(("name", "from", "summary", "capabilities"), rows)


def engines(rows: Sequence[tuple[str, str, str, str]]) -> "Table":
    """Return the engines as a table: name, distribution, summary, capabilities."""
    return backends(rows)


def plugins(found: Sequence[Plugin]) -> "Table":
    """Return the plugins as a table: name, distribution, state, what it registered, the cause."""
    return _plain_table(
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


def _plain_table(heads: Sequence[str], rows: Sequence[Sequence[str]]) -> "Table":
    from rich.table import Table  # noqa: PLC0415 - only where a table is printed
    from rich.text import Text  # noqa: PLC0415 - as above

    table = Table(box=None, pad_edge=False, padding=(0, 2, 0, 0), header_style="bold")
    for head in heads:
        table.add_column(head, overflow="fold")
    for row in rows:
        table.add_row(*(Text(plain(text, MOST_CELL)) for text in row))
    return table


def capabilities(offered: Any) -> str:  # noqa: ANN401 - a class of a plugin
    """Return what a backend or an engine can do, in words."""
    caps = getattr(offered, "caps", None)
    fields = getattr(type(caps), "__attrs_attrs__", ())
    words = []
    for field in fields:
        value = getattr(caps, field.name)
        text = value.value if isinstance(value, enum.Enum) else value
        text = "-".join(map(str, value)) if isinstance(value, tuple) else text
        words += [field.name if value is True else f"{field.name}={text}"] if value else []
    return ", ".join(words) or "-"
