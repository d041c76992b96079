"""Entry bits common to every format, and the bits that our own entries use."""

P = 1 << 0
W = 1 << 1
U = 1 << 2
PWT = 1 << 3
PCD = 1 << 4
A = 1 << 5
D = 1 << 6
PS = 1 << 7
"""In an entry above level 1: the entry maps a page. At level 1 the same bit is PAT."""
G = 1 << 8
PAT_LARGE = 1 << 12
NX = 1 << 63

PKEY_SHIFT = 59
PKEY = 0xF << PKEY_SHIFT
"""Protection key, bits 62:59 of a leaf; ignored unless CR4.PKE is set."""

ADDRESS = 0x000F_FFFF_FFFF_F000
"""Bits 51:12: the frame that a 64-bit entry names, before MAXPHYADDR narrows it."""


def describe(entry: int) -> str:
    """Spell an entry for people: ``0x1000 P|W|U|A``."""
    names = ((P, "P"), (W, "W"), (U, "U"), (A, "A"), (D, "D"), (PS, "PS"), (G, "G"), (NX, "NX"))
    bits = "|".join(name for bit, name in names if entry & bit) or "-"
    return f"{entry & ADDRESS:#x} {bits}"
