"""What the workload tests share: traces as text, and steps as something to compare."""

from __future__ import annotations

from array import array
from pathlib import Path
from typing import TYPE_CHECKING

import attrs
import pytest

from hvmmu.steps import Accesses, Step

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable

TRACES = Path(__file__).with_name("traces")


@attrs.frozen
class Flat:
    """A workload's accesses in one piece, and its other steps in order."""

    gva: array[int]
    kind: array[int]
    others: list[Step]


def flattened(steps: Iterable[Step]) -> Flat:
    """Join the accesses of all steps."""
    flat = Flat(array("Q"), array("B"), [])
    for step in steps:
        if isinstance(step, Accesses):
            flat.gva.extend(step.gva)
            flat.kind.extend(step.kind)
        else:
            flat.others.append(step)
    return flat


@pytest.fixture
def flat() -> Callable[[Iterable[Step]], Flat]:
    """Return the function that joins accesses."""
    return flattened


@pytest.fixture
def traces() -> Path:
    """Return the folder of recorded traces."""
    return TRACES


@pytest.fixture
def trace_file(tmp_path: Path) -> Callable[[bytes], Path]:
    """Return a function that writes bytes to a fresh trace file."""
    made: list[Path] = []

    def write(text: bytes) -> Path:
        made.append(tmp_path / f"{len(made)}.trace")
        made[-1].write_bytes(text)
        return made[-1]

    return write
