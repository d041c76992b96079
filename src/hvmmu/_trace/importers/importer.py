"""The interface of a trace format that can be imported."""

from __future__ import annotations

from abc import ABC, abstractmethod
from typing import TYPE_CHECKING, ClassVar

if TYPE_CHECKING:
    from array import array
    from collections.abc import Iterator

    from hvmmu._trace.importers.stream import Stream


class Importer(ABC):
    """A trace format that can be imported."""

    name: ClassVar[str]
    summary: ClassVar[str]

    @abstractmethod
    def recognises(self, head: bytes) -> bool:
        """Return whether a trace that starts with *head*, decompressed, is of this format."""

    def provenance(self, head: bytes) -> str:
        """Return what a trace that starts with *head* says of its origin, as lines of key=value."""
        del head
        return ""

    @abstractmethod
    def accesses(
        self, stream: Stream, limit: int | None
    ) -> Iterator[tuple[array[int], array[int]]]:
        """Yield addresses and kinds, with STRADDLES set in the kind of a reference's second page.

        *limit* counts references. Raise TraceError at the first line or record that no such trace
        has.
        """
