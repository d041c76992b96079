"""The audit: every promise the shadow tables make, checked entry by entry against the guest's.

It reads and never writes, and knows nothing of how the tables came to be.
"""

from collections.abc import Iterable, Iterator
from typing import NoReturn, Protocol

import attrs

from hvmmu.arch import pfec as pf
from hvmmu.arch import pte
from hvmmu.arch.role import Role
from hvmmu.errors import InvariantError
from hvmmu.memory import Memslots
from hvmmu.spte import LINK, Nonpresent, access_of
from hvmmu.types import ENTRIES, PAGE_SHIFT

_FRAMES = {1: 1, 2: 512, 3: 512 * 512}
"""Frames that one entry of a level maps."""


class ShadowTable(Protocol):
    """A shadow page as the books have it."""

    @property
    def gfn(self) -> int:
        """The guest table that it stands for, or the first frame that it maps if it is direct."""
        ...

    @property
    def role(self) -> Role:
        """The rest of what its entries follow from."""
        ...

    @property
    def hpa(self) -> int:
        """Where its 512 entries lie."""
        ...

    @property
    def parents(self) -> Iterable[int]:
        """Where the entries that link to it lie."""
        ...


class ReverseMap(Protocol):
    """The leaves there are, as the books have them."""

    def items(self) -> Iterable[tuple[int, int, int]]:
        """Return gfn, place (hpa) and level of each."""
        ...


class Books(Protocol):
    """A shadow MMU's books about its tables."""

    @property
    def nonpresent(self) -> Nonpresent:
        """The values of an entry that maps nothing."""
        ...

    @property
    def rmap(self) -> ReverseMap:
        """The reverse map."""
        ...

    def __iter__(self) -> Iterator[ShadowTable]:
        """Yield the shadow pages."""
        ...

    def is_table(self, gfn: int) -> bool:
        """Say whether *gfn* is write-protected as a page table."""
        ...

    def holds_table(self, gfn: int) -> bool:
        """Say whether any frame of the 2 MiB around *gfn* is."""
        ...


class Shadow(Protocol):
    """A shadow MMU, for an audit."""

    @property
    def pages(self) -> Books:
        """Its books."""
        ...


@attrs.frozen
class _Promise:
    """What the guest's tables allow one shadow entry to be, at most."""

    gfn: int
    """The frame that the entry's own span begins with, or the guest table it may link to."""
    access: int
    dirty: bool
    leaf: bool
    """The guest's entry is a leaf (or lies inside one)."""
    pkey: int


def audit(mmu: Shadow, slots: Memslots) -> None:
    """Raise InvariantError, naming entry and rule, where the shadow breaks a promise."""
    _Audit(mmu, slots).run()


class _Audit:
    """One pass over all shadow pages, collecting what the books should say."""

    def __init__(self, mmu: Shadow, slots: Memslots) -> None:
        self._books, self._slots, self._words = mmu.pages, slots, slots.memory.u64
        self._nonpresent = mmu.pages.nonpresent
        self._pages = {page.hpa: page for page in mmu.pages}
        self._parents: dict[int, set[int]] = {hpa: set() for hpa in self._pages}
        self._leaves: set[tuple[int, int, int]] = set()

    def run(self) -> None:
        for page in self._pages.values():
            self._page(page)
        for page in self._pages.values():
            if set(page.parents) != self._parents[page.hpa]:
                self._fail(page.hpa, "the parents noted are not the entries that link to the page")
        if set(self._books.rmap.items()) != self._leaves:
            self._fail(0, "the reverse map does not name exactly the leaves there are")

    def _entries(self, page: ShadowTable) -> list[int]:
        first = page.hpa >> 3
        return self._words[first : first + ENTRIES].tolist()

    def _page(self, page: ShadowTable) -> None:
        trap, notrap = self._nonpresent.trap, self._nonpresent.notrap
        if not page.role.direct and not self._books.is_table(page.gfn):
            self._fail(page.hpa, "its page is not among the shadows of its table")
        guest_only = page.role.bypassable and not page.role.direct
        pairs = zip(self._entries(page), self._slots.table(page.gfn), strict=True)
        for at, (spte, gpte) in enumerate(pairs):
            if spte == trap:
                continue
            sptep = page.hpa + 8 * at
            if spte != notrap:
                self._present(page, sptep, spte, gpte)
            elif gpte & pte.P or not guest_only:
                self._fail(
                    sptep,
                    f"notrap, and the guest's entry is {gpte:#x}: the guest must not"
                    " see this fault, or not its error code",
                )

    def _present(self, page: ShadowTable, sptep: int, spte: int, gpte: int) -> None:
        promise = self._promise(page, sptep, gpte)
        if spte & pte.PS or page.role.level == 1:
            self._leaf(page, sptep, spte, promise)
            return
        child = self._pages.get(spte & pte.ADDRESS)
        if child is None:
            self._fail(sptep, "a link to no shadow page")
        self._link(page.role, sptep, spte, child, promise)

    def _promise(self, page: ShadowTable, sptep: int, gpte: int) -> _Promise:
        at = (sptep & 0xFFF) // 8
        role = page.role
        if role.direct:
            gfn = page.gfn + at * _FRAMES[role.level]
            return _Promise(gfn, role.access, dirty=role.dirty, leaf=True, pkey=role.pkey)
        if not gpte & pte.P or not gpte & pte.A:
            self._fail(sptep, "present, though the guest's entry is not present or not accessed")
        leaf = role.level == 1 or bool(gpte & pte.PS)
        pkey = gpte >> pte.PKEY_SHIFT & 0xF if role.pke and leaf else 0
        access = role.access & access_of(gpte)
        gfn = (gpte & pte.ADDRESS) >> PAGE_SHIFT
        if leaf:
            gfn &= -_FRAMES[role.level]
        return _Promise(gfn, access, dirty=bool(gpte & pte.D), leaf=leaf, pkey=pkey)

    def _link(
        self, role: Role, sptep: int, spte: int, child: ShadowTable, promise: _Promise
    ) -> None:
        self._parents[child.hpa].add(sptep)
        if spte & ~pte.ADDRESS != LINK:
            self._fail(sptep, "a link does not leave everything to its child")
        expected = role.replace(
            level=role.level - 1,
            direct=promise.leaf,
            access=promise.access,
            pkey=promise.pkey if promise.leaf else 0,
            dirty=promise.dirty and promise.leaf,
        )
        # D set through another path makes the child's role lag behind; it must never lead.
        lagging = expected.replace(dirty=False)
        if child.gfn != promise.gfn or child.role not in (expected, lagging):
            self._fail(sptep, f"links to {child.role}, and the guest's entry asks for {expected}")

    def _leaf(self, page: ShadowTable, sptep: int, spte: int, promise: _Promise) -> None:
        level = page.role.level
        if not promise.leaf:
            self._fail(sptep, "a leaf, though the guest's entry leads to a table")
        gfn = self._slots.gpa(spte & pte.ADDRESS) >> PAGE_SHIFT
        self._leaves.add((gfn, sptep, level))
        if gfn != promise.gfn:
            self._fail(sptep, f"maps gfn {gfn:#x}, and the guest's entry {promise.gfn:#x}")
        if spte >> pte.PKEY_SHIFT & 0xF != promise.pkey:
            self._fail(sptep, "carries another protection key than the guest's entry")
        self._leaf_access(page.role, sptep, spte, promise)
        tables = self._books.holds_table(gfn) if level == 2 else self._books.is_table(gfn)
        if spte & pte.W and tables:
            self._fail(sptep, "lets writes through to a shadowed page table")

    def _leaf_access(self, role: Role, sptep: int, spte: int, promise: _Promise) -> None:
        if role.deprivileged:
            self._leaf_of_one_privilege(role, sptep, spte, promise)
        elif access_of(spte) & ~self._allowed(role, spte, promise):
            self._fail(sptep, "allows more than the guest's path does")
        if spte & pte.W and not promise.dirty:
            self._fail(sptep, "lets a write through while the guest's D is clear")

    def _leaf_of_one_privilege(self, role: Role, sptep: int, spte: int, promise: _Promise) -> None:
        """Hold a leaf of one of a deprivileged guest's two roots against that privilege."""
        if not spte & pte.U:
            self._fail(sptep, "a supervisor's leaf, and hardware runs all of the guest as user")
        if role.user and not promise.access & pf.U:
            self._fail(sptep, "maps a supervisor page in the root for the guest's user mode")
        write = pf.W if not role.user and not role.cr0_wp else 0
        if access_of(spte) & ~(promise.access | pf.U | write):
            self._fail(sptep, "allows more than the guest's path does")

    def _allowed(self, role: Role, spte: int, promise: _Promise) -> int:
        allowed = promise.access
        lifted = not role.cr0_wp and not allowed & pf.W and spte & pte.W
        if lifted and not spte & pte.U:
            # A supervisor's write while CR0.WP is clear; SMEP must then find the page no-execute.
            allowed |= pf.W
            if role.smep_andnot_wp and promise.access & pf.U:
                allowed &= ~pf.ID
        return allowed

    def _fail(self, sptep: int, rule: str) -> NoReturn:
        raise InvariantError(f"shadow entry at {sptep:#x} ({self._words[sptep >> 3]:#x}): {rule}")
