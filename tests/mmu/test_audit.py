"""The audit itself: each promise of the shadow's, broken on purpose, must be found broken."""

from __future__ import annotations

from types import SimpleNamespace
from typing import TYPE_CHECKING

import attrs
import pytest

from hvmmu.arch import pfec as pf
from hvmmu.arch import pte
from hvmmu.arch.regs import CR4_PKE, CR4_SMAP, CR4_SMEP
from hvmmu.errors import InvariantError
from hvmmu.spec.audit import audit

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from conftest import Bench

    from hvmmu.arch.role import Role
    from hvmmu.spte import Nonpresent

VA, RO_VA, TABLE_VA, ABSENT_VA = (0x7F00_0000_0000 + 0x1000 * n for n in range(4))
LARGE_VA, PIECES_VA = 0x7F00_0040_0000, 0x7F00_0060_0000
FRAME, LARGE = 0x10_0000, 8 << 20
RW, RO = pte.P | pte.W | pte.U, pte.P | pte.U
USED = pte.A | pte.D


@attrs.define
class Table:
    """A shadow page as the books have it."""

    gfn: int
    role: Role
    hpa: int
    parents: set[int]


class Books:
    """A copy of the MMU's books, in which things can be made wrong."""

    def __init__(self, bench: Bench) -> None:
        pages = bench.pages
        self.nonpresent: Nonpresent = pages.nonpresent
        self.tables = [Table(one.gfn, one.role, one.hpa, one.parents) for one in pages]
        self.leaves = set(pages.rmap.items())
        self.shadowed = {one.gfn for one in self.tables if not one.role.direct}
        self.regions = {gfn >> 9 for gfn in self.shadowed}
        self.rmap = self

    def __iter__(self) -> Iterator[Table]:
        """Yield the shadow pages."""
        return iter(self.tables)

    def items(self) -> set[tuple[int, int, int]]:
        """Return the leaves."""
        return self.leaves

    def is_table(self, gfn: int) -> bool:
        """Say whether a guest frame is shadowed as a table."""
        return gfn in self.shadowed

    def holds_table(self, gfn: int) -> bool:
        """Say whether a frame of the same 2 MiB is."""
        return gfn >> 9 in self.regions

    def on_the_way(self, bench: Bench, va: int, level: int = 1) -> Table:
        """Return the shadow page of *level* on the way to *va*."""
        hpa = bench.path(va)[4 - level] & -0x1000
        return next(table for table in self.tables if table.hpa == hpa)


def audit_of(bench: Bench, books: Books) -> None:
    """Hold the shadow against the guest's tables, and against these books."""
    audit(SimpleNamespace(pages=books), bench.slots)


@pytest.fixture
def sound(build: Callable[..., Bench]) -> Bench:
    """Return a bench with entries of every sort, in which nothing is wrong yet."""
    bench = build()
    bench.map(VA, FRAME | RW | USED)
    bench.map(RO_VA, FRAME | RO | pte.NX | pte.A)
    bench.map(TABLE_VA, (bench.slot(VA) & -0x1000) | RW | USED)
    bench.map(LARGE_VA, LARGE | RW | USED, level=2)
    bench.map(PIECES_VA, RO | USED, level=2)  # it has the guest's tables in it
    for va in (VA, RO_VA, TABLE_VA, LARGE_VA, PIECES_VA):
        bench.access(va, bench.READ)
    bench.audit()
    bench.sound = False
    return bench


def poke(bench: Bench, va: int, flip: int = 0, level: int = 1, value: int | None = None) -> None:
    """Change the shadow's entry of *level* for *va*, as nobody may."""
    sptep = bench.path(va)[4 - level]
    entry = bench.pages.entry(sptep) ^ flip if value is None else value
    bench.memory.store(sptep, entry)


def test_a_sound_shadow_passes(sound: Bench) -> None:
    """If wrong, the audit finds fault with what is right, and proves nothing."""
    sound.audit()
    audit_of(sound, Books(sound))


BREAKAGES = {
    "more than the path": (
        lambda b: poke(b, RO_VA, pte.NX),
        "allows more than the guest's path does",
    ),
    "user": (
        lambda b: b.slots.store(b.slot(VA), FRAME | RW & ~pte.U | USED),
        "allows more than the guest's path does",
    ),
    "clean": (
        lambda b: b.slots.store(b.slot(VA), FRAME | RW | pte.A),
        "while the guest's D is clear",
    ),
    "another frame": (lambda b: poke(b, VA, 0x1000), "maps gfn 0x101, and the guest's entry 0x100"),
    "key": (lambda b: poke(b, VA, 1 << pte.PKEY_SHIFT), "another protection key"),
    "gone": (lambda b: b.slots.store(b.slot(VA), 0), "not present or not accessed"),
    "not accessed": (
        lambda b: b.slots.store(b.slot(VA), FRAME | RW | pte.D),
        "not present or not accessed",
    ),
    "writable table": (lambda b: poke(b, TABLE_VA, pte.W), "lets writes through"),
    "notrap, but present": (
        lambda b: poke(b, VA, value=0),
        "notrap, and the guest's entry is 0x10",
    ),
    "notrap in a direct page": (lambda b: poke(b, PIECES_VA, value=0), "notrap, and the guest's"),
    "link that takes away": (
        lambda b: poke(b, VA, pte.W, level=3),
        "leave everything to its child",
    ),
    "link elsewhere": (
        lambda b: b.slots.store(b.slot(VA, 2), b.gpte(VA, 2) ^ pte.W),
        "links to Role",
    ),
    "leaf over a table": (
        lambda b: b.slots.store(b.slot(LARGE_VA, 2), b.gpte(VA, 2)),
        "a leaf, though the guest's entry leads to a table",
    ),
    "link to no page": (
        lambda b: poke(b, VA, 0x100_0000, level=2),
        "a link to no shadow page",
    ),
    "leaf that is none": (lambda b: poke(b, VA, value=b.TRAP), "the reverse map"),
}

MISTAKES = {
    "parents": (lambda b, books: books.on_the_way(b, VA).parents.clear(), "the parents noted"),
    "forgotten leaf": (lambda _, books: books.leaves.pop(), "the reverse map"),
    "unprotected table": (
        lambda b, books: books.shadowed.remove(books.on_the_way(b, VA).gfn),
        "not among the shadows of its table",
    ),
    "large page over a table": (
        lambda _, books: books.regions.add(LARGE >> 21),
        "lets writes through",
    ),
}
"""What may be wrong in the books."""


@pytest.mark.parametrize(("breakage", "rule"), BREAKAGES.values(), ids=BREAKAGES)
def test_each_breakage_is_found(
    sound: Bench, breakage: Callable[[Bench], object], rule: str
) -> None:
    """If wrong, the property tests pass over a shadow that lies."""
    breakage(sound)
    with pytest.raises(InvariantError, match=rule):
        sound.audit()


@pytest.mark.parametrize(("mistake", "rule"), MISTAKES.values(), ids=MISTAKES)
def test_each_mistake_in_the_books_is_found(
    sound: Bench, mistake: Callable[[Bench, Books], object], rule: str
) -> None:
    """If wrong, entries that the MMU has lost sight of go unseen until it is too late."""
    books = Books(sound)
    mistake(sound, books)
    with pytest.raises(InvariantError, match=rule):
        audit_of(sound, books)


def test_notrap_where_error_codes_are_hidden(build: Callable[..., Bench]) -> None:
    """If wrong, a bypass that shows the guest what it must not see is not found."""
    bench = build()
    bench.map(VA, FRAME | RW | USED)
    bench.load(cr4=CR4_SMAP, efer=0)
    bench.access(VA, bench.READ)
    bench.audit()
    bench.sound = False
    bench.memory.store(bench.path(VA)[-1] + 8, 0)
    with pytest.raises(InvariantError, match="or not its error code"):
        bench.audit()


@pytest.mark.parametrize(
    ("flip", "rule"),
    [
        (pte.U, "allows more than the guest's path does"),
        (pte.NX, "allows more than the guest's path does"),
        (pte.W, None),
    ],
)
def test_what_the_kernel_may_write(
    build: Callable[..., Bench], flip: int, rule: str | None
) -> None:
    """If wrong, a page lifted for the kernel may be left open to the user, or run by the kernel."""
    bench = build()
    bench.map(VA, FRAME | RO | USED)
    bench.load(cr0=0, cr4=CR4_SMEP)
    bench.access(VA, pf.WRITE)
    bench.audit()
    bench.sound = False
    poke(bench, VA, flip)
    if rule is None:
        bench.audit()
    else:
        with pytest.raises(InvariantError, match=rule):
            bench.audit()


def test_a_direct_page_of_another_key(build: Callable[..., Bench]) -> None:
    """If wrong, pieces of a large page may have another key, or be writable while it is clean.

    D set through another path may leave their role behind, but then nothing in it is writable.
    """
    bench = build(large_pages=False)
    bench.map(VA, LARGE | RW | USED | 1 << pte.PKEY_SHIFT, level=2)
    bench.load(cr4=CR4_PKE)
    bench.access(VA, bench.WRITE)
    bench.audit()
    bench.sound = False
    books = Books(bench)
    direct = books.on_the_way(bench, VA)
    dirty, keyed = direct.role.replace(dirty=False), direct.role.replace(pkey=2)
    for role, rule in ((keyed, "links to Role"), (dirty, "while the guest's D is clear")):
        direct.role = role
        with pytest.raises(InvariantError, match=rule):
            audit_of(bench, books)
    poke(bench, VA, pte.W)
    audit_of(bench, books)
