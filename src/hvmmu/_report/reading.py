"""What the numbers say, in sentences: whether the guest could tell, and what a parameter did."""

from collections.abc import Iterator, Sequence
from itertools import combinations
from typing import Any

from hvmmu._report.document import Document

Run = dict[str, Any]
GUEST_FACTS = {
    "faults": "the number of its faults",
    "fault_log_sha256": "its fault log",
    "page_tables_sha256": "its page tables",
}


def names(runs: Sequence[Run]) -> list[str]:
    """Return a name for each run: its backend, and the parameters that tell it from others of it.

    >>> names([{"backend": "b", "params": {"p": True}}, {"backend": "b", "params": {"p": False}}])
    ['b p=1', 'b p=0']
    """
    made = []
    for run in runs:
        twins = [other for other in runs if other["backend"] == run["backend"]]
        telling = [p for p, v in run["params"].items() if any(t["params"][p] != v for t in twins)]
        told = [f"{p}={_text(run['params'][p])}" for p in telling]
        made.append(" ".join([run["backend"], *told]))
    return made


def run_names(document: Document) -> list[str]:
    """Return a name for each run of a document, then for each that failed."""
    return names([*document["runs"], *document["failures"]])


def failures(document: Document) -> list[str]:
    """Return a sentence for each run that a plugin ended."""
    failed = run_names(document)[len(document["runs"]) :]
    errors = [failure["error"] for failure in document["failures"]]
    return [f"{name} FAILED: {error}" for name, error in zip(failed, errors, strict=True)]


def differences(document: Document) -> list[str]:
    """Return what the guest saw differently, a sentence for each run unlike the first."""
    runs = document["runs"]
    first, *others = run_names(document)[: len(runs)]
    told = []
    for name, run in zip(others, runs[1:], strict=True):
        unlike = [
            what for key, what in GUEST_FACTS.items() if run["guest"][key] != runs[0]["guest"][key]
        ]
        if unlike:
            told.append(f"{name} differs from {first} in {_and(unlike)}")
    return told


def verdict(document: Document) -> str:
    """Return one sentence on whether the guest saw the same in all runs."""
    runs = document["runs"]
    told = differences(document)
    if told:
        return f"The guest saw runs that DIFFER: {'; '.join(told)}."
    guest = runs[0]["guest"]
    log, tables = guest["fault_log_sha256"][:12], guest["page_tables_sha256"][:12]
    where = f"the same in all {len(runs)} runs" if len(runs) > 1 else "this"
    faults = _count(guest["faults"], "fault")
    return f"The guest saw {where}: {faults} since boot, log {log}, page tables {tables}."


def effects(document: Document) -> Iterator[str]:
    """Yield a sentence for each pair of runs that one bool parameter tells apart."""
    for one, other in combinations(document["runs"], 2):
        if one["backend"] != other["backend"]:
            continue
        telling = [p for p in one["params"] if one["params"][p] != other["params"][p]]
        if len(telling) == 1 and isinstance(one["params"][telling[0]], bool):
            off, on = sorted((one, other), key=lambda run: bool(run["params"][telling[0]]))
            yield _effect(telling[0], off, on)


def _effect(param: str, off: Run, on: Run) -> str:
    before, after = (run["counters"]["exits"]["total"] for run in (off, on))
    kept, faults = (on["counters"][f"guest_faults{part}"] for part in ("_bypassed", ""))
    kept -= off["counters"]["guest_faults_bypassed"]
    share = f"kept {kept:,} of {_count(faults, 'guest fault')} from exiting"
    if kept <= 0:
        share = f"kept none of {_count(faults, 'guest fault')} from exiting"
    return (
        f"{param}=1 {share}: {before:,} → {after:,} exits ({change(before, after)}); "
        f"estimated cycles {change(off['cycles']['total'], on['cycles']['total'])}."
    )


def change(before: int, after: int) -> str:
    """Return a change in percent with its sign, to one decimal, rounded half to even."""
    if before == after:
        return "no change"
    if before == 0:
        return "from none"
    return f"{(after - before) * 100 / before:+.1f}%"


def _count(number: int, what: str) -> str:
    return f"{number:,} {what}{'' if number == 1 else 's'}"


def _and(words: Sequence[str]) -> str:
    return " and ".join(filter(None, [", ".join(words[:-1]), words[-1]]))


def _text(value: bool | int | str) -> str:
    return str(int(value)) if isinstance(value, bool) else str(value)
