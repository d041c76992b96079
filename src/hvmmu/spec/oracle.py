"""What 4-level paging does with one access: the manual's rules again, in other words.

Written from SDM "4-Level Paging and 5-Level Paging", "Access Rights", "Protection Keys",
"Page-Fault Exceptions" and "Accessed and Dirty Flags", apart from the walk that hardware and the
hypervisor share: a mistake there must not hide here.
"""

from __future__ import annotations

import attrs

PRESENT, WRITABLE, USER, ACCESSED, DIRTY = (1 << n for n in (0, 1, 2, 5, 6))
NO_EXECUTE = 1 << 63


@attrs.frozen
class Mode:
    """The controls that page faults depend on."""

    wp: bool = True
    nxe: bool = True
    smep: bool = False
    smap: bool = False
    ac: bool = False
    pke: bool = False
    access_disable: bool = False
    """AD in PKRU, for the key of every page."""
    write_disable: bool = False
    """WD likewise."""


@attrs.frozen
class Made:
    """An access as the CPU makes it."""

    write: bool = False
    user: bool = False
    fetch: bool = False

    @property
    def kind(self) -> int:
        """The access in the bits of an error code."""
        return self.write << 1 | self.user << 2 | self.fetch << 4


ACCESSES = (
    Made(),
    Made(write=True),
    Made(fetch=True),
    Made(user=True),
    Made(user=True, write=True),
    Made(user=True, fetch=True),
)


@attrs.frozen
class Expected:
    """What an access must come to."""

    code: int | None
    """The error code of the page fault, None if there is none."""
    entries: tuple[int, ...]
    """The entries after it, from the root down."""


def expected(entries: tuple[int, ...], access: Made, mode: Mode, reserved: int) -> Expected:
    """Return what an access through *entries*, root first, comes to.

    *reserved* are the bits that are reserved in each of them.
    """
    for entry in entries:
        if not entry & PRESENT:
            return Expected(_code(access, mode), entries)
        if entry & (reserved | (0 if mode.nxe else NO_EXECUTE)):
            return Expected(_code(access, mode, present=True, rsvd=True), entries)
    rights = _Rights(entries, mode)
    keyed = rights.user_page and not access.fetch and _key_forbids(access, mode)
    if keyed or not rights.allow(access):
        return Expected(_code(access, mode, present=True, key=keyed), entries)
    after = [entry | ACCESSED for entry in entries]
    if access.write:
        after[-1] |= DIRTY
    return Expected(None, tuple(after))


class _Rights:
    """SDM "Access Rights", sentence by sentence."""

    def __init__(self, entries: tuple[int, ...], mode: Mode) -> None:
        self._mode = mode
        self.user_page = all(entry & USER for entry in entries)
        self._writable = all(entry & WRITABLE for entry in entries)
        self._execute = not (mode.nxe and any(entry & NO_EXECUTE for entry in entries))

    def allow(self, access: Made) -> bool:
        if access.user:
            return self._user(access)
        return self._supervisor(access)

    def _user(self, access: Made) -> bool:
        """User-mode accesses: only to user-mode addresses."""
        if not self.user_page:
            return False
        if access.fetch:
            return self._execute
        return self._writable if access.write else True

    def _supervisor(self, access: Made) -> bool:
        """Supervisor-mode accesses: SMAP guards data, SMEP guards instructions."""
        mode = self._mode
        if access.fetch:
            return self._execute and not (self.user_page and mode.smep)
        if self.user_page and mode.smap and not mode.ac:
            return False
        return self._writable or not mode.wp if access.write else True


def _key_forbids(access: Made, mode: Mode) -> bool:
    """SDM "Protection Keys": they govern data accesses to user-mode addresses."""
    if not mode.pke:
        return False
    if mode.access_disable:
        return True
    return mode.write_disable and access.write and (access.user or mode.wp)


def _code(
    access: Made, mode: Mode, *, present: bool = False, rsvd: bool = False, key: bool = False
) -> int:
    """SDM "Page-Fault Exceptions": I/D is there only with NX or SMEP in force."""
    fetch = access.fetch and (mode.nxe or mode.smep)
    return present << 0 | access.write << 1 | access.user << 2 | rsvd << 3 | fetch << 4 | key << 5
