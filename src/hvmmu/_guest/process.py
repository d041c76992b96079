"""A process: a pid, the root of its page tables, and what it has mapped."""

import attrs

from hvmmu._guest.regions import Regions
from hvmmu.types import Gpa


@attrs.define(eq=False)
class Process:
    """One address space and its name."""

    pid: int
    root: Gpa
    regions: Regions = attrs.Factory(Regions)
