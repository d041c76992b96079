"""The master property, for every backend that is installed: the guest cannot tell what it is on.

How many programs, and which, the profile says: by default a few, other ones than in the backends'
own tests; nightly very many, and others each night.
"""

from __future__ import annotations

import secrets

import pytest
from hypothesis import settings

from hvmmu._plugins import load
from hvmmu.testing.context import Context
from hvmmu.testing.report import FAILED
from hvmmu.testing.suite import checks, run_check
from hvmmu.testing.target import find_target

PROGRAMS = {check.id: check for check in checks()}["transparency.random-programs"]
BACKENDS = [name for name in load().backends if name != "native"] or [
    pytest.param(None, marks=pytest.mark.skip("no backend but native is installed"))
]


@pytest.mark.parametrize("name", BACKENDS)
def test_the_guest_cannot_tell(name: str) -> None:
    """If it fails, some guest behaves differently under a hypervisor than on a bare machine."""
    profile = settings.default
    few = profile.derandomize  # the backends' own tests run the kit's default ones
    seed = 1 if few else secrets.randbits(32)
    examples = max(1, profile.max_examples // 6) if few else profile.max_examples
    tested = find_target(name)
    context = Context(tested.made, tested.hooks, examples=examples, seed=seed)
    result = run_check(PROGRAMS, context)
    if result.outcome == FAILED:
        again = f"hvmmu check {name} --examples {examples} --seed {seed}"
        pytest.fail(f"{result}\nagain: {again}", pytrace=False)
