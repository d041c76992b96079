"""Isolate the workloads and trace formats of plugins: a failure names the plugin."""

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
def errors_named_after(plugin: str, where: str) -> Iterator[None]:
    """Turn an exception raised inside into a PluginError; one of hvmmu's own passes as it is."""
    try:
        yield
    except (HvmmuError, KeyboardInterrupt, GeneratorExit):
        raise
    except BaseException as error:
        what = f"plugin {plugin!r}, in {where}: {told(error)}"
        raise PluginError(what, plugin=plugin) from error


@attrs.frozen
class Isolated:
    """A contribution and the plugin that it is from."""

    plugin: str
    label: str
    """For messages: `workload 'x'`."""

    def rejected(self, why: str) -> PluginError:
        """Return the error of a plugin that breaks a promise without an exception."""
        return PluginError(f"plugin {self.plugin!r}, in {self.label}: {why}", plugin=self.plugin)


@attrs.frozen
class IsolatedWorkloadKind(Isolated):
    """A plugin's named workload."""

    inner: WorkloadKind
    name: str
    summary: str

    def open(self, options: str | None) -> Workload:
        """Make it; raise PluginError unless the plugin raises an InputError."""
        with errors_named_after(self.plugin, self.label):
            return IsolatedWorkload(self.plugin, self.label, self.inner.open(options), "synthetic")


@attrs.frozen
class IsolatedTraceFormat(Isolated):
    """A plugin's trace format."""

    inner: TraceFormat
    name: str
    summary: str

    def recognises(self, path: Path, head: bytes) -> bool:
        """Return whether the file is of this format; raise PluginError if it fails."""
        with errors_named_after(self.plugin, self.label):
            return bool(self.inner.recognises(path, head))

    def open(self, path: Path, limit: int | None) -> Workload:
        """Open a file; raise PluginError unless the plugin raises an InputError."""
        with errors_named_after(self.plugin, self.label):
            return IsolatedWorkload(self.plugin, self.label, self.inner.open(path, limit), "trace")


@attrs.frozen
class IsolatedWorkload(Isolated):
    """A workload made by a plugin."""

    inner: Any
    kind: str

    @property
    def name(self) -> str:
        """Return its name; raise PluginError if that is no text."""
        with errors_named_after(self.plugin, self.label):
            name = self.inner.name
        if not isinstance(name, str) or not name:
            raise self.rejected("the workload's name is no text")
        return name

    def facts(self) -> Facts:
        """Return its identity; raise PluginError if no result document can hold it."""
        with errors_named_after(self.plugin, self.label):
            facts = self.inner.facts()
        if not isinstance(facts, Mapping):
            raise self.rejected("its facts are no mapping")
        for key, value in facts.items():
            if not isinstance(key, str) or not isinstance(value, (str, int, float)):
                raise self.rejected(f"its fact {key!r} is no text and no number")
        return {"name": self.name} | dict(facts) | {"kind": self.kind}

    def steps(self) -> Iterator[Step]:
        """Yield its steps; raise PluginError for an object that is no step."""
        with errors_named_after(self.plugin, self.label):
            for step in self.inner.steps():
                if not isinstance(step, Step):
                    raise self.rejected(f"an object of type {type(step).__name__} is no step")
                if isinstance(step, Accesses) and not _fits(step.gva, step.kind):
                    raise self.rejected("accesses have as many gva (format Q) as kind (format B)")
                yield self._reduced(step) if isinstance(step, ReducedAccesses) else step

    def _reduced(self, step: ReducedAccesses) -> ReducedAccesses:
        """Return the step with checked tails; raise PluginError if its buffers do not fit."""
        kept = memoryview(step.kept)
        if kept.format != "H" or step.accesses < len(kept):
            raise self.rejected("ReducedAccesses keep page slots (format H), at most all accesses")
        if not _fits(step.slot_gva, step.slot_kind) or len(step.slot_gva) != PAGE_SLOTS:
            raise self.rejected(
                f"ReducedAccesses have {PAGE_SLOTS} page slots of gva (format Q) and kind (B)"
            )

        def tail(at: int) -> Tail:
            with errors_named_after(self.plugin, self.label):
                inner = step.tail(at)
                if not at < inner.next_kept <= len(kept):
                    raise self.rejected("a tail's next_kept is a later kept access, or the end")
                return _CheckedTail(self, inner, inner.next_kept)

        return ReducedAccesses(
            step.kept, step.slot_gva, step.slot_kind, step.accesses, step.sets, step.ways, tail
        )

    def checked(self, part: object) -> Accesses:
        """Return a part of a tail; raise PluginError for anything but accesses."""
        if not isinstance(part, Accesses) or not _fits(part.gva, part.kind):
            raise self.rejected("a tail is Accesses, as many gva (format Q) as kind (format B)")
        return part


@attrs.frozen
class _CheckedTail:
    """A tail of a plugin's reduced step, checked as it comes; the C loop takes only our own."""

    owner: IsolatedWorkload
    inner: Tail
    next_kept: int

    def lru_fixup(self) -> Accesses:
        """Return the accesses that bring the TLB's sets in order."""
        with errors_named_after(self.owner.plugin, self.owner.label):
            return self.owner.checked(self.inner.lru_fixup())

    def remaining(self) -> Iterator[Accesses]:
        """Yield its parts."""
        with errors_named_after(self.owner.plugin, self.owner.label):
            for part in self.inner.remaining():
                yield self.owner.checked(part)


def _fits(vas: Buffer, kinds: Buffer) -> bool:
    """Return whether an engine can take the buffers."""
    gva, kind = memoryview(vas), memoryview(kinds)
    return (gva.format, kind.format, len(gva)) == ("Q", "B", len(kind))
