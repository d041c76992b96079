"""The event stream of a machine: what happens in it, in order, as values."""

import enum

from attrs import frozen

from hvmmu.fault import Cause, Route


class EventKind(enum.Enum):
    """Kinds of event; the fields named are those that an event of the kind has."""

    EXIT = "exit"
    """The guest exits: *reason*; of a page fault *gva* and *pfec*, else *value*, the operand."""
    ENTRY = "entry"
    """The hypervisor enters the guest: *size* is 1 if it performs a flush."""
    FAULT = "fault"
    """A page fault was routed: *gva*, *gpa* if known, *pfec*, *level*, *route*, *cause*."""
    INJECT = "inject"
    """The hypervisor injects a page fault: *gva*, and the guest's *pfec*."""
    TABLE_WRITE = "page-table write"
    """A guest's store is emulated: *gpa*, *value*, and *size* in bytes."""
    SHADOW_PAGE = "shadow page made"
    """A shadow page is made: *hpa*, the guest table's *gpa*, *level*, and its role in *value*."""
    SPTE = "entry set"
    """A shadow entry is set: *hpa*, *level*, and the entry in *value*."""
    ZAP = "zap"
    """A shadow page (*size* 512) or a shadow entry (*size* 1) is zapped: *hpa*, *level*."""
    WALK = "walk"
    """The hypervisor walks the guest's tables: *gva*, *level*, *size* entries read, the *gpa*
    reached, or *pfec* of the fault that the walk ends in."""


@frozen(eq=True)
class Event:
    """One event; a field that its kind does not have is 0, empty or None."""

    kind: EventKind
    gva: int = 0
    gpa: int = 0
    hpa: int = 0
    value: int = 0
    pfec: int = 0
    level: int = 0
    size: int = 0
    reason: str = ""
    """The vendor's name of an exit."""
    route: Route | None = None
    cause: Cause | None = None
