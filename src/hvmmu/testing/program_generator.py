"""Random programs: operations drawn from a seed, the same on every Python."""

from __future__ import annotations

from typing import TYPE_CHECKING

from hvmmu.arch import pfec as pf
from hvmmu.arch import pte
from hvmmu.arch.regs import CR0_WP, CR4_PGE, CR4_PKE, CR4_SMAP, CR4_SMEP, EFER_NXE, CpuFeatures
from hvmmu.testing.guest_program import (
    ADDRESSES,
    DATA,
    INDICES,
    TABLES,
    WRITABLE,
    Access,
    InvalidatePage,
    LoadRoot,
    Operation,
    SetEntry,
    StoreThrough,
    Toggle,
    natural_level,
)

if TYPE_CHECKING:
    import random
    from collections.abc import Callable

STEPS = 100
"""The number of operations of a program, after those that it begins with."""

KINDS = [user | how for user in (0, pf.U) for how in (pf.READ, pf.WRITE, pf.FETCH)]
"""All access types."""

_FLAGS = (pte.P, pte.W, pte.U, pte.A, pte.D, pte.G, pte.NX)
_HOLE = 0x10_0000 << 12
_RESERVED = 1 << 50


def toggles(cpu: CpuFeatures) -> list[Toggle]:
    """Return the register bits that a program on this CPU flips; repeated ones are more likely."""
    flips = [Toggle("cr0", CR0_WP)] * 2 + [Toggle("cr4", CR4_PGE), Toggle("rflags_ac", 1)]
    if cpu.smep:
        flips += [Toggle("cr4", CR4_SMEP)]
    if cpu.smap:
        flips += [Toggle("cr4", CR4_SMAP)] * 2
    if cpu.pku:
        flips += [Toggle("cr4", CR4_PKE), Toggle("pkru", 1 << 2), Toggle("pkru", 1 << 3)]
    if cpu.nx:
        flips += [Toggle("efer", EFER_NXE)]
    return flips


class ProgramGenerator:
    """Draws the operations of one program for a machine with *cpu*.

    Each operation depends on those before: independent ones would map next to nothing.
    """

    def __init__(self, random: random.Random, cpu: CpuFeatures) -> None:
        self._random = random
        self._toggles = toggles(cpu)
        self._recent: list[int] = []
        self._last: Operation | None = None

    def program(self, steps: int = STEPS) -> list[Operation]:
        """Return a whole program: a start, and *steps* operations."""
        return self.start() + [self.operation() for _ in range(steps)]

    def start(self) -> list[Operation]:
        """Return table writes that map data under either root, as the start of a program."""
        below = {level: _tables(level) for level in (3, 2, 1)} | {0: list(DATA)}
        chance = self._random.random
        made: list[Operation] = [toggle for toggle in self._toggles if chance() < 0.3]
        for table in WRITABLE:
            frames = below[natural_level(table) - 1]
            for index in INDICES:
                gpte = frames[(table + index) % len(frames)] << 12 | pte.P | pte.U
                for bit, often in ((pte.W, 0.75), (pte.A, 0.6), (pte.D, 0.5)):
                    gpte |= bit if chance() < often else 0
                if chance() < 0.9:
                    made.append(SetEntry(table, index, gpte, by_page=True))
        return made

    def operation(self) -> Operation:
        """Return one operation; after a change of permissions, often an access that it affects."""
        choose = self._random.choice
        changed = isinstance(self._last, (Toggle, SetEntry))
        if self._recent and changed and self._random.random() < 0.6:
            self._last = Access(choose(self._recent[-3:]), choose(KINDS))
        else:
            self._last = self._any_operation()
        return self._last

    def _any_operation(self) -> Operation:
        choose = self._random.choice
        made: tuple[tuple[int, Callable[[], Operation]], ...] = (
            (10, lambda: Access(self._address(), choose(KINDS))),
            (7, self._set),
            (2, lambda: StoreThrough(self._address(), self._entry(1))),
            (1, lambda: InvalidatePage(self._address())),
            (1, lambda: LoadRoot(choose((0, 1)))),
            (2, lambda: choose(self._toggles)),
        )
        at = self._random.random() * sum(weight for weight, _ in made)
        for weight, make in made:
            at -= weight
            if at < 0:
                return make()
        return made[0][1]()

    def _set(self) -> Operation:
        choose = self._random.choice
        table = choose(WRITABLE)
        value = self._entry(natural_level(table))
        return SetEntry(table, choose(INDICES), value, choose((False, True)))

    def _address(self) -> int:
        """Return an address of the program, more often a recent one."""
        if self._recent and self._random.random() < 0.6:
            return self._random.choice(self._recent[-3:])
        self._recent.append(self._random.choice(ADDRESSES) + self._random.choice((0, 8, 16)))
        return self._recent[-1]

    def _flags(self, usual: int) -> int:
        """Return an entry's flags: usually those given, sometimes one changed, sometimes any."""
        how = self._random.random()
        if how < 0.5:
            return usual
        if how < 0.9:
            return usual ^ self._random.choice(_FLAGS)
        return sum(bit for bit in _FLAGS if self._random.random() < 0.5)

    def _entry(self, level: int) -> int:
        """Return an entry for a table used at *level*: mostly well-formed, sometimes anything."""
        usual = pte.P | pte.W | pte.U | pte.A
        choose = self._random.choice
        wild = self._random.random()
        if wild < 0.06:
            return choose((0, 0, _RESERVED | usual, _HOLE | usual, (1 << 64) - 1, 0xFF000))
        if wild < 0.14:
            return choose((*WRITABLE, *DATA)) << 12 | self._flags(usual | pte.D)
        key = choose((0, 0, 1 << pte.PKEY_SHIFT))
        if level == 1:
            return choose((*DATA, *TABLES[-4:])) << 12 | self._flags(usual | pte.D) | key
        if level == 2 and wild < 0.5:
            return choose((0, 1, 2, 3)) << 21 | pte.PS | self._flags(usual | pte.D) | key
        if level == 3 and wild < 0.2:
            return pte.PS | self._flags(usual | pte.D) | key
        return choose(_tables(level - 1)) << 12 | self._flags(usual)


def _tables(level: int) -> list[int]:
    return [frame for frame in TABLES if natural_level(frame) == level]


def shortest(
    program: list[Operation], fails: Callable[[list[Operation]], bool], most: int = 400
) -> list[Operation]:
    """Return a failing program without operations it need not have, after at most *most* tries."""
    size = len(program) // 2
    while size and most > 0:
        at = 0
        while at < len(program) and most > 0:
            less, most = program[:at] + program[at + size :], most - 1
            if fails(less):
                program = less
            else:
                at += size
        size //= 2
    return program
