"""Conclusions in sentences: whether the guest could tell runs apart, and a parameter's effect."""

from collections.abc import Iterator, Sequence
from itertools import combinations
from typing import Any

from hvmmu._report.document import Document

Run = dict[str, Any]
BUILT_IN_MMU = "shadow"
GUEST_FACTS = {
    "faults": "the number of its faults",
    "fault_log_sha256": "its fault log",
    "page_tables_sha256": "its page tables",
}


def names(runs: Sequence[Run]) -> list[str]:
    """Return a name for each run: its backend, with the MMU and the parameters that its runs vary.

    >>> names([{"backend": "b", "params": {"p": True}}, {"backend": "b", "params": {"p": False}}])
    ['b p=1', 'b p=0']
    """
    found = []
    for run in runs:
        others = [_settings(other) for other in runs if other["backend"] == run["backend"]]
        varied = {p: v for p, v in _settings(run).items() if any(o[p] != v for o in others)}
        settings = [f"{p}={_text(v)}" for p, v in varied.items()]
        found.append(" ".join([run["backend"], *settings]))
    return found


def _mmu(run: Run) -> str:
    """Return the name of a run's MMU; a document leaves out that of the built-in one."""
    name: str = run.get("mmu", BUILT_IN_MMU)
    return name


def _settings(run: Run) -> dict[str, bool | int | str]:
    return {"mmu": _mmu(run), **run["params"]}


def run_names(document: Document) -> list[str]:
    """Return a name for each run of a document, then for each that failed."""
    return names([*document["runs"], *document["failures"]])


def failures(document: Document) -> list[str]:
    """Return a sentence for each run that a plugin's exception ended."""
    failed = run_names(document)[len(document["runs"]) :]
    errors = [failure["error"] for failure in document["failures"]]
    return [f"{name} FAILED: {error}" for name, error in zip(failed, errors, strict=True)]


def differences(document: Document) -> list[str]:
    """Return a sentence for each run in which the guest saw something else than in the first."""
    runs = document["runs"]
    first, *others = run_names(document)[: len(runs)]
    found = []
    for name, run in zip(others, runs[1:], strict=True):
        unlike = [
            what for key, what in GUEST_FACTS.items() if run["guest"][key] != runs[0]["guest"][key]
        ]
        if unlike:
            found.append(f"{name} differs from {first} in {_and(unlike)}")
    return found


def verdict(document: Document) -> str:
    """Return one sentence on whether all runs are identical to the guest."""
    runs = document["runs"]
    if different := differences(document):
        return f"The runs DIFFER to the guest: {'; '.join(different)}."
    guest = runs[0]["guest"]
    faults = f"{_count(guest['faults'], 'fault')} since boot"
    if len(runs) > 1:
        agree = f"{faults}; fault-log and page-table hashes agree"
        return f"All {len(runs)} runs are identical to the guest ({agree})."
    log, tables = guest["fault_log_sha256"][:12], guest["page_tables_sha256"][:12]
    return f"The guest took {faults}; fault log {log}, page tables {tables}."


def effects(document: Document) -> Iterator[str]:
    """Yield a sentence for each pair of runs that differ in one bool parameter."""
    for one, other in combinations(document["runs"], 2):
        if one["backend"] != other["backend"] or _mmu(one) != _mmu(other):
            continue
        varied = [p for p in one["params"] if one["params"][p] != other["params"][p]]
        if len(varied) == 1 and isinstance(one["params"][varied[0]], bool):
            off, on = sorted((one, other), key=lambda run: bool(run["params"][varied[0]]))
            rivals = {_mmu(run) for run in document["runs"] if run["backend"] == one["backend"]}
            which = f"mmu={_mmu(one)}: " if len(rivals) > 1 else ""
            yield which + _effect(varied[0], off, on)


def _effect(param: str, off: Run, on: Run) -> str:
    before, after = (run["counters"]["exits"]["total"] for run in (off, on))
    bypassed, faults = (on["counters"][f"guest_faults{part}"] for part in ("_bypassed", ""))
    bypassed -= off["counters"]["guest_faults_bypassed"]
    saved = f"{bypassed:,}" if bypassed > 0 else "none"
    return (
        f"{param}=1 kept {saved} of {_count(faults, 'guest fault')} from exiting: "
        f"{before:,} → {after:,} exits ({change(before, after)}); "
        f"estimated cycles {change(off['cycles']['total'], on['cycles']['total'])}."
    )


def change(before: int, after: int) -> str:
    """Return a change in percent with its sign, to one decimal, rounded half to even."""
    if before == after:
        return "no change"
    if before == 0:
        return "from none"
    return f"{(after - before) * 100 / before:+.1f}%"


def _count(number: int, noun: str) -> str:
    return f"{number:,} {noun}{'' if number == 1 else 's'}"


def _and(words: Sequence[str]) -> str:
    return " and ".join(filter(None, [", ".join(words[:-1]), words[-1]]))


def _text(value: bool | int | str) -> str:
    return str(int(value)) if isinstance(value, bool) else str(value)
