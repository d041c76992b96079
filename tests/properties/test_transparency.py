"""The master property, for every backend that is installed: the guest cannot tell what it is on.

How many programs, and which, the profile says: the default ones are those of the kit's own tests of
the backends, with another seed; the nightly ones are very many, and others each night.
"""

from __future__ import annotations

import secrets

import pytest
from hypothesis import settings

from hvmmu.plugins import load
from hvmmu.testing.context import Context
from hvmmu.testing.report import FAILED
from hvmmu.testing.subject import subject
from hvmmu.testing.suite import checks, run_check

PROGRAMS = {check.id: check for check in checks()}["transparency.random-programs"]
BACKENDS = [name for name in load().backends if name != "native"] or [
    pytest.param(None, marks=pytest.mark.skip("no backend but native is installed"))
]


@pytest.mark.parametrize("name", BACKENDS)
def test_the_guest_cannot_tell(name: str) -> None:
    """If it fails, some guest behaves differently under a hypervisor than on a bare machine."""
    profile = settings.default
    seed = 1 if profile.derandomize else secrets.randbits(32)
    tested = subject(name)
    context = Context(tested.backend, tested.hooks, examples=profile.max_examples, seed=seed)
    result = run_check(PROGRAMS, context)
    if result.outcome == FAILED:
        again = f"hvmmu check {name} --examples {profile.max_examples} --seed {seed}"
        pytest.fail(f"{result}\nagain: {again}", pytrace=False)
