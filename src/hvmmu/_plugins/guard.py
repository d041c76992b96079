"""Workloads and trace formats of plugins, called so that their failures name the plugin."""

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import attrs

from hvmmu._hooks import told
from hvmmu.errors import HvmmuError, PluginError
from hvmmu.steps import Accesses, ReducedAccesses, Step, Tail
from hvmmu.types import PAGE_SLOTS, Buffer
from hvmmu.workloads import TraceFormat, Workload, WorkloadKind

Facts = dict[str, str | int | float | bool]


@contextmanager
def blamed(plugin: str, where: str) -> Iterator[None]:
    """Turn what is raised inside into a PluginError; what says what to do passes as it is."""
    try:
        yield
    except (HvmmuError, KeyboardInterrupt, GeneratorExit):
        raise
    except BaseException as error:
        what = f"plugin {plugin!r}, in {where}: {told(error)}"
        raise PluginError(what, plugin=plugin) from error


@attrs.frozen
class Guarded:
    """What both have: the plugin it is from, and what that plugin offers."""

    plugin: str
    what: str
    """For messages: `workload 'x'`."""

    def refused(self, why: str) -> PluginError:
        """Return the error of a plugin that breaks a promise without an exception."""
        return PluginError(f"plugin {self.plugin!r}, in {self.what}: {why}", plugin=self.plugin)


@attrs.frozen
class GuardedKind(Guarded):
    """A named workload of a plugin's."""

    kind: WorkloadKind
    name: str
    summary: str

    def open(self, options: str | None) -> Workload:
        """Make it; raise PluginError for what no InputError explains."""
        with blamed(self.plugin, self.what):
            return GuardedWorkload(self.plugin, self.what, self.kind.open(options), "synthetic")


@attrs.frozen
class GuardedFormat(Guarded):
    """A trace format of a plugin's."""

    made: TraceFormat
    name: str
    summary: str

    def recognises(self, path: Path, head: bytes) -> bool:
        """Ask it; raise PluginError if it fails."""
        with blamed(self.plugin, self.what):
            return bool(self.made.recognises(path, head))

    def open(self, path: Path, limit: int | None) -> Workload:
        """Have it open a file; raise PluginError for what no InputError explains."""
        with blamed(self.plugin, self.what):
            return GuardedWorkload(self.plugin, self.what, self.made.open(path, limit), "trace")


@attrs.frozen
class GuardedWorkload(Guarded):
    """A workload that a plugin made."""

    made: Any
    kind: str

    @property
    def name(self) -> str:
        """Return its name; raise PluginError if that is no text."""
        with blamed(self.plugin, self.what):
            name = self.made.name
        if not isinstance(name, str) or not name:
            raise self.refused("the workload's name is no text")
        return name

    def facts(self) -> Facts:
        """Return its identity as the result document takes it; raise PluginError otherwise."""
        with blamed(self.plugin, self.what):
            facts = self.made.facts()
        if not isinstance(facts, Mapping):
            raise self.refused("its facts are no mapping")
        for key, value in facts.items():
            if not isinstance(key, str) or not isinstance(value, (str, int, float)):
                raise self.refused(f"its fact {key!r} is no text and no number")
        return {"name": self.name} | dict(facts) | {"kind": self.kind}

    def steps(self) -> Iterator[Step]:
        """Yield its steps; raise PluginError for what is none."""
        with blamed(self.plugin, self.what):
            for step in self.made.steps():
                if not isinstance(step, Step):
                    raise self.refused(f"an object of type {type(step).__name__} is no step")
                if isinstance(step, Accesses) and not _fits(step.gva, step.kind):
                    raise self.refused("accesses are of gva (format Q) and kind (B), as many")
                yield self._reduced(step) if isinstance(step, ReducedAccesses) else step

    def _reduced(self, step: ReducedAccesses) -> ReducedAccesses:
        """Return the step with its tails checked too; raise PluginError."""
        kept = memoryview(step.kept)
        if kept.format != "H" or step.accesses < len(kept):
            raise self.refused("ReducedAccesses keep page slots (format H), at most all accesses")
        if not _fits(step.slot_gva, step.slot_kind) or len(step.slot_gva) != PAGE_SLOTS:
            raise self.refused(
                f"ReducedAccesses have {PAGE_SLOTS} page slots of gva (format Q) and kind (B)"
            )

        def tail(at: int) -> Tail:
            with blamed(self.plugin, self.what):
                made = step.tail(at)
                if not at < made.next_kept <= len(kept):
                    raise self.refused("a tail's next_kept is a later kept access, or the end")
                return _CheckedTail(self, made, made.next_kept)

        return ReducedAccesses(
            step.kept, step.slot_gva, step.slot_kind, step.accesses, step.sets, step.ways, tail
        )

    def accesses(self, part: object) -> Accesses:
        """Return a part of a tail; raise PluginError for anything but accesses."""
        if not isinstance(part, Accesses) or not _fits(part.gva, part.kind):
            raise self.refused(
                "a tail is made of Accesses, of gva (format Q) and kind (B), as many"
            )
        return part


@attrs.frozen
class _CheckedTail:
    """A tail of a plugin's reduced step, checked as it comes."""

    guard: GuardedWorkload
    made: Tail
    next_kept: int

    def lru_fixup(self) -> Accesses:
        """Return what brings the TLB's sets in order."""
        with blamed(self.guard.plugin, self.guard.what):
            return self.guard.accesses(self.made.lru_fixup())

    def remaining(self) -> Iterator[Accesses]:
        """Yield its parts."""
        with blamed(self.guard.plugin, self.guard.what):
            for part in self.made.remaining():
                yield self.guard.accesses(part)


def _fits(vas: Buffer, kinds: Buffer) -> bool:
    """Return whether an engine can take the buffers."""
    gva, kind = memoryview(vas), memoryview(kinds)
    return (gva.format, kind.format, len(gva)) == ("Q", "B", len(kind))
