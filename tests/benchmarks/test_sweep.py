"""The benchmark of sweeps: what it sweeps, and what it makes of the times."""

from __future__ import annotations

import importlib.util
import sys
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

if TYPE_CHECKING:
    from types import ModuleType

BENCHMARKS = Path(__file__).parents[2] / "benchmarks"


@pytest.fixture
def script(monkeypatch: pytest.MonkeyPatch) -> ModuleType:
    """Return the script as a module."""
    monkeypatch.syspath_prepend(str(BENCHMARKS))
    spec = importlib.util.spec_from_file_location("benchmark_sweep", BENCHMARKS / "sweep.py")
    assert spec is not None
    assert spec.loader is not None
    made = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(made)
    return made


def test_told(script: ModuleType) -> None:
    """A ratio would be upside down, or the loops be counted once where they ran twice."""
    text = script.told({1: 19.0, 2: 11.0}, {1: 20.0, 2: 11.0})
    assert "1 worker 19.00 s, 2 workers 11.00 s: 1.73 times as fast" in text
    assert "one after the other 20.00 s, at once 11.00 s: 1.82 times as fast" in text
    assert "gains 95% of what the loops do (goal: 95%)" in text


def test_grid(script: ModuleType, tmp_path: Path) -> None:
    """Fewer cells would be swept than are told of, or none: the grid is refused."""
    script.planned(tmp_path, 1)
    assert script.swept(tmp_path, 1) > 0
    assert len(list((tmp_path / "cells").glob("*.json"))) == script.CELLS


def test_seconds(script: ModuleType, tmp_path: Path) -> None:
    """Two commands would run one after the other, or one that fails be the fastest."""
    nap = [sys.executable, "-c", "import time; time.sleep(4)"]
    assert 4 < script.seconds(tmp_path, nap, nap) < 7.9
    with pytest.raises(SystemExit, match="failed"):
        script.seconds(tmp_path, [sys.executable, "-c", "raise SystemExit(1)"])
