"""Page-fault error code bits, as ints: SDM "Page-Fault Exceptions", APM "#PF—Page-Fault Exception".

An access *kind* is the part of an error code that the access itself decides: W, U and ID.
"""

P = 1 << 0
"""The fault came from a present entry (permission or reserved bits), not from an absent one."""
W = 1 << 1
"""The access was a write."""
U = 1 << 2
"""The access was made in user mode (CPL 3)."""
RSVD = 1 << 3
"""A reserved bit was set in some present entry; implies P."""
ID = 1 << 4
"""The access was an instruction fetch, reported only if EFER.NXE or CR4.SMEP is set."""
PK = 1 << 5
"""PKRU disallowed the access."""
SS = 1 << 6
"""The access was a shadow-stack access."""
SGX = 1 << 15
"""The fault was SGX's own."""

KIND = W | U | ID
"""The bits an access brings; all others are found by the walk."""

READ, WRITE, FETCH = 0, W, ID
"""Supervisor kinds; add U for user mode."""
USER_READ, USER_WRITE, USER_FETCH = U | READ, U | WRITE, U | FETCH
"""The kinds of a program's accesses."""

_NAMES = (
    (P, "P"),
    (W, "W"),
    (U, "U"),
    (RSVD, "RSVD"),
    (ID, "ID"),
    (PK, "PK"),
    (SS, "SS"),
    (SGX, "SGX"),
)


def describe(pfec: int) -> str:
    """Spell an error code for people: ``0x6`` is ``W|U``, 0 is ``-``."""
    known = [name for bit, name in _NAMES if pfec & bit]
    rest = pfec & ~sum(bit for bit, _ in _NAMES)
    if rest:
        known.append(hex(rest))
    return "|".join(known) or "-"
