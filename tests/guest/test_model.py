"""Random programs against a dict: what each process reads is what it, and nobody else, wrote."""

from __future__ import annotations

from typing import TYPE_CHECKING

import attrs
from hypothesis import given, settings
from hypothesis import strategies as st

from hvmmu.arch import pte
from hvmmu.steps import Backing, ExitProcess

if TYPE_CHECKING:
    from collections.abc import Callable

    from conftest import Guest

PAGES = [0, 1, 2, 3, 510, 511, 512, 513]
"""The pages that programs play with: two page tables' worth of neighbours."""

page, count, prot = st.sampled_from(PAGES), st.integers(1, 4), st.sampled_from([0, 1, 3, 5, 7])
operation = st.one_of(
    st.tuples(st.just("mmap"), page, count, prot, st.sampled_from(list(Backing))),
    st.tuples(st.just("munmap"), page, count),
    st.tuples(st.just("mprotect"), page, count, prot),
    st.tuples(st.sampled_from(["fork", "switch", "exit"]), st.integers(1, 3)),
    st.tuples(st.sampled_from(["READ", "WRITE", "FETCH"]), page),
    st.tuples(st.sampled_from(["READ", "WRITE", "FETCH"]), page),
)


@attrs.define
class Model:
    """What must be mapped: by process, then by page, [prot, value]."""

    guest: Guest
    nx: bool
    current: int = 1
    processes: dict[int, dict[int, list[int]]] = attrs.Factory(lambda: {1: {}})
    writes: int = 0

    @property
    def mapped(self) -> dict[int, list[int]]:
        """Return what the current process has mapped."""
        return self.processes[self.current]

    def mmap(self, page: int, count: int, prot: int, backing: Backing) -> None:
        """Map what is free."""
        if not self.mapped.keys() & range(page, page + count):
            self.guest.mmap(count, prot, backing, page)
            self.mapped.update({p: [prot, 0] for p in range(page, page + count)})

    def munmap(self, page: int, count: int) -> None:
        """Unmap."""
        self.guest.munmap(count, page)
        for p in range(page, page + count):
            self.mapped.pop(p, None)

    def mprotect(self, page: int, count: int, prot: int) -> None:
        """Protect what is wholly mapped."""
        if self.mapped.keys() >= set(range(page, page + count)):
            self.guest.mprotect(count, prot, page)
            for p in range(page, page + count):
                self.mapped[p][0] = prot

    def fork(self, pid: int) -> None:
        """Copy the current process."""
        if pid not in self.processes:
            self.guest.fork(pid)
            self.processes[pid] = {p: list(state) for p, state in self.mapped.items()}

    def switch(self, pid: int) -> None:
        """Change the current process."""
        if pid in self.processes:
            self.guest.switch(pid)
            self.current = pid

    def exit(self, pid: int) -> None:
        """End a process that is not current."""
        if pid in self.processes and pid != self.current:
            self.guest.os.step(ExitProcess(pid))
            del self.processes[pid]

    def access(self, name: str, page: int) -> None:
        """Access a page if that is legal, and check what a read met."""
        prot, value = self.mapped.get(page, (0, 0))
        needed = {"READ": 7, "WRITE": 2, "FETCH": 4 if self.nx else 7}[name]
        if not prot & needed:
            return
        if name == "FETCH" and not self.nx:
            name = "READ"
        met = self.guest.touch(getattr(self.guest, name), page)
        if name == "WRITE":
            self.writes += 1
            self.mapped[page][1] = self.writes
        else:
            assert met == [value], f"process {self.current} page {page}"

    def check_entries(self) -> None:
        """Compare the loaded tables with what must be mapped: never more than prot allows."""
        for p in range(520):
            entry, prot = self.guest.entry(p), self.mapped.get(p, [None])[0]
            assert not (prot is None and entry)
            assert not (entry & pte.P and not prot)
            assert not (entry & pte.W and not prot & 2)
            assert not (self.nx and entry & pte.P and not entry & pte.NX and not prot & 4)


@settings(max_examples=60, deadline=None)
@given(st.lists(operation, max_size=60), st.booleans(), st.booleans())
def test_random_programs_see_only_their_own_writes(
    boot: Callable[..., Guest], program: list[tuple[object, ...]], nx: bool, accessed_dirty: bool
) -> None:
    """If wrong: a flush is missing, a copy-on-write leaks, a frame is freed too early or never.

    Or the kernel's books tell other than what its tables in memory do.
    """
    guest = boot(nx=nx, accessed_dirty=accessed_dirty)
    start = guest.in_use()
    model = Model(guest, nx)
    for name, *arguments in program:
        if name in ("READ", "WRITE", "FETCH"):
            model.access(name, *arguments)
        else:
            getattr(model, name)(*arguments)
        model.check_entries()
        guest.check_books()
    assert sum(guest.os.counters.values()) == guest.os.faults
    for pid in sorted(model.processes.keys() - {model.current}):
        model.exit(pid)
    guest.munmap(600)
    assert guest.in_use() == start
