"""How many random programs the tests run: a few, always the same ones, or very many.

`HYPOTHESIS_PROFILE=nightly` asks for the many, and for other ones each time; `traced` for the first
of the few, where coverage makes a step take seven times as long.
"""

import os

from hypothesis import HealthCheck, settings

settings.register_profile(
    "default",
    max_examples=30,
    derandomize=True,  # same input, same output: a failure is there again at the next run
    deadline=None,  # how long a step takes is the machine's business
    print_blob=True,
    suppress_health_check=[HealthCheck.too_slow],
)
settings.register_profile("traced", settings.get_profile("default"), max_examples=5)
settings.register_profile(
    "nightly", settings.get_profile("default"), derandomize=False, max_examples=2_000
)
settings.load_profile(os.environ.get("HYPOTHESIS_PROFILE", "default"))
