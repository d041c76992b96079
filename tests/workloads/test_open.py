"""Opening a workload by name or path, and the trace that comes with hvmmu."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

from hvmmu.errors import InputError, TraceError
from hvmmu.workloads import SHIPPED, descriptions, open_workload

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable

    from hvmmu.steps import Step

TRACE = b"I  0401ab70,3\n L 04a17de0,8\n"


def test_the_shipped_trace(flat: Callable[[Iterable[Step]], Any]) -> None:
    """The default workload is not what its README says, or too long for a first try."""
    workload = open_workload(None)
    found = flat(workload.steps())
    assert workload.facts() == {"name": "dd.lackey.xz", "kind": "trace"}
    assert len(found.gva) == 218_079
    by_page: dict[int, int] = {}
    for gva, kind in zip(found.gva, found.kind, strict=True):
        by_page[gva >> 12] = by_page.get(gva >> 12, 0) | kind
    assert len(by_page) == 216
    assert sum(1 for kinds in by_page.values() if kinds & 0x10) == 120
    assert sum(1 for kinds in by_page.values() if kinds & 2) == 29
    readme = SHIPPED.with_name("README.md").read_text(encoding="utf-8")
    for figure in ("217,895", "218,079", "216:", "95,800"):
        assert figure in readme
    assert SHIPPED.stat().st_size == 95_800


def test_the_shipped_trace_has_the_references_its_readme_says(
    flat: Callable[[Iterable[Step]], Any],
) -> None:
    """The count of references is not the one that was recorded."""
    assert len(flat(open_workload(limit=217_895).steps()).gva) == 218_079
    assert len(flat(open_workload(limit=217_894).steps()).gva) < 218_079


def test_a_path(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A trace cannot be named, or its folder gets into the result document."""
    path = tmp_path / "a:b.trace"
    path.write_bytes(TRACE)
    assert open_workload(str(path)).facts() == {"name": "a:b.trace", "kind": "trace"}
    limited = open_workload(str(path), limit=1)
    assert limited.facts() == {"name": "a:b.trace", "kind": "trace", "limit": 1}
    monkeypatch.chdir(tmp_path)
    Path("random").write_bytes(TRACE)
    assert open_workload("random").facts()["kind"] == "synthetic"
    assert open_workload("./random").facts()["kind"] == "trace"


@pytest.mark.parametrize(
    ("spec", "said"),
    [
        ("demand-zro", "did you mean 'demand-zero'?"),
        ("fork_cow:pages=3", "did you mean 'fork-cow'?"),
        ("nowhere/ls.trace", "'nowhere/ls.trace' is neither a file nor a workload;"),
        ("", "'' is neither"),
        ("two\nlines", "'two\\nlines' is neither"),
        ("x" * 5000, "neither a file nor a workload"),
    ],
)
def test_unknown_names(spec: str, said: str) -> None:
    """The message does not list what there is, name the nearest, or stay on one line."""
    with pytest.raises(InputError) as caught:
        open_workload(spec)
    text = str(caught.value)
    assert said in text
    assert "workloads are demand-zero, fork-cow, mprotect, random, context-switch" in text
    assert "\n" not in text
    assert len(text) < 400


def test_what_is_no_trace_is_refused_at_once(tmp_path: Path) -> None:
    """A run starts, and prints, before the file is looked at."""
    with pytest.raises(TraceError, match="is a directory"):
        open_workload(str(tmp_path))
    (tmp_path / "gone").symlink_to(tmp_path / "nowhere")
    with pytest.raises(TraceError, match="No such file"):
        open_workload(str(tmp_path / "gone"))
    (tmp_path / "words").write_text("words\n")
    with pytest.raises(TraceError, match="words:1: lackey never prints 'words'"):
        open_workload(str(tmp_path / "words"))


@pytest.mark.parametrize("limit", [0, -1])
def test_a_limit_that_leaves_nothing(limit: int) -> None:
    """A run of no references looks like a workload without faults."""
    with pytest.raises(InputError, match="1 or more"):
        open_workload(None, limit=limit)


def test_descriptions_are_lines() -> None:
    """Help cannot list the workloads, or breaks its table."""
    lines = descriptions()
    assert list(lines) == ["demand-zero", "fork-cow", "mprotect", "random", "context-switch"]
    assert all(0 < len(line) < 100 and "\n" not in line for line in lines.values())
