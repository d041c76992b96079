"""The readers of a machine's event stream: C records, and hands full buffers over."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from hvmmu._core.binding import ffi, lib
from hvmmu.events import Event, EventKind
from hvmmu.fault import Cause, Route

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable

    from hvmmu.ledger import Ledger

    Reader = Callable[[Event], object]

_KINDS, _ROUTES, _CAUSES = tuple(EventKind), tuple(Route), tuple(Cause)
_NUMBER = {kind: number for number, kind in enumerate(EventKind)}


class EventStream:
    """The event stream of one machine; *ledger* has the names of exits.

    Readers see events in order, a buffer at a time: at the latest when the call into the machine
    that they happened in returns. Events that nobody subscribes to are not recorded.
    """

    def __init__(self, ledger: Ledger) -> None:
        self._ledger = ledger
        self.handle: Any = ffi.new("hv_events *")
        self._self = self.handle.self = ffi.new_handle(self)
        self._readers: list[tuple[frozenset[EventKind], Reader]] = []
        self._error: BaseException | None = None

    def subscribe(self, reader: Reader, kinds: Iterable[EventKind] = EventKind) -> None:
        """Have *reader* called with each event of these *kinds*, from now on."""
        self._readers.append((frozenset(kinds), reader))
        self._choose()

    def unsubscribe(self, reader: Reader) -> None:
        """Call *reader* no more."""
        self.deliver()
        self._readers = [(kinds, one) for kinds, one in self._readers if one != reader]
        self._choose()

    def _choose(self) -> None:
        self.handle.recorded = sum(
            {1 << _NUMBER[kind] for kinds, _ in self._readers for kind in kinds}
        )

    def deliver(self) -> None:
        """Hand all recorded events to their readers; raise what one of them has raised."""
        self.drain()
        if self._error is not None:
            error, self._error = self._error, None
            raise error

    def drain(self) -> None:
        """Hand all recorded events to their readers; an exception is kept for `deliver`."""
        handle = self.handle
        count, handle.count = handle.count, 0
        try:
            for event in [self._event(handle.buffer[at]) for at in range(count)]:
                for kinds, reader in self._readers:
                    if event.kind in kinds:
                        reader(event)
        except BaseException as error:  # noqa: BLE001 - raised again when C is out of the way
            self._error = error

    def _event(self, made: Any) -> Event:  # noqa: ANN401 - a struct of cffi's
        kind = _KINDS[made.kind]
        exit_, fault = kind is EventKind.EXIT, kind is EventKind.FAULT
        return Event(
            kind,
            gva=made.gva,
            gpa=made.gpa,
            hpa=made.hpa,
            value=made.value,
            pfec=made.pfec,
            level=made.level,
            size=0 if exit_ or fault else made.number,
            reason=self._ledger.exit_names[made.number] if exit_ else "",
            route=_ROUTES[made.number & 0xF] if fault else None,
            cause=_CAUSES[made.number >> 4] if fault else None,
        )


@ffi.def_extern()  # type: ignore[untyped-decorator]  # cffi's
def hv_call_events(handle: Any) -> None:  # noqa: ANN401 - cffi's
    """Take over a full buffer."""
    stream: EventStream = ffi.from_handle(handle)
    stream.drain()


assert _NUMBER[EventKind.EXIT] == lib.HV_EVENT_EXIT
