"""The result document: printed by `--json`, and the source of every table.

Its schema is `schema.json` beside this module. Same runs, same bytes.
"""

from collections.abc import Mapping, Sequence
from typing import Any

from hvmmu.costs import CostModel
from hvmmu.params import values
from hvmmu.results import RunFailure, RunResult

SCHEMA = 2
"""The version of the schema: raised when a reader of the old could misread a new document."""

Document = dict[str, Any]


def document(
    *,
    workload: Mapping[str, Any],
    config: Mapping[str, Any],
    overrides: Mapping[str, Mapping[str, Any]],
    runs: Sequence[RunResult],
    model: CostModel,
    failures: Sequence[RunFailure] = (),
) -> Document:
    """Return the result document of *runs* of one workload.

    *config* maps each section to its attrs object; *overrides* the keys that are set explicitly,
    `section.name`, to value and source. *failures* are the runs that a plugin's exception ended.
    """
    return {
        "schema": SCHEMA,
        "workload": dict(workload),
        "config": {section: values(made) for section, made in config.items()},
        "overrides": dict(overrides),
        "runs": [run.to_json() for run in runs],
        "failures": [failure.to_json() for failure in failures],
        "cost_model": {**model._asdict(), "costs": [cost._asdict() for cost in model.costs]},
    }


def dumps(made: Document) -> str:
    """Return a document as text: keys sorted, ASCII, a newline at the end."""
    import json  # noqa: PLC0415 - not for a table

    return json.dumps(made, indent=2, sort_keys=True, ensure_ascii=True, allow_nan=False) + "\n"


def schema() -> dict[str, Any]:
    """Return the JSON Schema of the document."""
    import json  # noqa: PLC0415 - for tests
    from importlib.resources import files  # noqa: PLC0415 - the same

    text = files("hvmmu._report").joinpath("schema.json").read_text(encoding="utf-8")
    made: dict[str, Any] = json.loads(text)
    return made
