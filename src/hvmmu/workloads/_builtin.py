"""The workloads that are built in, by name: what each is, and its making only where one is run."""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from hvmmu.workloads._synthetic import Synthetic

_SUMMARIES = {
    "demand-zero": (
        "write fresh pages, each once, under leaf tables that exist: one guest fault a page"
    ),
    "fork-cow": (
        "fork, write each page in child and parent: copy-on-write faults, which all have P=1"
    ),
    "mprotect": ("make pages read-only, read them, make them writable, write them: entries change"),
    "random": (
        "read, write and fetch anywhere in a footprint larger than the TLB: misses and walks"
    ),
    "context-switch": (
        "processes with equal addresses take turns: CR3 loads, and TLBs that start empty"
    ),
}


class Named:
    """A synthetic workload by its name, one of `synthetic.KINDS`."""

    def __init__(self, name: str, summary: str) -> None:
        self.name, self.summary = name, summary

    def open(self, options: str | None) -> Synthetic:
        """Make the workload with options as in ``pages=64,seed=7``; None takes the defaults.

        Raise ConfigError with every option that is wrong.
        """
        from hvmmu.workloads._synthetic import KINDS, synthetic  # noqa: PLC0415 - not for a trace

        return synthetic(KINDS[self.name], options)


WORKLOADS = {name: Named(name, summary) for name, summary in _SUMMARIES.items()}
"""All of them, in the order in which a person meets them."""
