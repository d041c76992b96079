"""What a format is that compact traces are imported from."""

from __future__ import annotations

from abc import ABC, abstractmethod
from typing import TYPE_CHECKING, ClassVar

if TYPE_CHECKING:
    from array import array
    from collections.abc import Iterator

    from hvmmu._trace.importers.stream import Stream


class Source(ABC):
    """A format that is imported."""

    name: ClassVar[str]
    summary: ClassVar[str]

    @abstractmethod
    def recognises(self, head: bytes) -> bool:
        """Return whether a trace that starts with *head*, unpacked, is of this format."""

    def words(self, head: bytes) -> str:
        """Return what a trace that starts so tells about its origin, as lines of key=value."""
        del head
        return ""

    @abstractmethod
    def accesses(
        self, stream: Stream, limit: int | None
    ) -> Iterator[tuple[array[int], array[int]]]:
        """Yield addresses and kinds, SECOND set where a reference goes on in its second page.

        *limit* counts references. Raise TraceError at what no such trace holds.
        """
