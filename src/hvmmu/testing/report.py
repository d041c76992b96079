"""The report of a suite: each check with its outcome, as text, HTML and JSON."""

from __future__ import annotations

import html
import json
from typing import TYPE_CHECKING, Any

import attrs

from hvmmu.testing.check import LEVELS

if TYPE_CHECKING:
    from collections.abc import Mapping

SUITE_VERSION = 2
"""Rises whenever a check is added, dropped, renamed, or finds more than before."""

PASSED, FAILED, SKIPPED = "passed", "failed", "skipped"
OUTCOMES = (PASSED, FAILED, SKIPPED)


@attrs.frozen
class Result:
    """One check after it was run."""

    id: str
    level: int
    outcome: str
    message: str = ""
    """The values that show the failure, or the reason for skipping the check."""
    rule: str = ""
    reference: str = ""

    def __str__(self) -> str:
        """Return a failure with its rule and reference, another result as one line."""
        if self.outcome != FAILED:
            return f"{self.id} {self.outcome}{self.message and ': '}{self.message}"
        found = self.message.replace("\n", "\n    ")
        return (
            f"{self.id} failed\n  the rule: {self.rule}\n  found: {found}\n  see: {self.reference}"
        )


@attrs.frozen
class Report:
    """A suite's results for one backend or MMU."""

    name: str
    kind: str
    """BACKEND or MMU."""
    distribution: str
    """Name and version, or another origin."""
    api_version: Any
    parameters: Mapping[str, bool | int | str]
    """Its parameters with their defaults."""
    level: int
    examples: int
    seed: int
    hvmmu_version: str
    results: tuple[Result, ...]

    @property
    def ok(self) -> bool:
        """Return whether no check failed."""
        return not self.failures

    @property
    def failures(self) -> tuple[Result, ...]:
        """Return the checks that failed."""
        return tuple(result for result in self.results if result.outcome == FAILED)

    def counts(self, level: int | None = None) -> dict[str, int]:
        """Return the number of checks with each outcome, of one level if given."""
        of = [one.outcome for one in self.results if level is None or one.level == level]
        return {outcome: of.count(outcome) for outcome in OUTCOMES}

    def to_dict(self) -> dict[str, Any]:
        """Return the report as data, described by testing/schema.json."""
        return {
            "suite_version": SUITE_VERSION,
            "hvmmu_version": self.hvmmu_version,
            self.kind.lower(): self.name,
            "distribution": self.distribution,
            "api_version": self.api_version,
            "parameters": dict(self.parameters),
            "level": self.level,
            "seed": self.seed,
            "examples": self.examples,
            "counts": self.counts(),
            "checks": [attrs.asdict(result) for result in self.results],
        }

    def to_json(self) -> str:
        """Return the report as a JSON document: the same bytes for the same report."""
        return json.dumps(self.to_dict(), indent=2, ensure_ascii=True) + "\n"

    def __str__(self) -> str:
        """Return the report as text: a line for each level, and each check that did not pass."""
        which = f"conformance suite {SUITE_VERSION}, hvmmu {self.hvmmu_version}"
        drawn = f"seed {self.seed}, {_many(self.examples, 'example')}"
        lines = [f"{self.name} (from {self.distribution}): {which}, {drawn}", ""]
        for level in range(self.level + 1):
            if any(result.level == level for result in self.results):
                counted = _counted(self.counts(level))
                lines.append(f"level {level}  {LEVELS[level]:<12}  {counted}")
            for result in self.results:
                if result.level == level and result.outcome != PASSED:
                    lines += [f"  {line}" for line in str(result).splitlines()]
        return "\n".join([*lines, "", f"{self.name}: {_counted(self.counts())}"])

    def _repr_html_(self) -> str:
        """Return the report for a notebook."""
        rows = "".join(
            f"<tr><td>{one.level}</td><td><code>{html.escape(one.id)}</code></td>"
            f"<td>{one.outcome}</td><td>{_cell(one)}</td></tr>"
            for one in self.results
        )
        caption = html.escape(f"{self.name}: {_counted(self.counts())}")
        head = "<tr><th>level</th><th>check</th><th>outcome</th><th></th></tr>"
        return f"<table><caption>{caption}</caption>{head}{rows}</table>"


def _cell(result: Result) -> str:
    text = f"{result.rule}\n{result.message}" if result.outcome == FAILED else result.message
    return html.escape(text).replace("\n", "<br>")


def _counted(counts: Mapping[str, int]) -> str:
    """Return counts as words: those that are not zero, and always the passed ones."""
    shown = [f"{n} {outcome}" for outcome, n in counts.items() if n or outcome == PASSED]
    return ", ".join(shown)


def _many(count: int, noun: str) -> str:
    return f"{count} {noun}{'' if count == 1 else 's'}"
