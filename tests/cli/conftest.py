"""The command line to run, and a result document small enough to check by eye."""

import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import attrs
import pytest

from hvmmu._cli import main
from hvmmu._report.document import Document, document
from hvmmu.costs import MODELS, estimate
from hvmmu.results import RunResult


def run(backend: str, params: dict[str, Any], bypassed: int, exits: dict[str, int]) -> RunResult:
    """Return a run of 161 guest faults; what did not bypass was injected if anything exited."""
    counters = {
        "accesses": 2_345_678,
        "guest_faults": 161,
        "guest_faults_bypassed": bypassed,
        "guest_faults_injected": 161 - bypassed,
        "host_faults": 321 if exits else 0,
        "pt_writes_emulated": 330 if exits else 0,
        "invlpg": 12,
        "cr3_loads": 1,
        "exits": {"total": sum(exits.values()), "by_reason": exits},
        "stlb_misses": 23_456,
        "page_walk_refs": 93_824,
        "guest_pte_reads": 3_248 if exits else 0,
        "shadow_pages": 23 if exits else 0,
        **dict.fromkeys(
            (
                "other_writes_emulated",
                "mmio",
                "spurious_faults",
                "tlb_flushes",
                "shadow_pages_zapped",
                "itlb_misses",
                "dtlb_misses",
            ),
            0,
        ),
        "fault_outcomes": [
            {"outcome": "INJECT", "cause": "not present", "pfec": 6, "level": 1, "count": 161},
            {"outcome": "SPURIOUS", "cause": "none", "pfec": None, "level": None, "count": 1},
        ],
    }
    cycles = {"model": "nehalem", **estimate(MODELS["nehalem"], counters)}
    guest = {"faults": 161, "fault_log_sha256": "ab" * 32, "page_tables_sha256": "cd" * 32}
    return RunResult(backend, params, "reference", counters, cycles, guest)


@pytest.fixture
def compared() -> Document:
    """Return a comparison of a baseline and of one backend both ways."""
    runs = [
        run("bare", {}, 161, {}),
        run("left", {"filter_faults": False}, 0, {"FAULT": 799, "INVLPG": 13}),
        run("left", {"filter_faults": True}, 143, {"FAULT": 656, "INVLPG": 13}),
    ]
    return document(
        workload={"name": "some", "kind": "synthetic", "pages": 12},
        config={},
        overrides={"mmu.flood": {"value": 4, "source": "hvmmu.toml"}},
        runs=runs,
        model=MODELS["nehalem"],
    )


@attrs.frozen
class Ended:
    """How a command ended."""

    code: int
    out: str
    err: str

    @property
    def problems(self) -> list[str]:
        """Return the lines of stderr; each must be an error's, and stdout empty, with code 2."""
        assert self.code == 2
        assert self.out == ""
        lines = self.err.splitlines()
        assert lines
        assert all(line.startswith("hvmmu: error: ") for line in lines)
        return [line.removeprefix("hvmmu: error: ") for line in lines]


Command = Callable[..., Ended]


@pytest.fixture
def hvmmu(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> Command:
    """Run the command line in an empty directory, with none of the user's settings."""
    monkeypatch.chdir(tmp_path)
    for variable in os.environ:
        if variable.startswith("HVMMU_"):
            monkeypatch.delenv(variable)

    def command(*argv: str) -> Ended:
        code = main(argv)
        captured = capsys.readouterr()
        return Ended(code, captured.out, captured.err)

    return command


@pytest.fixture
def process(tmp_path: Path) -> Command:
    """Run `python -m hvmmu` for real; *environ* is added to what is left of the environment."""

    def command(*argv: str, **environ: str) -> Ended:
        clean = {k: v for k, v in os.environ.items() if not k.startswith(("COVERAGE", "HVMMU_"))}
        ended = subprocess.run(
            [sys.executable, "-m", "hvmmu", *argv],
            cwd=tmp_path,
            env=clean | environ,
            capture_output=True,
            text=True,
            encoding="utf-8",
            timeout=60,
            check=False,
        )
        return Ended(ended.returncode, ended.stdout, ended.stderr)

    return command
