"""The tables of a comparison and of a single run: runs side by side, counters in groups."""

from collections.abc import Iterator, Sequence
from typing import Any, NamedTuple

from hvmmu._report.conclusions import run_names
from hvmmu._report.document import Document
from hvmmu._report.text_table import FAINT, PLAIN, STRONG, StyledText, TextTable
from hvmmu.arch import pfec as pf

Run = dict[str, Any]
_NONE = "·"  # this run has no such counter

GUEST = {
    "accesses": "accesses",
    "page faults": "guest_faults",
    "  bypassed": "guest_faults_bypassed",
    "  injected": "guest_faults_injected",
    "invlpg": "invlpg",
    "CR3 loads": "cr3_loads",
}
HYPERVISOR = {
    "host faults": "host_faults",
    "page-table writes": "pt_writes_emulated",
    "guest PTE reads": "guest_pte_reads",
    "shadow pages": "shadow_pages",
}
HARDWARE = {"page-walk memory refs": "page_walk_refs", "STLB misses": "stlb_misses"}
IN_DEPTH = {
    "  zapped": "shadow_pages_zapped",
    "other writes emulated": "other_writes_emulated",
    "MMIO": "mmio",
    "spurious faults": "spurious_faults",
    "TLB flushes": "tlb_flushes",
}
MISSES = {
    "ITLB misses": "itlb_misses",
    "DTLB misses": "dtlb_misses",
}
PARTS = {"exits": "exits", "guest faults": "guest_faults", "walks": "walks", "total": "total"}


class TableRow(NamedTuple):
    """A label and a text for each run; without texts, the heading of a group."""

    label: str
    texts: tuple[str, ...] = ()
    is_strong: bool = False


def table_rows(document: Document, baseline: str) -> Iterator[TableRow]:
    """Yield the rows of the table; *baseline* is the backend that cycles are compared with.

    A single run has more counters than a comparison.
    """
    runs = document["runs"]
    is_single = len(runs) == 1
    yield TableRow("guest")
    yield from _counters(runs, GUEST)
    yield TableRow("hypervisor")
    yield from _counters(runs, HYPERVISOR | IN_DEPTH if is_single else HYPERVISOR)
    yield from _exits(runs)
    yield TableRow("hardware")
    yield from _counters(runs, HARDWARE | MISSES if is_single else HARDWARE)
    yield from _reported(runs)
    yield TableRow(f"cycles ({document['cost_model']['name']})")
    for label, part in _parts(runs).items():
        yield TableRow(
            f"  {label}", tuple(f"{run['cycles'][part]:,}" for run in runs), part == "total"
        )
    bases = [run["cycles"]["total"] for run in runs if run["backend"] == baseline]
    if bases and bases[0] and len(runs) > 1:
        ratios = tuple(f"{run['cycles']['total'] / bases[0]:.2f}x" for run in runs)
        yield TableRow(f"  of {baseline}", ratios)


def _reported(runs: Sequence[Run]) -> Iterator[TableRow]:
    """Yield the counters of plugins: theirs alone have a prefix."""
    counters = [run["counters"] for run in runs]
    names = sorted({name for counted in counters for name in counted if "." in name})
    if names:
        yield TableRow("plugins")
    for name in names:
        counts = [counted.get(name) for counted in counters]
        yield TableRow(f"  {name}", tuple(_NONE if c is None else f"{c:,}" for c in counts))


def _parts(runs: Sequence[Run]) -> dict[str, str]:
    """Return the name of each part of the cycles by label, those of plugins before the total."""
    parts = dict(PARTS)
    total = parts.popitem()
    parts |= {name: name for name in runs[0]["cycles"] if name not in {"model", *PARTS.values()}}
    return {**parts, total[0]: total[1]}


def _counters(runs: Sequence[Run], rows: dict[str, str]) -> Iterator[TableRow]:
    for label, counter in rows.items():
        yield TableRow(f"  {label}", tuple(f"{run['counters'][counter]:,}" for run in runs))


def _exits(runs: Sequence[Run]) -> Iterator[TableRow]:
    exits = [run["counters"]["exits"] for run in runs]
    yield TableRow("  exits", tuple(f"{each['total']:,}" for each in exits), is_strong=True)
    reasons = sorted({reason for each in exits for reason in each["by_reason"]})
    for reason in reasons:
        counts = [each["by_reason"].get(reason) for each in exits]
        yield TableRow(f"    {reason}", tuple(_NONE if c is None else f"{c:,}" for c in counts))
    faults = [run["counters"]["guest_faults"] for run in runs]
    per_fault = zip(exits, faults, strict=True)
    shares = tuple(f"{each['total'] / n:.2f}" if n else _NONE for each, n in per_fault)
    yield TableRow("  exits per page fault", shares)


def comparison(document: Document, baseline: str, width: int | None) -> list[TextTable]:
    """Return the table; if it is wider than *width*, several with fewer runs each."""
    heads = [_head(name) for name in run_names(document)[: len(document["runs"])]]
    rows = list(table_rows(document, baseline))
    return _fitting(rows, heads, list(range(len(heads))), width)


def _fitting(
    rows: Sequence[TableRow], heads: Sequence[str], columns: Sequence[int], width: int | None
) -> list[TextTable]:
    table = _table(rows, heads, columns)
    if width is None or len(columns) == 1 or table.width <= width:
        return [table]
    half = (len(columns) + 1) // 2
    return [
        *_fitting(rows, heads, columns[:half], width),
        *_fitting(rows, heads, columns[half:], width),
    ]


def _table(rows: Sequence[TableRow], heads: Sequence[str], columns: Sequence[int]) -> TextTable:
    aligned = _bottom_aligned([heads[column] for column in columns])
    return TextTable(["", *aligned], "<" + ">" * len(aligned), list(_styled(rows, columns)))


def _styled(rows: Sequence[TableRow], columns: Sequence[int]) -> Iterator[list[StyledText]]:
    for row in rows:
        style = STRONG if row.is_strong or not row.texts else PLAIN
        texts = [row.texts[column] for column in columns] if row.texts else []
        if texts and all(text == _NONE for text in texts):
            continue  # an exit reason of another vendor, whose runs are in the next table
        styled = [(text, FAINT if text in {"0", _NONE} else style) for text in texts]
        yield [(row.label, style), *styled]


def _head(name: str) -> str:
    """Return a run's name as a narrow heading: the backend, then each parameter, folded at _."""
    backend, *settings = name.split(" ")
    folded = []
    for text in settings:
        start, underscore, end = text.partition("_")
        folded += [start + underscore, end] if len(text) > 12 and end else [text]
    return "\n".join([backend, *folded])


def _bottom_aligned(heads: Sequence[str]) -> list[str]:
    """Return the headings with equally many lines, so that the backends stand on one line."""
    most = max(head.count("\n") for head in heads)
    return [head + "\n" * (most - head.count("\n")) for head in heads]


def fault_outcomes(run: Run) -> TextTable:
    """Return the run's fault statistics: a row for each outcome, cause, error code and level."""
    rows = []
    for row in run["counters"]["fault_outcomes"]:
        pfec = _NONE if row["pfec"] is None else pf.describe(row["pfec"])
        level = str(row["level"]) if row["level"] else _NONE
        texts = (row["outcome"], row["cause"], pfec, level, f"{row['count']:,}")
        rows.append([(text, PLAIN) for text in texts])
    return TextTable(("outcome", "cause", "error code", "level", "count"), "<<<>>", rows)
